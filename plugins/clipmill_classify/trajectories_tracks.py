"""Points tracked through frames by optical flow, and what is seen along each track.

Follows Wang, Klaeser, Schmid and Liu (2013): points on a grid where there is texture, moved by the
median of the flow; along each the shape of its path, and histograms of gradients (HOG), of flow
(HOF) and of the flow's own gradients (MBH, both components). Free of torch; knows no plugin.

Legend: T frames, H height, W width, P points, L steps of a track, N bins, C cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BINS = 8  # of orientation
CELLS = 2  # of a patch, along each side
SPANS = 3  # of a track, along time
LEAST_TEXTURE = 0.001  # of the frame's most textured point
STILL_FLOW = 0.4  # pixels a step: slower flow has a bin of its own
LARGEST_SHARE = 0.7  # of a whole path in one step: such a track has jumped
SCALE = 2**-0.5  # from one scale to the next
SMALLEST_PATCHES = 1.5  # a scale must be so many patches wide
MEDIAN = 5  # side of the window of flow, in pixels


@dataclass(frozen=True)
class Tracking:
    """How points are chosen and followed."""

    step: int  # pixels from one point to the next
    length: int  # steps of a track
    patch: int  # side of the square around a point, in pixels
    scales: int
    least_motion: float  # pixels from one end of a path to its farthest point

    @property
    def kinds(self) -> dict[str, int]:
        """What is told of a track, by how many numbers."""
        cells = CELLS * CELLS * SPANS
        return {
            "path": 2 * self.length, "hog": BINS * cells, "hof": (BINS + 1) * cells,
            "mbh_x": BINS * cells, "mbh_y": BINS * cells,
        }  # fmt: skip


def described(frames_THW3: NDArray[np.uint8], flow_THW2: Floats, asked: Tracking) -> Floats:
    """What is told of each track of a clip: [tracks, the sum of `kinds`]; flow is in pixels."""
    cv2 = _cv2()
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_THW3])
    told = [np.empty((0, sum(asked.kinds.values())), np.float32)]
    for scale in range(asked.scales):
        shrunk = _shrunk(grey, flow_THW2, SCALE**scale)
        if min(shrunk[0].shape[1:]) < SMALLEST_PATCHES * asked.patch and scale:
            break
        told += _of_scale(*shrunk, asked)
    return np.concatenate(told)


def _shrunk(
    grey: NDArray[np.uint8], flow: Floats, share: float
) -> tuple[NDArray[np.uint8], Floats]:
    if share == 1:
        return grey, flow
    cv2 = _cv2()
    size = round(grey.shape[2] * share), round(grey.shape[1] * share)
    smaller = [cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (*grey, *flow)]
    return np.stack(smaller[: len(grey)]), np.stack(smaller[len(grey) :]) * np.float32(share)


def _of_scale(grey: NDArray[np.uint8], flow: Floats, asked: Tracking) -> list[Floats]:
    smooth, told = _median(flow), list[Floats]()
    for first in range(0, len(flow) - asked.length + 1, asked.length):
        window = slice(first, first + asked.length)
        path_LP2 = _followed(_textured(grey[first], asked.step), smooth[window])
        path_LP2 = path_LP2[:, _is_good(path_LP2, grey.shape[1:], asked.least_motion)]
        if path_LP2.shape[1]:
            seen = _along(path_LP2[:-1], grey[window], flow[window], asked.patch)
            told.append(np.concatenate([_path_shape(path_LP2), seen], 1))
    return told


# --- paths


def _median(flow: Floats) -> Floats:
    cv2 = _cv2()
    planes = [
        [cv2.medianBlur(np.ascontiguousarray(each[..., axis]), MEDIAN) for axis in (0, 1)]
        for each in flow
    ]
    return np.moveaxis(np.array(planes, np.float32), 1, -1)


def _textured(grey: NDArray[np.uint8], step: int) -> Floats:
    """Points of a grid where there is something to follow: [P, 2], x before y."""
    cv2 = _cv2()
    texture = cv2.cornerMinEigenVal(grey, 3)
    rows, columns = np.mgrid[step // 2 : grey.shape[0] : step, step // 2 : grey.shape[1] : step]
    kept = texture[rows, columns] > LEAST_TEXTURE * texture.max()
    return np.stack([columns[kept], rows[kept]], 1).astype(np.float32)


def _followed(points_P2: Floats, flow: Floats) -> Floats:
    """The places of points over time: [L + 1, P, 2]."""
    places = [points_P2]
    for field in flow:
        x, y = _within(places[-1], flow.shape[1], flow.shape[2])
        places.append(places[-1] + field[y, x])
    return np.stack(places)


def _within(points_P2: Floats, height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    whole = np.rint(points_P2).astype(np.int64)
    return np.clip(whole[:, 0], 0, width - 1), np.clip(whole[:, 1], 0, height - 1)


def _is_good(path: Floats, shape: tuple[int, ...], least_motion: float) -> NDArray[np.bool_]:
    """Which paths stay within the picture, move at all, and never jump."""
    inside = ((path >= 0) & (path <= np.array(shape[::-1]) - 1)).all((0, 2))
    away = np.linalg.norm(path - path[:1], axis=2).max(0)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2)
    jumps = steps.max(0) > LARGEST_SHARE * steps.sum(0)
    good: NDArray[np.bool_] = inside & (away >= least_motion) & (~jumps | (len(steps) < 3))
    return good


def _path_shape(path: Floats) -> Floats:
    """Each step by the length of the whole path: [P, 2 L]."""
    steps_LP2 = np.diff(path, axis=0)
    total_P = np.linalg.norm(steps_LP2, axis=2).sum(0)
    shape: Floats = (steps_LP2 / np.maximum(total_P, 1e-6)[:, None]).transpose(1, 0, 2)
    return shape.reshape(len(total_P), -1)


# --- histograms


def _along(path_LP2: Floats, grey: NDArray[np.uint8], flow: Floats, patch: int) -> Floats:
    """Histograms of the cells of each track, of each kind together of length 1: [P, numbers]."""
    steps = [
        _cells(places, _kinds(picture, field), patch)
        for places, picture, field in zip(path_LP2, grey, flow, strict=True)
    ]
    return np.concatenate([_rooted(np.stack(kind)) for kind in zip(*steps, strict=True)], 1)


def _kinds(picture: NDArray[np.uint8], field: Floats) -> list[Floats]:
    """Gradients, flow, and gradients of both components of flow, by direction: [N, H, W] each."""
    x, y = (np.ascontiguousarray(field[..., axis]) for axis in (0, 1))
    return [
        _binned(*_gradient(picture.astype(np.float32))),
        _binned(x, y, still=STILL_FLOW),
        _binned(*_gradient(x)),
        _binned(*_gradient(y)),
    ]


def _gradient(plane: Floats) -> tuple[Floats, Floats]:
    cv2 = _cv2()
    return (
        cv2.Sobel(plane, cv2.CV_32F, 1, 0, ksize=1),
        cv2.Sobel(plane, cv2.CV_32F, 0, 1, ksize=1),
    )


def _binned(x: Floats, y: Floats, still: float | None = None) -> Floats:
    """Part each vector's length between the two bins next to its direction: [N, H, W].

    What is slower than `still` counts 1 in a last bin instead.
    """
    cv2 = _cv2()
    length, angle = cv2.cartToPolar(x, y)
    place = angle * np.float32(BINS / (2 * np.pi))
    moving = length if still is None else np.where(length > still, length, np.float32(0))
    bins = np.empty((BINS + (still is not None), *x.shape), np.float32)
    for number in range(BINS):
        away = np.abs(place - number)
        bins[number] = np.maximum(1 - np.minimum(away, BINS - away), 0) * moving
    if still is not None:
        bins[BINS] = length <= still
    return bins


def _cells(places_P2: Floats, kinds: list[Floats], patch: int) -> list[Floats]:
    """Sum each kind's bins over the cells around each point: [P, cells x bins] each."""
    cv2 = _cv2()
    height, width = kinds[0].shape[1:]
    edges = np.rint(np.linspace(-patch / 2, patch / 2, CELLS + 1)).astype(np.int64)
    whole = np.rint(places_P2).astype(np.int64)
    x_PE = np.clip(whole[:, :1] + edges, 0, width)
    y_PE = np.clip(whole[:, 1:] + edges, 0, height)
    told = []
    for bins in kinds:
        sums = np.stack([cv2.integral(plane, sdepth=cv2.CV_64F) for plane in bins])
        corners = sums[:, y_PE[:, :, None], x_PE[:, None, :]]  # [N, P, E, E]
        cells = np.diff(np.diff(corners, axis=2), axis=3)
        told.append(np.moveaxis(cells, 0, -1).reshape(len(whole), -1).astype(np.float32))
    return told


def _rooted(cells_LPX: Floats) -> Floats:
    """The mean over each part of a track's time; the roots of its shares of all."""
    spans = np.stack([part.mean(0) for part in np.array_split(cells_LPX, SPANS)], 1)
    flat = np.maximum(spans.reshape(len(spans), -1), 0)
    # The root of shares, as for SIFT, makes the largest bins weigh less.
    root: Floats = np.sqrt(flat / np.maximum(flat.sum(1, keepdims=True), 1e-6))
    return root


def _cv2() -> Any:
    import cv2  # takes a while to load

    cv2.setNumThreads(1)  # clips are decoded side by side
    return cv2
