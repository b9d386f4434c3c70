"""Chance for a batch: numbers drawn from each take's own seed, for all takes at once.

Counter-based, as in `takes`: a take's numbers depend on its seed and the name of the draw, never
on who else is in the batch. Knows neither streams nor torch.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from clipmill.takes.chance import GOLDEN, mixed

Seeds = NDArray[np.uint64]
Floats = NDArray[np.float64]


def uniform(seeds: Seeds, name: str, count: int) -> Floats:
    """Numbers in [0, 1): `count` of each take, [takes, count]."""
    return (_bits(seeds, name, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def between(seeds: Seeds, name: str, low: float, high: float) -> Floats:
    """A number of each take from `low` up to `high`, [takes]."""
    return low + (high - low) * uniform(seeds, name, 1)[:, 0]


def happens(seeds: Seeds, name: str, share: float) -> NDArray[np.bool_]:
    """Whether it happens to each take; it does to this share of them."""
    return uniform(seeds, name, 1)[:, 0] < share


def boxes(
    seeds: Seeds, name: str, area: tuple[float, float], aspect: tuple[float, float]
) -> Floats:
    """A box of each take, in shares of a square picture: top, left, height, width."""
    chance = uniform(seeds, name, 4)
    areas = area[0] + (area[1] - area[0]) * chance[:, 0]
    low, high = np.log(aspect)  # as often wide as high
    aspects = np.exp(low + (high - low) * chance[:, 1])
    sizes = np.minimum(1.0, np.stack([np.sqrt(areas / aspects), np.sqrt(areas * aspects)], axis=1))
    return np.concatenate([(1 - sizes) * chance[:, 2:], sizes], axis=1)


def _bits(seeds: Seeds, name: str, count: int) -> Seeds:
    salt = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], np.uint64)[0]
    with np.errstate(over="ignore"):
        own = mixed(mixed(np.asarray(seeds, np.uint64) + GOLDEN) + salt)
        return mixed(own[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
