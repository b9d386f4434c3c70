"""One trial: a model trained on a world with a seed, by the ordinary launch, and tested.

Its name tells what decides it, so that what is there need not be made again. What came out lies
in a file of its own beside the run.
"""

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clipmill import evaluate as evaluation
from clipmill import infer, launch, storage
from clipmill.catalog import Catalog
from clipmill.evidence.asked import Asked, Pair
from clipmill.evidence.cost import counted
from clipmill.launch import folder_of, read_metrics
from clipmill.recipe import Recipe

DIGEST_LETTERS = 12
NO_SPLIT = "none"  # nothing is chosen by validation here, so none is done

Row = dict[str, Any]
Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Trial:
    """A pair with a seed, as a recipe."""

    pair: Pair
    seed: int
    given: Recipe
    folder: str  # of all trials
    begins: "Trial | None" = None  # whose weights it takes

    @property
    def name(self) -> str:
        """Of its run."""
        return self.given.run.name

    @property
    def file(self) -> str:
        """What came out of it."""
        return storage.join(self.folder, "trials", f"{self.name}.json")

    def result(self) -> Row | None:
        """What came out of it, if it has been made."""
        return storage.read_json(self.file) if storage.exists(self.file) else None


def trials_of(
    asked: Asked, pair: Pair, catalogs: Mapping[str, Catalog], folder: str
) -> list[Trial]:
    """The trials of a pair, one a seed, on this very data."""
    begins: list[Trial | None] = [None] * asked.seeds
    if pair in asked.begins:
        begins = list(trials_of(asked, asked.begins[pair], catalogs, folder))
    given, catalog = asked.recipes[pair], catalogs[pair.world]
    told = {"path": catalog.folder, "validate_": NO_SPLIT}
    given = given.model_copy(update={"data": given.data.model_copy(update=told)})
    decisive = [given.identity(), given.train.steps, catalog.meta["digest"]]
    return [
        _trial(pair, seed, given, decisive, folder, begins[seed]) for seed in range(asked.seeds)
    ]


def _trial(
    pair: Pair, seed: int, given: Recipe, decisive: list[Any], folder: str, begins: Trial | None
) -> Trial:
    source = begins.name if begins else None
    told = json.dumps([*decisive, source]).encode()
    name = f"{pair.world}-{pair.model}-{seed}-{hashlib.sha256(told).hexdigest()[:DIGEST_LETTERS]}"
    run = given.run.model_copy(update={"name": name, "folder": storage.join(folder, "runs")})
    train = given.train.model_copy(update={"seed": seed, "init_from": source})
    made = given.model_copy(update={"run": run, "train": train})
    return Trial(pair, seed, made, folder, begins)


def run(trial: Trial, progress: Progress | None = None) -> Row:
    """Train it, or go on with it, test it, and write down what came out."""
    if trial.begins and trial.begins.result() is None:
        run(trial.begins, progress)
    home = folder_of(trial.given)
    began = time.monotonic()

    def tell(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if progress:
            progress(trial.name if what == "training" else what, done, total, figures)

    if not storage.exists(home.result):
        launch.run(trial.given, progress=tell)
    trained = time.monotonic()
    model = infer.load(home.model).to(infer.device())
    told = evaluation.evaluate(
        model, progress=lambda what, done, total: tell(f"testing {trial.name}", done, total, {})
    )
    seconds = time.monotonic() - trained
    cost = counted(model.plugin, len(model.classes))
    row = {
        "name": trial.name, "world": trial.pair.world, "model": trial.pair.model,
        "seed": trial.seed, "plugin": told["plugin"], "metric": told["metric"],
        "metrics": told["metrics"], "videos": told["videos"], "protocol": told["protocol"],
        "parameters": cost.parameters, "flops": cost.flops,
        "steps": storage.read_json(home.result)["steps"], "batch": trial.given.train.batch,
        "threads": trial.given.train.threads, "device": infer.device(),
        "training_clips_per_second": _pace(home.metrics),
        "test_clips_per_second": told["clips"] / seconds,
        "seconds": time.monotonic() - began,
    }  # fmt: skip
    storage.put_json(trial.file, row)
    return row


def _pace(metrics: str) -> float | None:
    """The middle of what the log tells, decoding included."""
    paces = [row["takes_per_second"] for row in read_metrics(metrics) if "takes_per_second" in row]
    return statistics.median(paces) if paces else None
