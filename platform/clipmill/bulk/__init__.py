"""A model asked about whole datasets: one row a record in a Parquet table, each exactly once.

Parts of the table lie beside it while it is made, each written whole; the same command goes on
from them, and joins them at the end. Clips take the way of evaluation, and not Ray Data's: there
the same blocks reached 0.59 of the bare decoder, here 0.86 (tests/bench/RESULTS.md), and answers
are those of evaluation.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipmill import catalog as catalogs
from clipmill import checkpoint, cluster, cores, infer, storage
from clipmill import plan as plans
from clipmill.bulk import near, pool, rows
from clipmill.bulk.asking import Asked, asked_of
from clipmill.bulk.parts import MOST_BYTES, Cut, Parts, cut, filled
from clipmill.catalog import Catalog
from clipmill.errors import DataError, UsageError
from clipmill.evaluate.pieces import pieces
from clipmill.evaluate.work import Answered, answered
from clipmill.infer import Model
from clipmill.plan import Plan

__all__ = ["Asked", "run"]

SUFFIX = ".parquet"
SMALL_FRAMES = 1 << 15  # below, Ray may take longer to start than the work takes
FIRST_SECONDS, LONG_SECONDS = 10.0, 60.0  # of work, after which one sees whether more is left

Progress = Callable[[str, int, int, Mapping[str, float]], None]


def run(
    model: Model,
    data: str,
    out: str,
    *,
    asked: Asked = "answers",
    neighbours: int = 0,
    split: str | None = None,
    where: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    part_frames: int | None = None,
    part_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a model about every record of a dataset, and tell what came of it.

    `workers` are actors on Ray with a model each; 0 answers in this process, None takes what the
    machine or the cluster has. Where there is little to do and no cluster is named, that is this
    process, until it shows that the network is a slow one.
    """
    cluster.check(workers, address)
    began, out = time.monotonic(), storage.absolute(out)
    if not storage.name_of(out).endswith(SUFFIX):
        raise UsageError(f"the table {out}", f"a file that ends in {SUFFIX}", "name it in --out")
    plan = plans.of_all(model.recipe, _chosen(catalogs.load(data), split, where))
    told = _decisive(model, plan, asked, neighbours)
    with Parts(out, pieces(plan.epoch(0).record[:, 0]), told) as parts:
        if parts.is_joined:
            counts = parts.counts()
            return {**_told(model, out, counts, asked, began), "nothing_to_do": True}
        job = _Job(model, plan, asked, parts, part_frames, part_bytes, progress)
        job.run(workers, address)
        found = near.found(parts.tables(), neighbours, progress) if neighbours else None
        parts.join(told, found.column if found else None)
        counts = parts.counts()
    share = (
        {} if found is None or found.same_class is None else {"same_class_share": found.same_class}
    )
    resumed = {"resumed_records": job.before} if job.before else {}
    made = {**_told(model, out, counts, asked, began), **resumed, **share}
    return {**made, "workers": job.workers, "nothing_to_do": False}


def _chosen(whole: Catalog, split: str | None, where: str | None) -> Catalog:
    part = whole.part(split=split, where=where)
    if not len(part) and (split or where):
        named = " and ".join(
            f"{name} {told!r}" for name, told in (("split", split), ("where", where)) if told
        )
        raise UsageError(
            f"{named}, of which {whole.folder} has no records",
            "at least one",
            f"it has the splits {plans.splits(whole)}",
        )
    return part


def _decisive(model: Model, plan: Plan, asked: Asked, neighbours: int) -> dict[str, Any]:
    """What decides the rows of the table; the fields of the plugin are in the plan's digest."""
    return {
        "asked": asked,
        "neighbours": neighbours,
        "plugin": model.recipe.model.plugin,
        "weights_sha256": checkpoint.weights_sha256(model.module.state_dict()),
        "classes": list(model.classes),
        "protocol": infer.protocol(model.recipe),
        "data_digest": plan.catalog.digest,
        "plan_digest": plan.digest,
    }


