"""One trial: a network trained on a share of the labels by the ordinary launch, and tested.

Its name tells what decides it, so that what is there need not be made again, for whichever source
it was made. What came out lies in a file of its own beside the run.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipmill import evaluate as evaluation
from clipmill import infer, launch, storage
from clipmill.evidence.trial import clear, found
from clipmill.folder import CHECKPOINTS, Folder, folder_of
from clipmill.recipe import Recipe
from clipmill.transfer.asked import BEGINS, Asked, Begins, Portion, Side

DIGEST_LETTERS = 12

Row = dict[str, Any]
Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Trial:
    """A protocol on a share of the labels, from one beginning, with a seed."""

    side: Side
    portion: Portion
    begins: Begins
    seed: int
    given: Recipe
    out: str

    @property
    def name(self) -> str:
        """Of its run."""
        return self.given.run.name

    @property
    def file(self) -> str:
        """What came out of it."""
        return storage.join(self.out, "trials", f"{self.name}.json")

    def result(self) -> Row | None:
        """What came out of it, if it has been made with the values of today."""
        return found(self.given, self.file)


def trials_of(asked: Asked) -> Iterator[Trial]:
    """All trials: the first seed of all, then the second, and so on."""
    for seed in range(asked.seeds):
        for side in asked.sides:
            for portion in side.portions:
                for begins in BEGINS:
                    yield _trial(asked, side, portion, begins, seed)


def _trial(asked: Asked, side: Side, portion: Portion, begins: Begins, seed: int) -> Trial:
    """The recipe of a trial; both beginnings differ in nothing else."""
    of_share = {"share": portion.share, "clips": portion.clips}
    data = side.given.data.model_copy(update=of_share)
    train = side.given.train.model_copy(update={"seed": seed})
    given = side.given.model_copy(update={"data": data, "train": train})
    fit = side.fit if begins == "pretrained" else None
    decisive = [given.identity(), train.steps, asked.catalog.meta["digest"], fit and fit.sha256]
    digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:DIGEST_LETTERS]
    model = given.model.plugin
    name = f"{model}-{side.protocol}-{portion.share:g}-{begins}-{seed}-{digest}"
    begun = {"init_from": fit.folder(asked.out)} if fit else {}
    run = given.run.model_copy(update={"name": name})
    made = given.model_copy(update={"run": run, "train": train.model_copy(update=begun)})
    return Trial(side, portion, begins, seed, made, asked.out)


def run(trial: Trial, source: str, progress: Progress | None = None) -> Row:
    """Train it, or go on with it, test it, and write down what came out."""
    home, began = folder_of(trial.given), time.monotonic()
    if trial.result() is None:
        clear(trial.given, trial.file)

    def tell(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if progress:
            progress(trial.name if what == "training" else what, done, total, figures)

    if not storage.exists(home.result):
        if trial.begins == "pretrained":
            trial.side.fit.save(trial.out, source)
        launch.run(trial.given, progress=tell)
    model = infer.load(home.model).to(infer.device())
    told = evaluation.evaluate(
        model, progress=lambda what, done, total: tell(f"testing {trial.name}", done, total, {})
    )
    row = {
        "name": trial.name, "protocol": trial.side.protocol, "share": trial.portion.share,
        "begins": trial.begins, "seed": trial.seed, "plugin": told["plugin"],
        "metric": told["metric"], "metrics": told["metrics"], "videos": told["videos"],
        "test_protocol": told["protocol"], "training_videos": trial.portion.videos,
        "steps": trial.given.train.steps, "batch": trial.given.train.batch,
        "threads": trial.given.train.threads, "device": infer.device(),
        "seconds": time.monotonic() - began, "recipe": trial.given.plain(),
    }  # fmt: skip
    storage.put_json(trial.file, row)
    _tidy(home)
    return row


def _tidy(home: Folder) -> None:
    """Remove what only training needed: a transfer has dozens of runs, and one model of each stays."""
    storage.remove_folder(storage.join(home.path, CHECKPOINTS))
    begun = storage.join(home.path, "init.safetensors")
    if storage.exists(begun):
        storage.remove(begun)
