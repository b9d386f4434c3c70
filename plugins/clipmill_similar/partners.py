"""Who is compared with whom: rows of the same identity, of others that look alike, and of others.

Identities and labels are numbers a row, -1 is none. Whole arrays over all records of a catalog;
opens no video.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Catalog, Draw, Takes, View, pairs
from clipmill.takes import Pairs

Rows = NDArray[np.int64]
By = Literal["identity", "label"]
NONE = -1
# What the second of a pair is to the first: the views of second spans are called so. Alike are
# those of another identity that share the label, such as two samples of one digit.
SAME, ALIKE, OTHER = "same", "alike", "other"
KINDS = (SAME, ALIKE, OTHER)
PARTS = ("one", "two", "three")  # what the spans of a take are called behind `rgb_`


@dataclass(frozen=True)
class Groups:
    """What the rows of a catalog are: who, what they are labelled, and which record."""

    identity: Rows
    label: Rows
    record: Rows  # the same for rows of the same record

    def __len__(self) -> int:
        return len(self.identity)

    @property
    def alone(self) -> NDArray[np.bool_]:
        """Rows whose identity has no other record."""
        there, first = self.identity >= 0, np.zeros(len(self), np.bool_)
        first[np.unique(self.record, return_index=True)[1]] = True
        most = int(self.identity.max(initial=0)) + 1
        counts = np.bincount(self.identity[there & first], minlength=most)
        return np.asarray(there & (counts[np.maximum(self.identity, 0)] == 1))


@dataclass(frozen=True)
class Paired:
    """Rows of the first and the second of each pair, and the second's place in KINDS."""

    first: Rows
    second: Rows
    kind: Rows

    def __len__(self) -> int:
        return len(self.first)


def groups_of(catalog: Catalog, by: By) -> Groups:
    """Who the records are, by their identity or by their class."""
    _, identity = catalog.numbered(by)
    _, label = catalog.numbered("label")
    return Groups(identity, label, np.asarray(catalog.records, np.int64))


def training_pairs(groups: Groups, draw: Draw, *, same: float, alike: float) -> Paired:
    """One pair a row: this share of one identity, and this share of the others of one label.

    A row that has no partner of the kind drawn has one of another kind.
    """
    count = len(groups)
    partner, near, far = _candidates(groups, draw)
    hard = draw.uniform("alike kind", count) < alike
    negative = _first_of(np.where(hard, near, far), far, near)
    wished = draw.uniform("same kind", count) < same
    is_same = np.where(wished, partner >= 0, negative < 0)
    return _paired(groups, np.where(is_same, partner, negative))


def pairs_of_test(groups: Groups, draw: Draw, turns: int) -> Paired:
    """For each row so many pairs of one identity and as many of two, every other of one label.

    In order of the rows. One whose identity has no other record has pairs of two identities alone.
    """
    count, parts = len(groups), list[Paired]()
    for turn in range(turns):
        partner, near, far = _candidates(groups, draw.apart(f"turn {turn}"))
        hard = (np.arange(count) + turn) % 2 == 0
        negative = _first_of(np.where(hard, near, far), far, near)
        parts += [_paired(groups, partner), _paired(groups, negative)]
    order = np.argsort(np.concatenate([part.first for part in parts]), kind="stable")
    columns = (np.concatenate([getattr(p, n) for p in parts]) for n in ("first", "second", "kind"))
    return Paired(*(column[order] for column in columns))


def spans(name: str, rows: Rows, catalog: Catalog, view: View, draw: Draw) -> Takes:
    """A span at any place of each row's record, one a take; the plan of a run gives the seeds."""
    frames, fps = catalog.column("frames")[rows], catalog.column("fps")[rows]
    length = view.span_frames(fps)
    first = draw.below("first", np.maximum(1, frames - length + 1))
    seeds, places = np.zeros(len(rows), np.uint64), np.zeros((len(rows), 1), np.int8)
    last = first + length - 1
    return Takes((name,), rows[:, None], places, first[:, None], last[:, None], seeds)


def seconds(paired: Paired, catalog: Catalog, view: View, draw: Draw) -> Takes:
    """The second spans of pairs, each with what it is to the first for a view."""
    made = spans(SAME, paired.second, catalog, view, draw)
    kinds = paired.kind[:, None].astype(np.int8)
    return Takes(KINDS, made.record, kinds, made.first, made.last, made.seed)


def _candidates(groups: Groups, draw: Draw) -> tuple[Rows, Rows, Rows]:
    """For each row one of its identity, another one of its label, and another one of another."""
    who, label, count = groups.identity, groups.label, len(groups)
    drawn = pairs(who, draw.apart("partner"), same=1.0, records=groups.record)
    partner = _seconds_of(drawn, True, count)
    # Rows of one label whose identities differ: as records of one group.
    near = _seconds_of(pairs(label, draw.apart("near"), same=1.0, records=who), True, count)
    far = _seconds_of(pairs(label, draw.apart("far"), same=0.0), False, count)
    anyone = _seconds_of(pairs(who, draw.apart("anyone"), same=0.0), False, count)
    near, far = (np.where(_differ(who, each), each, NONE) for each in (near, far))
    return partner, near, _first_of(far, anyone)


def _differ(who: Rows, second: Rows) -> NDArray[np.bool_]:
    other = who[np.maximum(second, 0)]
    return np.asarray((second >= 0) & (who >= 0) & (other >= 0) & (other != who))


def _seconds_of(drawn: Pairs, same: bool, count: int) -> Rows:
    found, kept = np.full(count, NONE, np.int64), drawn.same == same
    found[drawn.first[kept]] = drawn.second[kept]
    return found


def _first_of(*choices: Rows) -> Rows:
    """The first of several that is there, a row each."""
    found = choices[0]
    for choice in choices[1:]:
        found = np.where(found >= 0, found, choice)
    return found


def _paired(groups: Groups, second: Rows) -> Paired:
    first = np.flatnonzero(second >= 0)
    second = second[first]
    is_same = groups.identity[first] == groups.identity[second]
    is_alike = (groups.label[first] == groups.label[second]) & (groups.label[first] >= 0)
    kind = np.where(is_same, 0, np.where(is_alike, 1, 2))
    return Paired(first, second, kind.astype(np.int64))
