"""The plan: the ordered takes of a run, before any video is opened.

A pure function of catalog, plugin, stage, seed, window, sampling and batch. A position is one
integer, the takes trained over all epochs; ranks, resume and dry runs are slices of it.
"""

import functools
import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.errors import PlanError
from clipmill.plan.lot import Lot, lot
from clipmill.plan.order import Units, ordered, together
from clipmill.plan.unfit import LeftOut
from clipmill.plan.visits import Groups, Sampling, Visits, easiest, groups_of, visits
from clipmill.plugin import Plugin
from clipmill.takes import Draw, Numbers, Stage, Takes, joined, narrow, snapped

# The feed reads ahead of the loop, and both must find their epochs: two are kept at the least.
DIGEST_ROWS = 1 << 16
KEPT_EPOCHS, KEPT_TAKES = 64, 1 << 23
_KEPT = threading.Lock()


@dataclass(frozen=True)
class _Epoch:
    """An epoch as it is kept: the takes as they were drawn, and their order."""

    takes: Takes
    order: Numbers | None  # None: as they are
    draw: Draw

    def __len__(self) -> int:
        return len(self.takes) if self.order is None else len(self.order)

    def picked(self, places: NDArray[np.int64]) -> Takes:
        """The takes at places of the epoch, with their seeds."""
        takes = self.takes[places if self.order is None else self.order[places]]
        return replace(takes, seed=self.draw.bits("take", places))


