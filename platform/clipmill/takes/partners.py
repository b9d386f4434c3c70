"""Sampling of takes that need each other: pairs and triplets, over all records at once.

Groups are numbers a record: its class, its identity, or the video that it is a part of; -1 has
none. Rows with the same number in `records` are one and the same record, as in a plan that
repeats some; by default every row is a record of its own. Knows no catalogs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipmill.takes.chance import Draw

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Rows of the first and the second of each pair, and whether they are of one group."""

    first: Rows
    second: Rows
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Triplets:
    """Rows of anchors, of others of their groups, and of rows of other groups."""

    anchor: Rows
    positive: Rows
    negative: Rows

    def __len__(self) -> int:
        return len(self.anchor)


# Rows stored for rows, such as the hard negatives of each: those of row r are
# linked[start[r] : start[r + 1]].
Links = tuple[Rows, Rows]


def pairs(groups: Rows, draw: Draw, *, same: float = 0.5, records: Rows | None = None) -> Pairs:
    """One pair a row, of one group in a share of `same`.

    A row that has no partner of the kind drawn has one of the other kind; one that has neither
    is left out. Nothing is paired with itself.
    """
    alike, other = _same_group(groups, draw, records), _other_group(groups, draw)
    wished = draw.uniform("pair kind", len(groups)) < same
    is_same = np.where(wished, alike >= 0, other < 0)
    second = np.where(is_same, alike, other)
    there = np.flatnonzero(second >= 0)
    return Pairs(there, second[there], is_same[there])


def triplets(
    groups: Rows, draw: Draw, *, negatives: Links | None = None, records: Rows | None = None
) -> Triplets:
    """One triplet for each row that has another of its group and one outside of it.

    Negatives are drawn from those stored for the row, where there are any outside of its group.
    """
    positive, negative = _same_group(groups, draw, records), _other_group(groups, draw)
    if negatives is not None:
        stored = _linked(negatives, groups, draw)
        negative = np.where((stored >= 0) & (groups >= 0), stored, negative)
    there = np.flatnonzero((positive >= 0) & (negative >= 0))
    return Triplets(there, positive[there], negative[there])


@dataclass(frozen=True)
class _Sorted:
    """Rows by group, those of none left out, with where each row's group begins and ends."""

    rows: Rows
    members: NDArray[np.bool_]  # which rows have a group
    first: Rows
    last: Rows  # and one more


def _sorted(groups: Rows, records: Rows | None = None) -> _Sorted:
    order = np.argsort(groups, kind="stable") if records is None else np.lexsort((records, groups))
    order = order[np.searchsorted(groups[order], 0) :]
    inside = groups[order]
    return _Sorted(
        order,
        groups >= 0,
        np.searchsorted(inside, groups, side="left"),
        np.searchsorted(inside, groups, side="right"),
    )


def _same_group(groups: Rows, draw: Draw, records: Rows | None) -> Rows:
    """Another record of each row's group, any with the same chance; -1 where there is none."""
    by = _sorted(groups, records)
    own_first, own_last = _own(by, groups, records)
    others = (by.last - by.first) - (own_last - own_first)
    place = by.first + draw.below("same group", np.maximum(others, 1))
    place = np.where(place >= own_first, place + own_last - own_first, place)
    return _taken(by.rows, place, by.members & (others > 0))


def _own(by: _Sorted, groups: Rows, records: Rows | None) -> tuple[Rows, Rows]:
    """Where each row's own record begins and ends among the sorted rows."""
    place = np.zeros(len(groups), np.int64)
    place[by.rows] = np.arange(len(by.rows))
    if records is None:
        return place, place + by.members
    told = np.stack([groups[by.rows], records[by.rows]])
    edges = np.flatnonzero(np.any(told[:, 1:] != told[:, :-1], axis=0)) + 1
    starts = np.concatenate([[0], edges])
    ends = np.concatenate([edges, [len(by.rows)]])
    run = np.searchsorted(starts, place, side="right") - 1
    return starts[run], ends[run]


def _other_group(groups: Rows, draw: Draw) -> Rows:
    """A row of another group than each row's own; -1 where there is none."""
    by = _sorted(groups)
    others = len(by.rows) - (by.last - by.first)
    place = draw.below("other group", np.maximum(others, 1))
    place = np.where(place >= by.first, place + by.last - by.first, place)
    return _taken(by.rows, place, by.members & (others > 0))


def _taken(rows: Rows, place: Rows, there: NDArray[np.bool_]) -> Rows:
    found = np.full(len(place), -1, np.int64)
    found[there] = rows[place[there]]
    return found


def _linked(links: Links, groups: Rows, draw: Draw) -> Rows:
    """One of the rows stored for each row and outside of its group; -1 where there is none."""
    start, linked = links
    owner = np.repeat(np.arange(len(groups)), np.diff(start))
    kept = np.flatnonzero((groups[linked] != groups[owner]) & (groups[linked] >= 0))
    counts = np.bincount(owner[kept], minlength=len(groups))
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    place = first + draw.below("stored", np.maximum(counts, 1))
    return _taken(linked[kept], place, counts > 0)
