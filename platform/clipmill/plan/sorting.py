"""Sorting rows by small whole numbers and chance, the same on every machine.

All that decides goes into one number a row, its place last: numbers sort several times as fast as
places do, and none of them is equal to another. Knows no takes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipmill.takes import Numbers

LEAST_CHANCE_BITS = 16


def in_order(
    count: int, keys: Sequence[Numbers], chance: NDArray[np.uint64] | None = None
) -> NDArray[np.int64]:
    """The places 0 to count - 1 sorted by keys, the first counting most, then by chance."""
    place_bits = max(1, (count - 1).bit_length())
    key_bits = [int(key.max()).bit_length() if count else 0 for key in keys]
    free = 64 - place_bits - sum(key_bits)
    if free < LEAST_CHANCE_BITS:
        return np.lexsort([np.arange(count) if chance is None else chance, *reversed(keys)])
    made = np.zeros(count, np.uint64)
    for key, bits in zip(keys, key_bits, strict=True):
        made <<= np.uint64(bits)
        made |= key.astype(np.uint64)
    if chance is not None:
        made <<= np.uint64(free)
        made |= chance >> np.uint64(64 - free)
    made <<= np.uint64(place_bits)
    made |= np.arange(count, dtype=np.uint64)
    made.sort()
    made &= np.uint64((1 << place_bits) - 1)
    return made.view(np.int64)
