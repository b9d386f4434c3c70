"""Frames changed as training changes them, for tests: else pixels alone would tell neighbours.

Drawn from a take's own generator, so that a test is the same every time. Hue and the shape of a
window stay; `crop` moves all frames of a take alike, and so tells nothing. Arrays in, arrays out;
knows no task and no torch.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Augmentation

LEAST_AREA = 0.4  # of the frame, in what `resized_crop` keeps
STRENGTH = 0.4  # of brightness, contrast and each colour: factors from 0.6 to 1.4
COLOURED, GREYED, BLURRED, ERASED = 0.8, 0.2, 0.5, 0.25  # shares of the frames
MOST_BLUR = 2.0 / 224  # deviation of the bell, as a share of the frame
ERASED_AREA = (0.02, 1 / 3)  # of the frame
HIDDEN = 115  # grey level of what is erased: near the mean of all pictures

Frames = NDArray[np.uint8]


def disguised(
    frames_THWC: Frames, ways: Collection[Augmentation], rng: np.random.Generator
) -> Frames:
    """The same frames from another window, turned, and in other colours, as far as is asked."""
    share, turned, greyed = np.sqrt(rng.uniform(LEAST_AREA, 1)), rng.random(), rng.random()
    place, factors = rng.random(2), 1 + STRENGTH * rng.uniform(-1, 1, (2, 3))
    (coloured, blurred, erased), blur = rng.random(3), rng.uniform(0, MOST_BLUR)
    hidden, corner = np.sqrt(rng.uniform(*ERASED_AREA)), rng.random(2)
    if "resized_crop" in ways:
        frames_THWC = _window(frames_THWC, float(share), place)
    if "flip" in ways and turned < 0.5:
        frames_THWC = frames_THWC[:, :, ::-1]
    if "color" in ways and coloured < COLOURED:
        frames_THWC = _coloured(frames_THWC, factors)
    if "grey" in ways and greyed < GREYED:
        grey = frames_THWC.mean(3, keepdims=True).astype(np.uint8)
        frames_THWC = np.broadcast_to(grey, frames_THWC.shape)
    if "blur" in ways and blurred < BLURRED:
        frames_THWC = _blurred(frames_THWC, float(blur) * frames_THWC.shape[1])
    if "erase" in ways and erased < ERASED:
        frames_THWC = _erased(frames_THWC, float(hidden), corner)
    return np.ascontiguousarray(frames_THWC)


def _window(frames_THWC: Frames, share: float, place: NDArray[np.float64]) -> Frames:
    """A part of each frame, as large as the whole; the nearest pixels stand for all."""
    rows, columns = (
        ((at * (1 - share) * size) + (np.arange(size) + 0.5) * share).astype(np.int64)
        for at, size in zip(place, frames_THWC.shape[1:3], strict=True)
    )
    return np.asarray(frames_THWC[:, rows[:, None], columns])


def _coloured(frames_THWC: Frames, factors: NDArray[np.float64]) -> Frames:
    """Other contrast and brightness, and each colour stronger or weaker."""
    light = frames_THWC.mean()
    (contrast, bright, _), colours = factors
    changed = ((frames_THWC - light) * contrast + light * bright) * (1 + (colours - 1) / 2)
    return np.asarray(np.rint(changed.clip(0, 255)), np.uint8)


def _blurred(frames_THWC: Frames, deviation: float) -> Frames:
    """Each pixel as the mean of those about it, by a bell of so many pixels."""
    reach = int(np.ceil(3 * deviation))
    bell = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / max(deviation, 1e-3)))
    x_THWC = frames_THWC.astype(np.float64)
    for axis in (1, 2):
        around = [(reach, reach) if each == axis else (0, 0) for each in range(4)]
        padded, count = np.pad(x_THWC, around, mode="edge"), x_THWC.shape[axis]
        parts = [padded.take(range(at, at + count), axis) for at in range(len(bell))]
        x_THWC = np.tensordot(bell / bell.sum(), np.stack(parts), 1)
    return np.asarray(np.rint(x_THWC), np.uint8)


def _erased(frames_THWC: Frames, side: float, corner: NDArray[np.float64]) -> Frames:
    """A box of such a share of either side hidden."""
    changed = frames_THWC.copy()
    height, width = (round(side * extent) for extent in changed.shape[1:3])
    top = int(corner[0] * (changed.shape[1] - height + 1))
    left = int(corner[1] * (changed.shape[2] - width + 1))
    changed[:, top : top + height, left : left + width] = HIDDEN
    return changed
