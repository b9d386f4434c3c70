"""Runs the trials of a transfer one after another, and tells all that is known so far.

What is there is not made again, so the same command goes on, and parts of it may run in several
processes. Knows neither how a trial is trained nor how tables look.
"""

import contextlib
from collections.abc import Sequence
from statistics import fmean

from clipmill import cluster, storage
from clipmill.errors import UsageError
from clipmill.evidence import chance
from clipmill.evidence.claims import Measured
from clipmill.evidence.queue import run_all
from clipmill.evidence.trial import Progress, Row
from clipmill.transfer import trial as trials
from clipmill.transfer.asked import BEGINS, Asked, Side
from clipmill.transfer.trial import Trial
from clipmill.transfer.verdict import judged, said


def run(
    asked: Asked,
    *,
    part: tuple[int, int] = (1, 1),
    train: bool = True,
    progress: Progress | None = None,
) -> Row:
    """Run the trials of a part that are not there yet; then give rows, verdicts and what failed."""
    number, count = part
    if not 1 <= number <= count:
        raise UsageError(f"part {number}/{count}", "1/2 and 2/2, for two parts")
    every = list(trials.trials_of(asked))
    failed = _run_all(asked, every[number - 1 :: count], progress) if train else []
    rows, done = _rows(asked, every)
    verdicts = judged(rows, {s.protocol: s.given.plugin().higher_is_better for s in asked.sides})
    return {
        "source": asked.source,
        "data": asked.catalog.folder,
        "data_digest": asked.catalog.meta["digest"],
        "out": asked.out,
        "seeds": asked.seeds,
        "chance": _of_all({row["chance"] for row in rows}),
        "protocols": [_told(side) for side in asked.sides],
        "rows": rows,
        "verdicts": verdicts,
        "verdict": said(verdicts),
        "failed": failed,
        "trials": len(every),
        "trials_done": done,
    }


def _of_all(chances: set[float | None]) -> float | None:
    """The one that all have."""
    return next(iter(chances)) if len(chances) == 1 else None


def _told(side: Side) -> Row:
    """What a protocol trains, and what its networks begin with."""
    model = side.given.plain()["model"]
    return {
        "protocol": side.protocol,
        "plugin": model.pop("plugin"),
        "fields": model,
        "init": list(side.fit.lines),
        "weights_sha256": side.fit.sha256,
        "steps": side.given.train.steps,
        "batch": side.given.train.batch,
    }


def _run_all(asked: Asked, chosen: Sequence[Trial], progress: Progress | None) -> list[Row]:
    """Run trials that have not been, on one Ray where they need any."""
    waiting = [trial for trial in chosen if trial.result() is None]
    on_ray = any(trial.given.train.workers for trial in waiting)
    with cluster.session(dashboard=True) if on_ray else contextlib.nullcontext():
        return run_all(waiting, lambda trial: trials.run(trial, asked.source, progress), progress)


def _rows(asked: Asked, every: Sequence[Trial]) -> tuple[list[Row], int]:
    """A row a protocol, share and beginning over the seeds that are there, and how many trials are."""
    found = [_with_chance(row, trial, asked) for trial in every if (row := trial.result())]
    rows = [
        _row([r for r in found if (r["protocol"], r["share"], r["begins"]) == place])
        for place in (
            (side.protocol, portion.share, begins)
            for side in asked.sides
            for portion in side.portions
            for begins in BEGINS
        )
        if any((r["protocol"], r["share"], r["begins"]) == place for r in found)
    ]
    return rows, len(found)


def _with_chance(row: Row, trial: Trial, asked: Asked) -> Row:
    of_classes = chance.of_classes(trial.given.plugin(), asked.catalog)
    return {**row, "chance": chance.of_result(row, of_classes)}


def _row(own: Sequence[Row]) -> Row:
    first = own[0]
    measured = Measured(
        tuple(float(row["metrics"][row["metric"]]) for row in own),
        min(row["videos"] for row in own),
    )
    same = ("protocol", "share", "begins", "metric", "chance", "training_videos", "test_protocol", "steps",
            "batch", "threads", "device")  # fmt: skip
    return {
        **{name: first[name] for name in same},
        "values": list(measured.values),
        "mean": measured.mean,
        "spread": measured.spread,
        "videos": measured.videos,
        "seeds": [row["seed"] for row in own],
        "trials": [row["name"] for row in own],
        "seconds": fmean(row["seconds"] for row in own),
    }


def files_of(asked: Asked) -> dict[str, str]:
    """Where its table and plot are written."""
    home = storage.join(asked.out, asked.name)
    return {kind: f"{home}.{kind}" for kind in ("json", "md", "png")}