def _told(
    model: Model, out: str, counts: Mapping[str, int], asked: Asked, began: float
) -> dict[str, Any]:
    if not counts["answered"]:
        raise DataError(
            f"not one of {counts['records']} videos could be decoded: {out} tells why of each",
            "one at the least",
            "run `clipmill verify --deep` on the dataset",
        )
    seconds = time.monotonic() - began
    return {
        "out": out,
        "asked": asked,
        **counts,
        "classes": list(model.classes),
        "seconds": seconds,
    }


@dataclass
class _Job:
    """A table on its way."""

    model: Model
    plan: Plan
    asked: Asked
    parts: Parts
    part_frames: int | None
    part_bytes: int
    progress: Progress | None

    def __post_init__(self) -> None:
        self.todo = self._cut()
        self.total = len(np.unique(self.plan.epoch(0).record[:, 0]))
        self.before = self.done = self.total - sum(self.todo.records)
        self.workers, self.bad, self.began = 0, 0, time.monotonic()
        self.unfit = rows.unfit(self.plan)

    def run(self, workers: int | None, address: str | None) -> None:
        """Write the parts that are missing."""
        if not self.todo.pieces:  # broken off when only joining was left
            return
        self._tell()
        if workers == 0 or (workers is None and self._is_small(address)):
            self._all_of(self._here(), until=self._is_long if workers is None else None)
            self.todo = self._cut()
        if self.todo.pieces:
            with cluster.session(address):
                self.workers = min(workers or room(self.model), len(self.todo.pieces))
                self._all_of(self._by_actors())

    def _all_of(
        self, made: Generator[list[Answered]], until: Callable[[], bool] | None = None
    ) -> None:
        with contextlib.closing(made):  # nothing is left running by an error
            for answers in made:
                self._write(answers)
                if until is not None and until():
                    return

    def _is_small(self, address: str | None) -> bool:
        """Whether Ray is not worth its start; who names a cluster wants that to be used."""
        return not cluster.is_named(address) and sum(self.todo.frames) < SMALL_FRAMES

    def _is_long(self) -> bool:
        """Whether one network here takes so long that one on every other core, too, is worth it."""
        others = cores.usable() // self.model.recipe.train.threads - 1
        is_known = time.monotonic() - self.began >= FIRST_SECONDS
        return others > 0 and infer.device() == "cpu" and is_known and self._left() >= LONG_SECONDS

    def _by_actors(self) -> Generator[list[Answered]]:
        return pool.answered(
            self.model, self.plan, self.asked, self.todo.pieces, self.workers, self.part_bytes
        )

    def _here(self) -> Generator[list[Answered]]:
        """All in one stream, so that no part waits for the feed to begin again."""
        flat = [piece for part in self.todo.pieces for piece in part]
        ends = {part[-1].stop for part in self.todo.pieces}
        question = asked_of(self.model, self.asked)
        with contextlib.closing(
            answered(self.model, self.plan, flat, "thread", question=question)
        ) as stream:
            yield from filled(stream, self.part_bytes, ends)

    def _write(self, answers: list[Answered]) -> None:
        table = rows.table(self.model, self.plan, answers, self.unfit, self.asked)
        self.parts.put(range(answers[0].piece.start, answers[-1].piece.stop), table)
        self.done += len(table)
        self.bad += rows.count(table)["bad"]
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        figures = {"bad": float(self.bad)}
        if self.done > self.before:
            rate = (self.done - self.before) / (time.monotonic() - self.began)
            figures |= {"videos_per_second": rate, "minutes_left": self._left() / 60}
        self.progress("asking about videos", self.done, self.total, figures)

    def _left(self) -> float:
        """Seconds that the rest will take, as it has gone so far."""
        passed = time.monotonic() - self.began
        return (self.total - self.done) * passed / max(1, self.done - self.before)

    def _cut(self) -> Cut:
        return cut(self.plan, self.parts.todo, self.part_frames)


def room(model: Model) -> int:
    """How many actors a cluster has room for: one a GPU, or one for the threads of each."""
    gpus = int(cluster.gpus())
    return gpus or max(1, cluster.cpus() // model.recipe.train.threads)