@dataclass(frozen=True)
class Plan:
    """The takes of one stage of a run."""

    catalog: Catalog  # the records of this stage alone
    plugin: Plugin
    stage: Stage
    seed: int
    batch: int
    window: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    left_out: LeftOut = ()  # records that the plugin cannot use; they are not in the catalog
    alone: bool = False  # each record is planned by itself, as one that is asked about

    def epoch(self, epoch: int) -> Takes:
        """All takes of an epoch in order, the last incomplete batch included."""
        return self._picked(epoch, np.arange(self.takes_in_catalog))

    @functools.cached_property
    def takes_in_catalog(self) -> int:
        """How many takes an epoch makes."""
        return len(self._epoch(0))

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
            parts.append(self._picked(epoch, np.arange(start, stop)))
            first += stop - start
        return joined(parts) if parts else self._picked(0, np.arange(0))

    def substitute(self, position: int, attempt: int) -> Takes:
        """What stands in for the take at a position, which keeps its seed: attempt 0, 1, ...

        Another take of the same epoch, by chance of the seed and the position alone; no two
        attempts give the same one before all have been given.
        """
        epoch, place = divmod(position, self.takes_per_epoch)
        others = self.takes_in_catalog - 1
        if not 0 <= attempt < others:
            raise PlanError(
                f"attempt {attempt} to replace the take at {position}",
                f"one of the {others} others of its epoch",
                "the dataset has next to nothing that decodes: run `clipmill verify --deep` on it",
            )
        start, step = (int(bits) for bits in Draw(self.seed, epoch).bits(
            "substitute", np.array([2 * place, 2 * place + 1])
        ))  # fmt: skip
        step = step % others or 1
        while math.gcd(step, others) > 1:
            step += 1
        other = (start + attempt * step) % others
        made = self._picked(epoch, np.array([other + (other >= place)]))
        own = self._epoch(epoch).draw.bits("take", np.array([place]))
        return replace(made, seed=own)

    def lot(self, takes: Takes) -> Lot:
        """The takes with the catalog rows that they need: all that decoding them asks for."""
        return lot(self.catalog, takes, self.stage)

    def keys(self, takes: Takes, place: int) -> list[str]:
        """The keys of one take's records."""
        return self.key_lists(takes[place : place + 1])[0]

    def digests(self, takes: Takes) -> list[bytes]:
        """The digests of takes, in order."""
        return takes.digests(self.key_lists(takes))

    def key_lists(self, takes: Takes) -> list[list[str]]:
        """The keys of each take's records, one a span."""
        spans = takes.record.shape[1]
        flat = self.catalog.keys.picked(np.maximum(takes.record, 0).ravel())
        return [flat[at : at + spans] for at in range(0, len(flat), spans)]

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all that decides the takes.

        Fields at their defaults are left out: a new one must not make a stranger of an old run.
        """
        kept = {each.name: each.default for each in fields(Sampling)}
        sampling = {k: v for k, v in asdict(self.sampling).items() if v != kept[k]}
        plugin = self.plugin.model_dump_json(exclude_defaults=True)
        # The same records mean something else where the numbers in their masks are named anew.
        named = [meta["mask_classes"] for meta in self.catalog.metas if meta.get("mask_classes")]
        alone = ["alone"] if self.alone else []
        return self._digest(plugin, sampling, *([named] if named else []), *alone)

    @property
    def digest_with_defaults(self) -> str:
        """The same as runs of before have kept it."""
        return self._digest(self.plugin.model_dump_json(), asdict(self.sampling))

    def _digest(self, plugin: str, sampling: Mapping[str, Any], *more: Any) -> str:
        told = [
            self.catalog.digest, type(self.plugin).name, plugin, self.stage,
            self.seed, self.batch, self.window, sampling,
            self._order_digest, *more,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @functools.cached_property
    def _order_digest(self) -> str:
        """Hash of what the catalog's digest, over a set, leaves open: order, datasets, shards."""
        made = hashlib.sha256()
        for chunk in self.catalog.keys.column.chunks:
            for first in range(0, len(chunk), DIGEST_ROWS):
                made.update("".join(chunk[first : first + DIGEST_ROWS].to_pylist()).encode())
        if self.sampling.weights:
            made.update(np.asarray(self.catalog.datasets, np.int64).tobytes())
        if self.window and self.stage == "train":
            made.update(np.asarray(self._shards, np.int64).tobytes())
        return made.hexdigest()

    # --- one epoch

    def _picked(self, epoch: int, places: NDArray[np.int64]) -> Takes:
        takes = self._epoch(epoch).picked(places)
        if not (self.sampling.aligned and self.stage == "train"):
            return takes
        return snapped(takes, _ladder(self.catalog, takes.record))

    def _epoch(self, epoch: int) -> _Epoch:
        with _KEPT:
            kept = self._kept
            if epoch not in kept:
                kept[epoch] = self._made(epoch)
            kept.move_to_end(epoch)
            takes = len(kept[epoch])
            while len(kept) > KEPT_EPOCHS or (len(kept) > 2 and len(kept) * takes > KEPT_TAKES):
                kept.popitem(last=False)
            return kept[epoch]

    @functools.cached_property
    def _kept(self) -> OrderedDict[int, _Epoch]:
        return OrderedDict()

    def _made(self, epoch: int) -> _Epoch:
        made = self._drawn(epoch)
        wanted = self.__dict__.get("takes_in_catalog", len(made))  # known once an epoch was made
        if len(made) >= wanted:
            return made
        if not len(made) or not self.sampling.changes(epoch):
            raise PlanError(
                f"{self.plugin.name} made {len(made)} takes in epoch {epoch}",
                f"{wanted}, as in the first",
                "a plugin's plan gives every epoch the same number of takes",
            )
        # Partners are found among an epoch's own records, once fewer than before: some come again.
        order = np.arange(len(made)) if made.order is None else made.order
        return replace(made, order=np.resize(order, wanted))

    def _drawn(self, epoch: int) -> _Epoch:
        draw = Draw(self.seed, epoch)
        if self.stage != "train":
            return _Epoch(self._planned(self.catalog, draw), None, draw)
        if not self.sampling.changes(epoch):
            takes = self._planned(self.catalog, draw)
            units = Units(len(takes), shard=self._shard(takes.record[:, 0]))
            return _Epoch(takes, narrow(ordered(units, self.window, draw)), draw)
        return self._visiting(self._visits(epoch), draw)

    def _planned(self, catalog: Catalog, draw: Draw) -> Takes:
        plan = self._one_by_one if self.alone else self.plugin.plan
        takes = plan(catalog, self.stage, draw)
        first, last = narrow(takes.first), narrow(takes.last)
        return replace(takes, record=narrow(takes.record), first=first, last=last)

    def _one_by_one(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        parts = []
        for row in range(len(catalog)):
            takes = self.plugin.plan(catalog.picked(np.array([row])), stage, draw)
            parts.append(replace(takes, record=np.where(takes.record < 0, -1, row)))
        return joined(parts)

    def _visiting(self, visited: Visits, draw: Draw) -> _Epoch:
        clips = self.sampling.clips
        rows = np.repeat(visited.row, clips)
        takes = self._planned(self.catalog.picked(rows), draw)
        visit = takes.record[:, 0] // clips
        takes = replace(takes, record=narrow(np.where(takes.record < 0, -1, rows[takes.record])))
        unit = np.arange(len(visited.row)) if clips > 1 else visit
        single = not (self.sampling.weights or self.sampling.balance != "none")
        units = Units(
            len(unit),
            None if single else visited.group[unit],
            visited.turn[unit],
            self._shard(visited.row[unit]),
        )
        order = ordered(units, self.window, draw)
        return _Epoch(takes, narrow(together(order, visit) if clips > 1 else order), draw)

    def _visits(self, epoch: int) -> Visits:
        sampling, groups = self.sampling, self._groups
        if not sampling.is_easy(epoch):
            return visits(groups, epoch, self.seed)
        share = (epoch + 1) / (sampling.easy_until + 1)
        return visits(groups, epoch, self.seed, easiest(self._hardness, groups, share))

    @functools.cached_property
    def _groups(self) -> Groups:
        return groups_of(self.catalog, self.sampling)

    @functools.cached_property
    def _hardness(self) -> NDArray[np.float64]:
        name = self.sampling.easy_by
        assert name is not None
        values = self.catalog.values(name)
        if np.isnan(values).all():
            raise PlanError(
                f"data.curriculum goes by {name}, of which no record has a value",
                "a column with values",
                "run ingest with --curate on these videos",
            )
        return -values if self.sampling.easy_descending else values

    def _shard(self, record: Numbers) -> Numbers | None:
        return self._shards[record] if self.window else None

    @functools.cached_property
    def _shards(self) -> Numbers:
        """The number of each record's shard; shards of other datasets are others by any name."""
        names, number = self.catalog.numbered("shard")
        return narrow(number + self.catalog.datasets * len(names))


def _ladder(catalog: Catalog, record: Numbers) -> Numbers:
    """How many frames apart the reference frames of records are; 1 where nothing is known."""
    profiles = [meta.get("profile") or {} for meta in catalog.metas]
    steps = np.array([p.get("k", 1) if p.get("name") == "training" else 1 for p in profiles])
    return (
        steps[catalog.datasets[record]] if len(steps) > 1 else np.broadcast_to(steps, record.shape)
    )
