"""Guards against shortcuts: what an order could be told by without seeing what moves.

Lenses and light tell of time by borders and colours (Doersch et al., "Unsupervised Visual
Representation Learning by Context Prediction", 2015). So every part of a take is cropped and
coloured for itself (Lee et al., "Unsupervised Representation Learning by Sorting Sequences", 2017).
At test nothing is left to chance.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # [T, H, W, 3]
Channels = Literal["as_is", "split", "jitter"]

GAIN = 0.2  # of each channel, up and down


def cropped(
    parts: Sequence[Frames], size: int, apart: int, rng: np.random.Generator
) -> list[Frames]:
    """A square of each part; those of two lie at most `apart` pixels from one another."""
    room = np.array(parts[0].shape[1:3]) - size
    reach = np.minimum(apart, room)
    base = rng.integers(0, room - reach + 1)
    corners = base + rng.integers(0, reach + 1, (len(parts), 2))
    return [_square(part, corner, size) for part, corner in zip(parts, corners, strict=True)]


def centred(parts: Sequence[Frames], size: int) -> list[Frames]:
    """The square in the middle of each part."""
    corner = (np.array(parts[0].shape[1:3]) - size) // 2
    return [_square(part, corner, size) for part in parts]


def _square(part: Frames, corner: NDArray[np.int64], size: int) -> Frames:
    top, left = corner.tolist()
    return part[:, top : top + size, left : left + size]


def recoloured(
    parts: Sequence[Frames], how: Channels, rng: np.random.Generator | None
) -> list[Frames]:
    """Each part with one of its channels for all three, or with channels of other strengths.

    Without chance it is their mean, which shows all that any of them does, and strengths stay.
    """
    if how == "split":
        if rng is None:
            return [_thrice(part.mean(-1, keepdims=True).astype(np.uint8)) for part in parts]
        chosen = rng.integers(0, 3, len(parts)).tolist()
        return [_thrice(part[..., c : c + 1]) for part, c in zip(parts, chosen, strict=True)]
    if how == "jitter" and rng is not None:
        gains = 1 + GAIN * rng.uniform(-1, 1, (len(parts), 3)).astype(np.float32)
        return [
            np.clip(part * gain, 0, 255).astype(np.uint8)
            for part, gain in zip(parts, gains, strict=True)
        ]
    return list(parts)


def _thrice(part_1: Frames) -> Frames:
    return np.repeat(part_1, 3, axis=-1)


def guarded(
    parts: Sequence[Frames],
    *,
    size: int,
    apart: int,
    channels: Channels,
    rng: np.random.Generator | None,
) -> list[Frames]:
    """Parts of a take as a network may see them; without chance as at test."""
    squares = centred(parts, size) if rng is None else cropped(parts, size, apart, rng)
    return recoloured(squares, channels, rng)
