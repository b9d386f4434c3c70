"""Thresholds of distance: up to one two are one identity, beyond it they are two."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def best_threshold(own: Floats, others: Floats, asked: int | None = None) -> float:
    """The distance that parts them best, midway to the next one; of several the lowest.

    `asked` are all that should be within it, where `own` are only those that may rightly be. One
    below all distances lets nobody in.
    """
    told = np.unique(np.concatenate([own, others]))
    # In whole numbers, so that ties stay ties.
    right = np.searchsorted(np.sort(own), told, side="right") * len(others)
    wrong = np.searchsorted(np.sort(others), told, side="right") * (asked or len(own))
    gain = np.concatenate([[0], right - wrong])  # the first: nobody
    best = int(np.argmax(gain))
    if best == 0:
        return float(np.nextafter(told[0], -np.inf))
    return float((told[best - 1] + told[min(best, len(told) - 1)]) / 2)
