"""What moves in a clip: dense optical flow, and masks of what moves otherwise than the camera.

Frames in, arrays out; knows nothing of videos. Flow is found by Dense Inverse Search (Kroeger et
al., 2016) in one thread.
"""

from types import ModuleType

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]

FLOW_STEPS_A_PIXEL = 8  # flow is stored in eighths of a pixel, up to 127 of them
SMALLEST_SIDE = 16  # pixels; the coarsest look needs so many
FINEST_SCALE = 1  # halves; the preset's quarters are too coarse for frames of some 100 pixels
CAMERA_ROUNDS = 4  # of fitting the camera to what does not disagree with it
CAMERA_POINTS = 4096  # of a picture, evenly spread, are enough for six numbers


def flow(frames: Pixels) -> npt.NDArray[np.int8]:
    """Give where each pixel of a frame goes in the next: int8 [T-1, H, W, 2], x before y.

    In eighths of a pixel, rounded; what goes further than 127 of them is cut to that.
    """
    return in_steps(flow_vectors(frames))


def flow_vectors(frames: Pixels) -> Vectors:
    """Give the same as it is found: float32 [T-1, H, W, 2], in pixels."""
    return _flows(_greys(frames))


def in_steps(vectors: Vectors) -> npt.NDArray[np.int8]:
    """Pixels in eighths, as they are stored."""
    return rounded(vectors * FLOW_STEPS_A_PIXEL)


def rounded(steps: Vectors) -> npt.NDArray[np.int8]:
    """Numbers as bytes, those that are too far cut."""
    whole = np.rint(steps)
    return np.clip(whole, -127, 127, out=whole).astype(np.int8)


def resized(vectors: Vectors, height: int, width: int) -> Vectors:
    """A field with as many rows and columns as asked; the numbers in it keep their unit."""
    cv2 = _cv2()
    smaller = height < vectors.shape[0]
    way = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    made: Vectors = cv2.resize(vectors, (width, height), interpolation=way)
    return made


def motion_mask(frames: Pixels, *, least_pixels: float = 1.0) -> Pixels:
    """Mark with 1 what moves otherwise than the camera, else 0: uint8 [T, H, W].

    The camera's motion is the affine motion that most of the flow agrees with; marked is what
    differs from it by `least_pixels` between a frame and the next (of the last, the one before).
    """
    greys = _greys(frames)
    masks = np.zeros(greys.shape, np.uint8)
    if len(greys) > 1:
        to_next, back = _flows(greys), _flows(greys[:-3:-1])
        for mask, vectors in zip(masks, [*to_next, *back], strict=True):
            mask[:] = _cleaned(_camera_error(vectors) >= least_pixels)
    return masks


def _greys(frames: Pixels) -> Pixels:
    shape = frames.shape
    if frames.dtype != np.uint8 or frames.ndim != 4 or shape[3] != 3 or not len(frames):
        raise UsageError(f"frames of {frames.dtype} {shape}", "uint8 [T, H, W, 3]")
    if min(shape[1:3]) < SMALLEST_SIDE:
        raise UsageError(f"frames of {shape[1]} x {shape[2]}", f"sides of {SMALLEST_SIDE} or more")
    cv2 = _cv2()
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def _flows(greys: Pixels) -> Vectors:
    cv2, found = _cv2(), np.empty((len(greys) - 1, *greys.shape[1:], 2), np.float32)
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    search.setFinestScale(FINEST_SCALE)
    for number in range(len(found)):
        found[number] = search.calc(greys[number], greys[number + 1], None)
    return found


def _camera_error(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Give by how much each pixel's motion differs from the camera's, in pixels."""
    height, width = vectors.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([np.ones(rows.size), columns.ravel(), rows.ravel()], 1)
    moved = vectors.reshape(-1, 2).astype(np.float64)
    sample = np.arange(0, len(places), max(1, len(places) // CAMERA_POINTS))
    camera = np.zeros((3, 2))
    camera[0] = np.median(moved[sample], axis=0)
    for _ in range(CAMERA_ROUNDS):
        away = np.linalg.norm(moved[sample] - places[sample] @ camera, axis=1)
        agreeing = sample[away <= max(float(np.median(away)) * 2, 0.1)]
        camera = np.linalg.lstsq(places[agreeing], moved[agreeing], rcond=None)[0]
    error: npt.NDArray[np.float64] = np.linalg.norm(moved - places @ camera, axis=1)
    return error.reshape(height, width)


def _cleaned(mask: npt.NDArray[np.bool_]) -> Pixels:
    """Take away specks, fill holes."""
    cv2 = _cv2()
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disc)
    return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, disc), np.uint8)


def _cv2() -> ModuleType:
    import cv2  # takes a while to load, and few need it

    cv2.setNumThreads(1)  # clips are decoded side by side
    return cv2
