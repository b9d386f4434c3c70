"""The plan: the ordered takes of a run, before any video is opened.

A pure function of catalog, plugin, stage, seed, window and batch. A position is one integer, the
takes trained over all epochs; ranks, resume and dry runs are slices of it.
"""

import functools
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.catalog import load as load_catalog
from clipmill.errors import PlanError
from clipmill.plugin import Plugin
from clipmill.recipe import Recipe
from clipmill.takes import Draw, Stage, Takes, joined

KEPT_EPOCHS = 4  # the feed reads ahead of the loop: both must find theirs
_KEPT = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """The takes of one stage of a run."""

    catalog: Catalog  # the records of this stage alone
    plugin: Plugin
    stage: Stage
    seed: int
    batch: int
    window: int = 0

    def epoch(self, epoch: int) -> Takes:
        """All takes of an epoch in order, the last incomplete batch included."""
        with _KEPT:
            if epoch not in self._kept:
                self._kept[epoch] = _ordered(self, epoch)
                for old in list(self._kept)[:-KEPT_EPOCHS]:
                    del self._kept[old]
            return self._kept[epoch]

    @functools.cached_property
    def _kept(self) -> dict[int, Takes]:
        return {}

    @functools.cached_property
    def takes_in_catalog(self) -> int:
        """How many takes an epoch makes."""
        return len(self.epoch(0))

    @functools.cached_property
    def takes_per_epoch(self) -> int:
        """How many of them are used: training drops the last incomplete batch."""
        count = self.takes_in_catalog
        return count // self.batch * self.batch if self.stage == "train" else count

    def at(self, first: int, last: int) -> Takes:
        """The takes from one position up to another, over epochs."""
        length, parts = self.takes_per_epoch, []
        while first < last:
            epoch, start = divmod(first, length)
            stop = min(length, start + last - first)
            parts.append(self.epoch(epoch)[start:stop])
            first += stop - start
        return joined(parts) if parts else self.epoch(0)[:0]

    def keys(self, takes: Takes, place: int) -> list[str]:
        """The keys of one take's records."""
        return [self.catalog.keys[row] for row in takes.record[place]]

    def digests(self, takes: Takes) -> list[bytes]:
        """The digests of takes, in order."""
        return [takes.digest(place, self.keys(takes, place)) for place in range(len(takes))]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all that decides the takes."""
        told = [
            self.catalog.digest, type(self.plugin).name, self.plugin.model_dump_json(), self.stage,
            self.seed, self.batch, self.window,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _ordered(plan: Plan, epoch: int) -> Takes:
    draw = Draw(plan.seed, epoch)
    takes = plan.plugin.plan(plan.catalog, plan.stage, draw)
    seeds = draw.bits("take", np.arange(len(takes)))
    if plan.stage != "train":
        return replace(takes, seed=seeds)
    order = _shuffled(plan, takes, draw)
    return replace(takes[order], seed=seeds)


def _shuffled(plan: Plan, takes: Takes, draw: Draw) -> NDArray[np.int64]:
    chance = draw.bits("order", np.arange(len(takes)))
    if plan.window == 0:
        return np.argsort(chance, kind="stable")
    names, shard_of_record = plan.catalog.numbered("shard")
    turn = np.argsort(np.argsort(draw.bits("shards", np.arange(len(names)))))
    by_shard = np.lexsort((chance, turn[shard_of_record[takes.record[:, 0]]]))
    windows = np.arange(len(takes)) // plan.window
    return by_shard[np.lexsort((draw.bits("window", by_shard), windows))]


def rank_slice(batch: int, rank: int, world: int) -> tuple[int, int]:
    """The part of a global batch that a rank takes."""
    return batch * rank // world, batch * (rank + 1) // world


def make(recipe: Recipe, stage: Stage, catalog: Catalog | None = None) -> Plan:
    """Make the plan of one stage of a recipe, or refuse what cannot work."""
    catalog = catalog or load_catalog(recipe.data.path)
    split = recipe.data.split_of(stage)
    part = catalog.part(split=split, where=recipe.data.where)
    if not len(part):
        raise PlanError(
            f"the split {split!r} of {catalog.folder} has no records"
            + (f" where {recipe.data.where}" if recipe.data.where else ""),
            "at least one",
            f"it has the splits {splits(catalog)}",
        )
    plan = Plan(
        part, recipe.plugin(), stage, recipe.train.seed, recipe.train.batch, recipe.data.window
    )
    if stage == "train":
        _check_training(plan, recipe.train.workers)
    return plan


def splits(catalog: Catalog) -> dict[str, int]:
    """Records by split."""
    return {str(name): count for name, count in catalog.counts("split").items()}


def _check_training(plan: Plan, workers: int) -> None:
    if plan.batch > plan.takes_in_catalog:
        raise PlanError(
            f"train.batch is {plan.batch}, an epoch has {plan.takes_in_catalog} takes",
            "a batch no larger than an epoch",
            f"set train.batch={plan.takes_in_catalog} or less",
        )
    if workers > plan.batch:
        raise PlanError(
            f"train.workers is {workers}, train.batch {plan.batch}",
            "at least one take of every batch for each worker",
            "raise train.batch or lower train.workers",
        )


def ranks(positions: NDArray[np.int64], batch: int, world: int) -> NDArray[np.int64]:
    """The rank that trains on each position."""
    edges = np.array([rank_slice(batch, rank, world)[1] for rank in range(world)])
    return np.searchsorted(edges, positions % batch, side="right")


def table(plan: Plan, epochs: int, world: int) -> dict[str, Sequence[object]]:
    """The plan as columns: epoch, position, rank, keys, spans, seed."""
    takes = plan.at(0, epochs * plan.takes_per_epoch)
    positions = np.arange(len(takes))
    spans = zip(takes.first.tolist(), takes.last.tolist(), strict=True)
    return {
        "epoch": (positions // plan.takes_per_epoch).tolist(),
        "position": positions.tolist(),
        "rank": ranks(positions, plan.batch, world).tolist(),
        "keys": [plan.keys(takes, place) for place in range(len(takes))],
        "spans": [list(zip(first, last, strict=True)) for first, last in spans],
        "seed": takes.seed.tolist(),
    }
