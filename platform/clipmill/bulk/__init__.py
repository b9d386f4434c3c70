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

from clipmill import catalog as catalogs
from clipmill import checkpoint, cluster, infer, storage
from clipmill import plan as plans
from clipmill.bulk import near, pool, rows
from clipmill.bulk.asking import Asked, asked_of
from clipmill.bulk.parts import Parts, cut
from clipmill.errors import DataError, UsageError
from clipmill.evaluate.pieces import pieces
from clipmill.evaluate.work import Answered, answered
from clipmill.infer import Model
from clipmill.plan import Plan

__all__ = ["Asked", "run"]

SUFFIX = ".parquet"
SMALL_FRAMES = 1 << 15  # below, Ray would take longer to start than the work takes

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
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask a model about every record of a dataset, and tell what came of it.

    `workers` are actors on Ray with a model each; 0 answers in this process, None takes what the
    machine or the cluster has, or this process where there is little to do.
    """
    began, out = time.monotonic(), storage.absolute(out)
    if not storage.name_of(out).endswith(SUFFIX):
        raise UsageError(f"the table {out}", f"a file that ends in {SUFFIX}", "name it in --out")
    catalog = catalogs.load(data).part(split=split, where=where)
    plan = plans.of_all(model.recipe, catalog)
    told = _decisive(model, plan, asked, neighbours)
    whole = pieces(plan.epoch(0).record[:, 0])
    with Parts(out, cut(plan, whole, part_frames), told) as parts:
        if parts.is_joined:
            counts = parts.counts()
            return {**_told(model, out, counts, asked, began), "nothing_to_do": True}
        job = _Job(model, plan, asked, parts, progress)
        job.run(_workers(parts, workers), address)
        found = near.found(parts.tables(), neighbours, progress) if neighbours else None
        parts.join({**told, "classes": list(model.classes)}, found.column if found else None)
        counts = parts.counts()
    share = (
        {} if found is None or found.same_class is None else {"same_class_share": found.same_class}
    )
    resumed = {"resumed_records": job.before} if job.before else {}
    return {**_told(model, out, counts, asked, began), **resumed, **share, "nothing_to_do": False}


def _decisive(model: Model, plan: Plan, asked: Asked, neighbours: int) -> dict[str, Any]:
    """What decides the rows of the table."""
    return {
        "asked": asked,
        "neighbours": neighbours,
        "plugin": model.recipe.model.plugin,
        "weights_sha256": checkpoint.weights_sha256(model.module.state_dict()),
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


def _workers(parts: Parts, asked: int | None) -> int:
    """How many actors: as asked, or -1 for as many as there is room for; 0 is this process."""
    if asked is not None:
        return asked
    left = sum(parts.frames[number] for number in parts.todo)
    return 0 if left < SMALL_FRAMES else -1


@dataclass
class _Job:
    """A table on its way."""

    model: Model
    plan: Plan
    asked: Asked
    parts: Parts
    progress: Progress | None

    def __post_init__(self) -> None:
        self.before = self.done = sum(self.parts.records[number] for number in self.parts.done)
        self.bad, self.began = 0, time.monotonic()
        self.unfit = rows.unfit(self.plan)

    def run(self, workers: int, address: str | None) -> None:
        """Write the parts that are missing."""
        if not self.parts.todo:
            return
        with contextlib.ExitStack() as stack:
            if workers:
                stack.enter_context(cluster.session(address))
                workers = workers if workers > 0 else room(self.model)
            self._tell()
            made = self._by_actors(workers) if workers else self._here()
            stack.enter_context(contextlib.closing(made))  # nothing is left running by an error
            for number, pieces_ in made:
                self._write(number, pieces_)

    def _by_actors(self, workers: int) -> Generator[tuple[int, list[Answered]]]:
        todo = {number: self.parts.pieces[number] for number in self.parts.todo}
        return pool.answered(self.model, self.plan, self.asked, todo, workers)

    def _here(self) -> Generator[tuple[int, list[Answered]]]:
        """All in one stream, so that no part waits for the feed to begin again."""
        todo = self.parts.todo
        flat = [piece for number in todo for piece in self.parts.pieces[number]]
        question = asked_of(self.model, self.asked)
        with contextlib.closing(
            answered(self.model, self.plan, flat, "thread", question=question)
        ) as stream:
            for number in todo:
                yield number, [next(stream) for _ in self.parts.pieces[number]]

    def _write(self, number: int, pieces_: list[Answered]) -> None:
        table = rows.table(self.model, self.plan, pieces_, self.unfit, self.asked)
        self.parts.put(number, table)
        self.done += len(table)
        self.bad += rows.count(table)["bad"]
        self._tell()

    def _tell(self) -> None:
        if self.progress is None:
            return
        total, made = sum(self.parts.records), self.done - self.before
        figures = {"bad": float(self.bad)}
        if made:
            rate = made / (time.monotonic() - self.began)
            figures |= {"videos_per_second": rate, "minutes_left": (total - self.done) / rate / 60}
        self.progress("asking about videos", self.done, total, figures)


def room(model: Model) -> int:
    """How many actors a cluster has room for: one a GPU, or one for the threads of each."""
    gpus = int(cluster.gpus())
    return gpus or max(1, cluster.cpus() // model.recipe.train.threads)
