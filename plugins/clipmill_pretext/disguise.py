"""Frames changed as training changes them, for tests: else pixels alone would tell neighbours.

Drawn from a take's own generator, so that a test is the same every time. Arrays in, arrays out;
knows no task and no torch.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Augmentation

LEAST_AREA = 0.4  # of the frame, in what `resized_crop` keeps
STRENGTH = 0.4  # of brightness, contrast and each colour: factors from 0.6 to 1.4
GREYED = 0.2  # share of the frames

Frames = NDArray[np.uint8]


def disguised(
    frames_THWC: Frames, ways: Collection[Augmentation], rng: np.random.Generator
) -> Frames:
    """The same frames from another window, turned, and in other colours, as far as is asked."""
    share, turned, greyed = np.sqrt(rng.uniform(LEAST_AREA, 1)), rng.random(), rng.random()
    place, factors = rng.random(2), 1 + STRENGTH * rng.uniform(-1, 1, (2, 3))
    if "resized_crop" in ways:
        frames_THWC = _window(frames_THWC, float(share), place)
    if "flip" in ways and turned < 0.5:
        frames_THWC = frames_THWC[:, :, ::-1]
    if "color" in ways:
        frames_THWC = _coloured(frames_THWC, factors)
    if "grey" in ways and greyed < GREYED:
        grey = frames_THWC.mean(3, keepdims=True).astype(np.uint8)
        frames_THWC = np.broadcast_to(grey, frames_THWC.shape)
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
