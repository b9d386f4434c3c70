"""Runs the trials that claims need, one after another, and tells all that is known so far.

What is there is not made again, so the same command goes on, and parts of it may run in several
processes. Knows neither how a trial is trained nor how tables look.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from clipmill import cluster, storage
from clipmill.catalog import Catalog
from clipmill.errors import UsageError
from clipmill.evidence import chance, places
from clipmill.evidence import trial as trials
from clipmill.evidence.asked import Asked, Claim, Pair, pairs_of
from clipmill.evidence.claims import Judged, Measured, judged
from clipmill.evidence.queue import run_all
from clipmill.evidence.trial import Progress, Row, Trial


@dataclass(frozen=True)
class Parts:
    """Which of the trials to run."""

    only: tuple[str, ...] = ()  # names of worlds and models
    seeds: int | None = None  # the first so many
    part: tuple[int, int] = (1, 1)  # the first of one
    none: bool = False  # only tell what is there

    def chosen(self, asked: Asked) -> list[tuple[Pair, int]]:
        """Pairs and seeds: the first seed of all pairs, then the second, and so on."""
        worlds, models = self._named(asked)
        pairs = [p for p in asked.pairs if p.world in worlds and p.model in models]
        if not pairs:
            raise UsageError(
                f"no claim needs {' and '.join(self.only)}", "a world and a model of one claim"
            )
        number, count = self.part
        if not 1 <= number <= count:
            raise UsageError(f"part {number}/{count}", "1/2 and 2/2, for two parts")
        seeds = min(self.seeds or asked.seeds, asked.seeds)
        every = [(pair, seed) for seed in range(seeds) for pair in pairs]
        return [] if self.none else every[number - 1 :: count]

    def _named(self, asked: Asked) -> tuple[set[str], set[str]]:
        """The worlds and the models that are named, or all of them."""
        worlds = {pair.world for pair in asked.pairs}
        models = {pair.model for pair in asked.pairs}
        if unknown := set(self.only) - worlds - models:
            known = ", ".join(sorted(worlds | models))
            raise UsageError(f"no world or model {min(unknown)!r} in a claim", f"one of {known}")
        return worlds & set(self.only) or worlds, models & set(self.only) or models


def run(
    asked: Asked, folder: str, parts: Parts = Parts(), *, progress: Progress | None = None
) -> Row:  # fmt: skip
    """Run what is chosen and not there yet; then give rows, claims and what failed."""
    folder = storage.absolute(folder)
    chosen = parts.chosen(asked)
    needed = {world for pair, _ in chosen for world in _worlds_of(pair, asked)}
    catalogs = _catalogs(asked, needed, folder, progress)
    every = {
        (pair, trial.seed): trial
        for pair in asked.pairs
        if _worlds_of(pair, asked) <= catalogs.keys()
        for trial in trials.trials_of(asked, pair, catalogs, folder)
    }
    waiting = [every[each] for each in chosen if every[each].result() is None]
    failed = run_all(waiting, lambda trial: trials.run(trial, progress), progress)
    rows = _found(asked, catalogs, every.values())
    verdicts = [_judged(claim, rows, asked) for claim in asked.claims]
    return {
        "name": asked.name,
        "seeds": asked.seeds,
        "folder": folder,
        "rows": _by_pair(asked, rows),
        "claims": [_plain(one) for one in verdicts],
        "failed": failed,
        "trials": len(asked.pairs) * asked.seeds,
        "trials_done": len(rows),
    }


def _worlds_of(pair: Pair, asked: Asked) -> set[str]:
    """Its own, and that of what it begins with."""
    return {each.world for each in (pair, asked.begins.get(pair)) if each}


def _catalogs(
    asked: Asked, needed: Iterable[str], folder: str, progress: Progress | None
) -> dict[str, Catalog]:
    """The catalogs of all worlds that are there, and of the needed ones, which are made."""

    def tell(what: str, done: int, total: int) -> None:
        if progress:
            progress(what, done, total, {})

    found = {name: places.there(name, world, folder) for name, world in asked.worlds.items()}
    missing = [name for name, catalog in found.items() if name in needed and catalog is None]
    with cluster.session() if missing else contextlib.nullcontext():  # one Ray for all of them
        for name in missing:
            found[name] = places.made(name, asked.worlds[name], folder, tell)
    return {name: catalog for name, catalog in found.items() if catalog is not None}


def _found(asked: Asked, catalogs: Mapping[str, Catalog], every: Iterable[Trial]) -> list[Row]:
    """The results of all trials that were ever made here of this file, and on this data."""
    chances = {
        name: places.chance(name, asked.worlds[name], catalog) for name, catalog in catalogs.items()
    }
    found = [(trial, trial.result()) for trial in every]
    return [
        {**row, "chance": chance.of_result(row, chances[row["world"]])} for _, row in found if row
    ]


def _of(pair: Pair, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if (row["world"], row["model"]) == (pair.world, pair.model)]


def _measured(rows: Sequence[Row], metric: str | None) -> Measured | None:
    """One figure over the seeds; none where a model has no such metric."""
    named = [row["metrics"].get(metric or row["metric"]) for row in rows]
    values = tuple(float(value) for value in named if value is not None)
    if not values:
        return None
    return Measured(values, min(row["videos"] for row in rows), rows[0]["chance"])


def _judged(claim: Claim, rows: Sequence[Row], asked: Asked) -> Judged:
    metrics = (claim.metric, claim.than_metric or claim.metric)
    sides = zip(pairs_of(claim), metrics, strict=False)
    return judged(claim, [_measured(_of(pair, rows), metric) for pair, metric in sides], asked)


def _plain(told: Judged) -> Row:
    shown = ("claim", "kind", "model", "world", "level", "than", "metric", "than_metric")
    return {
        **{name: getattr(told.claim, name) for name in shown},
        "verdict": told.verdict,
        "figures": told.figures,
        "seeds": told.seeds,
        "is_whole": told.is_whole,
    }


def _by_pair(asked: Asked, rows: Sequence[Row]) -> list[Row]:
    """A row a model on a world, over the seeds that are there."""
    made = []
    for pair in asked.pairs:
        if own := _of(pair, rows):
            made.append(_row(pair, own))
    return made


def _row(pair: Pair, own: Sequence[Row]) -> Row:
    first, measured = own[0], _measured(own, None)
    assert measured is not None, "a trial has its plugin's metric"
    same = ("plugin", "metric", "chance", "protocol", "parameters", "flops", "steps", "batch",
            "threads", "device")  # fmt: skip
    paces = ("training_clips_per_second", "test_clips_per_second", "seconds")
    return {
        "world": pair.world,
        "model": pair.model,
        "values": list(measured.values),
        "mean": measured.mean,
        "spread": measured.spread,
        "interval": measured.interval and list(measured.interval),
        "videos": measured.videos,
        "seeds": [row["seed"] for row in own],
        "trials": [row["name"] for row in own],
        **{name: first[name] for name in same},
        **{name: _mean([row[name] for row in own]) for name in paces},
    }


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
