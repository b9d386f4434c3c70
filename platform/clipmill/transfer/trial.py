"""One trial: a network trained on a share of the labels by the ordinary launch, and tested.

Its name tells what decides it, so that what is there need not be made again, for whichever source
it was made. What came out lies in a file of its own beside the run.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from clipmill import storage
from clipmill.evidence.trial import Progress, Row, clear, found, outcome
from clipmill.folder import CHECKPOINTS, Folder, folder_of
from clipmill.recipe import Recipe
from clipmill.transfer.asked import BEGINS, Asked, Begins, Portion, Side

DIGEST_LETTERS = 12


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
    if trial.result() is None:
        clear(trial.given, trial.file)
    if trial.begins == "pretrained":
        trial.side.fit.save(trial.out, source)
    told = outcome(trial.given, progress)
    row = {
        **told, "protocol": trial.side.protocol, "test_protocol": told["protocol"],
        "share": trial.portion.share, "training_videos": trial.portion.videos,
        "begins": trial.begins,
    }  # fmt: skip
    storage.put_json(trial.file, row)
    _tidy(folder_of(trial.given))
    return row


def _tidy(home: Folder) -> None:
    """Remove what only training needed: a transfer has dozens of runs, and one model of each stays."""
    storage.remove_folder(storage.join(home.path, CHECKPOINTS))
    begun = storage.join(home.path, "init.safetensors")
    if storage.exists(begun):
        storage.remove(begun)
