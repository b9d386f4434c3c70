"""Which records an epoch sees, and how often: weights, balance, curriculum.

Records are in groups (datasets, classes), and each group has its share of an epoch. A group goes
through permutations of its own one after another, on and on over epochs: nothing of it comes
again before all of it has come. Array in, arrays out; knows no spans.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.errors import PlanError
from clipmill.plan.sorting import in_order
from clipmill.takes import Draw, Numbers

FAR = "/visits"  # a scope of its own, so that plugins cannot meet its chance


@dataclass(frozen=True)
class Sampling:
    """What a recipe asks of an epoch beside the plugin's own plan; for training only."""

    clips: int = 1  # takes of a video that follow one another
    weights: tuple[float, ...] = ()  # of the datasets; none: every video comes once
    balance: Literal["none", "class"] = "none"
    easy_by: str | None = None  # column of numbers that the curriculum goes by
    easy_until: int = 0  # the first epoch that sees all records
    easy_descending: bool = False
    aligned: bool = False  # spans begin at reference frames
    negatives: str = ""  # digest of the file of hard negatives

    def changes(self, epoch: int) -> bool:
        """Whether an epoch is anything but every video once."""
        grouped = bool(self.weights) or self.balance != "none"
        return grouped or self.clips > 1 or self.is_easy(epoch)

    def is_easy(self, epoch: int) -> bool:
        """Whether the curriculum still leaves records out."""
        return self.easy_by is not None and epoch < self.easy_until


@dataclass(frozen=True)
class Groups:
    """The group of each record, and the share of an epoch that each group has."""

    of_row: Numbers
    shares: NDArray[np.float64]


@dataclass(frozen=True)
class Visits:
    """The records of an epoch, rising, those that come several times as often as they come."""

    row: Numbers
    group: Numbers
    turn: Numbers  # in which pass through its group, from 0 in this epoch


def groups_of(catalog: Catalog, sampling: Sampling) -> Groups:
    """Number the groups that have records: datasets, classes, or classes within datasets."""
    names = len(catalog.classes) + 1
    label = catalog.labels + 1 if sampling.balance == "class" else np.zeros(len(catalog), np.int64)
    code = label + names * catalog.datasets if sampling.weights else label
    datasets = max(1, len(sampling.weights))
    there = np.bincount(code, minlength=names * datasets) > 0
    each = there.reshape(datasets, names).sum(1)
    if sampling.weights and not each.all():
        raise PlanError(
            f"{catalog.folders[int(np.argmin(each))]} has no records to take",
            "records in every dataset that has a weight",
            "leave it out of data.path, or change the filter",
        )
    weight = np.repeat(np.array(sampling.weights or (1.0,)) / each, each)
    shares = weight / weight.sum()
    return Groups((np.cumsum(there) - 1)[code].astype(np.int32), shares)


def visits(groups: Groups, epoch: int, seed: int, allowed: Numbers | None = None) -> Visits:
    """Choose the visits of an epoch: as many as there are records.

    With `allowed` (rising rows), only of those, beginning anew in each epoch.
    """
    total = len(groups.of_row)
    rows = np.arange(total) if allowed is None else allowed
    group = groups.of_row if allowed is None else groups.of_row[allowed]
    size = np.bincount(group, minlength=len(groups.shares))
    wanted = _parts(groups.shares, total)
    begin = wanted * (epoch if allowed is None else 0)
    cycle, first = np.divmod(begin, size)
    last_cycle = (first + wanted - 1) // size  # counted from the first
    tail = first + wanted - last_cycle * size
    draw = Draw(seed, 0 if allowed is None else epoch, FAR)
    rank = _ranks(rows, group, size, cycle, total, draw)
    is_first = rank >= first[group]
    several, cycle = last_cycle[group], cycle + last_cycle
    again = _ranks(rows, group, size, cycle, total, draw) if several.any() else rank
    is_last = again < tail[group]
    count = np.where(several == 0, is_first & is_last, is_first + (several - 1) + is_last)
    chosen = np.repeat(np.arange(len(rows)), count)
    turn = np.arange(len(chosen)) - np.repeat(np.cumsum(count) - count, count)
    turn += ~is_first[chosen]
    return Visits(rows[chosen], group[chosen], turn.astype(np.int32))


def _parts(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers of these shares that make up the total; each at least 1."""
    exact = shares * total
    parts = np.maximum(1, np.floor(exact)).astype(np.int64)
    order = np.argsort(parts - exact, kind="stable")  # what lost most by rounding gains first
    left = total - int(parts.sum())
    while left < 0:  # many shares below one: what is largest gives
        parts[np.argmax(parts)] -= 1
        left += 1
    parts[order[:left]] += 1
    return parts


def _ranks(
    rows: Numbers, group: Numbers, size: Numbers, cycle: Numbers, total: int, draw: Draw
) -> NDArray[np.int64]:
    """The place of each row in its group's permutation of that cycle."""
    chance = draw.bits("cycle", rows.astype(np.int64) + cycle[group] * total)
    order = in_order(len(rows), [group], chance)
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = np.arange(len(rows)) - (np.cumsum(size) - size)[group[order]]
    return ranks


def easiest(values: NDArray[np.float64], groups: Groups, share: float) -> NDArray[np.int64]:
    """The rows of each group with the smallest values, at least one; those without come last."""
    order = np.lexsort((values, groups.of_row))  # NaN sorts behind all numbers
    sorted_groups = groups.of_row[order]
    size = np.bincount(sorted_groups)
    place = np.arange(len(order)) - (np.cumsum(size) - size)[sorted_groups]
    kept = place < np.ceil(size * share)[sorted_groups]
    return np.sort(order[kept])
