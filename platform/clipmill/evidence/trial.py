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
NO_SPLIT = "none"  # where nothing is chosen by validation, none is done

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
        """What came out of it, if it has been made, and made of what it would begin with now."""
        row = found(self.given, self.file)
        if row is None or self.begins is None:
            return row
        return row if self.begins.given.is_of(row["begins_with"]) else None


def found(given: Recipe, file: str) -> Row | None:
    """What came out of a recipe, if it was made with all the values of today.

    Names tell only what differs from the defaults, so that a new key makes no trial a stranger;
    where a default is another one since, the recipe that is kept tells it.
    """
    if not storage.exists(file):
        return None
    row: Row = storage.read_json(file)
    return row if given.is_of(row["recipe"]) else None


def clear(given: Recipe, file: str) -> None:
    """Remove what is there of a trial that has to be made again, and a run with other values."""
    home = folder_of(given)
    before: Row = storage.read_json(home.recipe) if storage.exists(home.recipe) else {}
    if storage.exists(file) or (before and not given.is_of(before["recipe"])):
        storage.remove_folder(home.path)
    if storage.exists(file):
        storage.remove(file)


def trials_of(
    asked: Asked, pair: Pair, catalogs: Mapping[str, Catalog], folder: str
) -> list[Trial]:
    """The trials of a pair, one a seed, on this very data."""
    begins: list[Trial | None] = [None] * asked.seeds
    if pair in asked.begins:
        begins = list(trials_of(asked, asked.begins[pair], catalogs, folder))
    given, catalog = asked.recipes[pair], catalogs[pair.world]
    told = {"path": catalog.folder, **({} if _chooses(given) else {"validate_": NO_SPLIT})}
    given = given.model_copy(update={"data": given.data.model_copy(update=told)})
    decisive = [given.identity(), given.train.steps, catalog.meta["digest"]]
    return [
        _trial(pair, seed, given, decisive, folder, begins[seed]) for seed in range(asked.seeds)
    ]


def _chooses(given: Recipe) -> bool:
    """Whether a test goes by something that the validation chose, such as a threshold."""
    return hasattr(given.plugin().meter(), "settle")


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
    if trial.result() is None:
        clear(trial.given, trial.file)
    if trial.begins and trial.begins.result() is None:
        run(trial.begins, progress)
    row = outcome(trial.given, progress)
    cost = counted(trial.given.plugin(), row["classes"])
    row |= {
        "world": trial.pair.world, "model": trial.pair.model,
        "parameters": cost.parameters, "flops": cost.flops,
        "begins_with": trial.begins.given.plain() if trial.begins else None,
    }  # fmt: skip
    storage.put_json(trial.file, row)
    return row


def outcome(given: Recipe, progress: Progress | None) -> Row:
    """Train a recipe, or go on with it, unless that is done; test it, and tell what came out."""
    home, name, began = folder_of(given), given.run.name, time.monotonic()

    def tell(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if progress:
            progress(name if what == "training" else what, done, total, figures)

    if not storage.exists(home.result):
        launch.run(given, progress=tell)
    trained = time.monotonic()
    model = infer.load(home.model).to(infer.device())
    told = evaluation.evaluate(
        model, progress=lambda what, done, total: tell(f"testing {name}", done, total, {})
    )
    ended = time.monotonic()
    same = ("plugin", "metric", "metrics", "videos", "protocol")
    return {
        "name": name, "seed": given.train.seed, **{key: told[key] for key in same},
        "classes": len(model.classes), "steps": storage.read_json(home.result)["steps"],
        "batch": given.train.batch, "threads": given.train.threads, "device": infer.device(),
        "training_clips_per_second": _pace(home.metrics),
        "test_clips_per_second": told["clips"] / (ended - trained),
        "seconds": ended - began, "recipe": given.plain(),
    }  # fmt: skip


def _pace(metrics: str) -> float | None:
    """The middle of what the log tells, decoding included."""
    paces = [row["takes_per_second"] for row in read_metrics(metrics) if "takes_per_second" in row]
    return statistics.median(paces) if paces else None
