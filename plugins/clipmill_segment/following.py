"""Numbers for things that stay the same thing from frame to frame: by overlap, then by looks.

First what moved on as before and overlaps most, weighed by how alike it looks; then what was hidden,
by its looks alone. Boxes and colours in, numbers out; knows neither masks nor classes.

Legend: N things of a frame, T things that are followed, D numbers of looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Floats = NDArray[np.float64]

LEAST_OVERLAP = 0.2  # of a box with where it is expected, each alike
LEAST_ALIKE = 0.7  # of what was hidden with what comes out
APART = 0.5  # difference of looks at which likeness is 1 / e; colours have a deviation of about 1
STEADY = 0.5  # share of the old motion in the new


@dataclass
class _Followed:
    """A thing, as it was seen last."""

    number: int
    box: Floats  # left, top, right, bottom
    looks: Floats
    motion: Floats  # of its middle, a frame
    hidden: int = 0  # frames since then

    def expected(self) -> Floats:
        """The box where it is now, if it moves on."""
        return self.box + np.tile(self.motion * (self.hidden + 1), 2)

    def seen(self, box: Floats, looks: Floats) -> None:
        """Take what was seen of it."""
        moved = (middle(box) - middle(self.box)) / (self.hidden + 1)
        self.motion = STEADY * self.motion + (1 - STEADY) * moved
        self.box, self.looks, self.hidden = box, looks, 0


class Follower:
    """Follows the things of one video; one that was hidden too long comes back as another."""

    def __init__(self, patience: int, numbers: Iterator[int]) -> None:
        self._patience, self._numbers = patience, numbers
        self._followed: list[_Followed] = []

    def step(self, boxes_N4: Floats, looks_ND: Floats) -> list[int]:
        """The numbers of the things of the next frame."""
        looks_ND = np.asarray(looks_ND, np.float64)  # networks answer with half of the digits
        which = self._matched(np.asarray(boxes_N4, np.float64), looks_ND)
        there = []
        for place, (box, looks) in enumerate(zip(boxes_N4, looks_ND, strict=True)):
            if place in which:
                own = which[place]
                own.seen(box, looks)
            else:
                own = _Followed(next(self._numbers), box, looks, np.zeros(2))
            there.append(own)
        numbers = {own.number for own in there}
        rest = [own for own in self._followed if own.number not in numbers]
        for own in rest:
            own.hidden += 1
        self._followed = there + [own for own in rest if own.hidden <= self._patience]
        return [own.number for own in there]

    def _matched(self, boxes_N4: Floats, looks_ND: Floats) -> dict[int, _Followed]:
        """Which thing that is followed each of the frame is, where it is one."""
        if not self._followed or not len(boxes_N4):
            return {}
        alike_TN = likeness(np.stack([own.looks for own in self._followed]), looks_ND)
        expected_T4 = np.stack([own.expected() for own in self._followed])
        near_TN = overlaps(expected_T4, boxes_N4) * (0.5 + 0.5 * alike_TN)
        which = {thing: self._followed[place] for place, thing in assigned(near_TN, LEAST_OVERLAP)}
        taken = {own.number for own in which.values()}
        free_T = np.array([own.number not in taken for own in self._followed])
        free_N = ~np.isin(np.arange(len(boxes_N4)), list(which))
        left_TN = np.where(free_T[:, None] & free_N, alike_TN, 0.0)
        return which | {
            thing: self._followed[place] for place, thing in assigned(left_TN, LEAST_ALIKE)
        }


def assigned(value_TN: Floats, least: float) -> list[tuple[int, int]]:
    """Pairs of rows and columns whose sum of values is largest, of values that are large enough."""
    kept_TN = np.where(value_TN >= least, value_TN, 0.0)
    pairs = zip(*linear_sum_assignment(kept_TN, maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in pairs if kept_TN[row, column] > 0]


def likeness(one_TD: Floats, other_ND: Floats) -> Floats:
    """How alike looks are: 1 for the same, less the farther they are apart."""
    apart_TN = np.abs(one_TD[:, None] - other_ND).mean(2)
    return np.asarray(np.exp(-apart_TN / APART))


def overlaps(one_T4: Floats, other_N4: Floats) -> Floats:
    """What pairs of boxes share, of what either covers."""
    low = np.maximum(one_T4[:, None, :2], other_N4[:, :2])
    high = np.minimum(one_T4[:, None, 2:], other_N4[:, 2:])
    both = (high - low).clip(0).prod(2)
    either = area(one_T4)[:, None] + area(other_N4) - both
    return np.asarray(both / np.maximum(either, 1e-12))


def area(boxes_N4: Floats) -> Floats:
    """How much boxes cover."""
    return np.asarray((boxes_N4[:, 2:] - boxes_N4[:, :2]).clip(0).prod(1))


def middle(box: Floats) -> Floats:
    """The middle of a box."""
    return (box[:2] + box[2:]) / 2
