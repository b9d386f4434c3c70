"""The order of an epoch's takes: shuffled, by shard within windows, groups mixed.

Arrays in, a permutation out. Knows neither catalogs nor plugins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipmill.plan.sorting import in_order
from clipmill.takes import Draw, Numbers


@dataclass(frozen=True)
class Units:
    """What is put in order: takes, or visits whose takes stay together."""

    count: int
    group: Numbers | None = None  # None: all are of one
    turn: Numbers | None = None  # passes through the group come one after another
    shard: Numbers | None = None  # where there is a window


def ordered(units: Units, window: int, draw: Draw) -> NDArray[np.int64]:
    """The places of the units, in their order."""
    chance = draw.bits("order", np.arange(units.count))
    keys = [key for key in (units.group, units.turn) if key is not None]
    if window:
        keys.append(_turns(units, draw))
    order = in_order(units.count, keys, chance)
    if window:
        order = _windowed(order, units, window, draw)
    return order if units.group is None else _mixed(order, units.group, draw)


def _turns(units: Units, draw: Draw) -> Numbers:
    """When each unit's shard has its turn."""
    assert units.shard is not None, "a window needs shards"
    shards = int(units.shard.max()) + 1 if units.count else 0
    turn = np.argsort(np.argsort(draw.bits("shards", np.arange(shards)), kind="stable"))
    return turn.astype(np.int32)[units.shard]


def _windowed(order: NDArray[np.int64], units: Units, window: int, draw: Draw) -> NDArray[np.int64]:
    """Shuffle within windows of each group; what is of two passes stays apart."""
    place = np.arange(units.count)
    keys = [key[order] for key in (units.group, units.turn) if key is not None]
    if units.group is not None:
        size = np.bincount(keys[0])
        place = place - (np.cumsum(size) - size)[keys[0]]
    keys.append(place // window)
    return order[in_order(units.count, keys, draw.bits("window", order))]


def _mixed(order: NDArray[np.int64], group: Numbers, draw: Draw) -> NDArray[np.int64]:
    """Mix groups, each staying in its order: chance says whose turn a place is."""
    chance = draw.bits("mix", np.arange(len(order)))
    places = group[order][in_order(len(order), [], chance)]
    mixed = np.empty_like(order)
    mixed[in_order(len(order), [places])] = order
    return mixed


def together(order: NDArray[np.int64], unit_of_take: Numbers) -> NDArray[np.int64]:
    """The order of takes when their units have one."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return in_order(len(unit_of_take), [place[unit_of_take]])
