"""Groups videos that show the same: near-duplicates by the bits of their perceptual hashes.

Exact, as if every pair had been compared, without comparing them all. Knows only numbers.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Hashes = npt.NDArray[np.uint64]  # [N, K]
Places = npt.NDArray[np.int64]

HASH_BITS = 64
BLANK_BITS = 8  # a hash with so few bits set, or unset, is that of a blank picture
NEAR_BITS = (
    10  # re-encoded and rescaled videos are mostly nearer; unlike ones differ in 16 and more
)
BANDS_EQUAL = 3  # of those a hash is cut into, at least so many agree in near videos
CROWD = 256  # buckets from this size on are walked, not paired off


def near_groups(hashes: Sequence[Sequence[int]], *, bits: int = NEAR_BITS) -> list[int]:
    """Give each video's group number; what is near, even by way of others, shares one.

    Two videos are near if their hashes, one by one, differ in at most `bits` bits. Blank
    pictures are only like each other, and join nobody if they are half of a video's or more.
    """
    if not 0 <= bits < HASH_BITS - BANDS_EQUAL:
        raise UsageError(f"bits={bits}", f"0 to {HASH_BITS - BANDS_EQUAL - 1}")
    root = np.arange(len(hashes))
    for places, table, blank in _comparable(hashes):
        root[places] = places[_joined(table, int(np.argmin(blank)), bits)]
    _, first, group = np.unique(root, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return [int(number) for number in order[group]]


def _comparable(
    hashes: Sequence[Sequence[int]],
) -> list[tuple[Places, Hashes, npt.NDArray[np.bool_]]]:
    """Part videos by their number of hashes and by which of them are blank."""
    by_count: dict[int, list[int]] = {}
    for place, video in enumerate(hashes):
        by_count.setdefault(len(video), []).append(place)
    parts = []
    for count, members in by_count.items():
        places = np.array(members)
        table = np.array([hashes[m] for m in members], np.uint64).reshape(len(members), count)
        ones = np.bitwise_count(table)
        blank = (ones <= BLANK_BITS) | (ones >= HASH_BITS - BLANK_BITS)
        patterns, which = np.unique(blank, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            if 2 * pattern.sum() < count:
                mine = np.flatnonzero(which.reshape(-1) == number)
                parts.append((places[mine], np.where(pattern, 0, table[mine]), pattern))
    return parts


def _joined(table: Hashes, column: int, bits: int) -> Places:
    """Give for each row the first row of its group; `column` is one without blanks."""
    unique, first, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
    root = np.arange(len(unique))
    for key in _keys(unique[:, column], bits):
        order = np.argsort(key, kind="stable")
        key = key[order]
        begins = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        sizes = np.diff(np.r_[begins, len(order)])
        for begin, size in zip(begins[sizes > CROWD], sizes[sizes > CROWD], strict=True):
            root = _merged(root, *_walked(unique, order[begin : begin + size], bits))
        few = np.repeat(sizes <= CROWD, sizes)
        root = _paired(unique, order[few], key[few], root, bits)
    # Number groups by their first row, whatever the order of the hashes.
    lowest = np.full(len(unique), len(table))
    np.minimum.at(lowest, root, first)
    return lowest[root][which.reshape(-1)]


def _keys(column: Hashes, bits: int) -> Iterator[npt.NDArray[Any]]:
    """Give keys of which near videos share at least one.

    Cut into `bits` + 3 bands, a hash with `bits` bits changed has 3 bands untouched.
    """
    edges = np.linspace(0, HASH_BITS, bits + BANDS_EQUAL + 1).astype(int).tolist()
    bands = [
        ((column >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1), high - low)
        for low, high in pairwise(edges)
    ]
    for chosen in combinations(bands, BANDS_EQUAL):
        key, width = np.zeros_like(column), 0
        for band, band_bits in chosen:
            key |= band << np.uint64(width)
            width += band_bits
        yield key.astype(np.uint16) if width <= 16 else key  # short ones sort ten times faster


def _paired(table: Hashes, rows: Places, keys: npt.NDArray[Any], root: Places, bits: int) -> Places:
    """Compare each row with all that follow it with the same key, step by step, all at once."""
    here, step = np.arange(len(rows)), 1
    while True:
        here = here[here + step < len(rows)]
        here = here[keys[here] == keys[here + step]]
        if not len(here):
            return root
        left, right = rows[here], rows[here + step]
        for column in range(table.shape[1]):  # the first one leaves next to nothing to do
            one = table[:, column]
            near = np.bitwise_count(one[left] ^ one[right]) <= bits
            left, right = left[near], right[near]
        root = _merged(root, left, right)
        step += 1


def _walked(table: Hashes, rows: Places, bits: int) -> tuple[Places, Places]:
    """Gather the rows of a crowd from one to its near ones and on; what is gathered is done."""
    left: list[Places] = []
    right: list[Places] = []
    while len(rows):
        edge, rows = rows[:1], rows[1:]
        while len(edge) and len(rows):
            at, edge = edge[-1], edge[:-1]
            near = _are_near(table[at], table[rows], bits)
            left.append(np.full(int(near.sum()), at))
            right.append(rows[near])
            edge, rows = np.r_[edge, rows[near]], rows[~near]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *left]), np.concatenate([none, *right])


def _are_near(a: Hashes, b: Hashes, bits: int) -> npt.NDArray[np.bool_]:
    near: npt.NDArray[np.bool_] = (np.bitwise_count(a ^ b) <= bits).all(axis=-1)
    return near


def _merged(root: Places, left: Places, right: Places) -> Places:
    """Give rows that are joined by pairs one root: the lowest of their group."""
    if not len(left):
        return root
    root = root.copy()
    while True:
        apart = root[left] != root[right]
        left, right = left[apart], right[apart]
        if not len(left):
            return root
        low = np.minimum(root[left], root[right])
        np.minimum.at(root, root[left], low)
        np.minimum.at(root, root[right], low)
        while not np.array_equal(above := root[root], root):
            root = above
