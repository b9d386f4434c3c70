"""The folder of one run: its files, and what is read from them while it lives.

Light, so that whoever only looks at runs loads no network. Knows neither how a run is trained
nor what a checkpoint holds.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill import storage
from clipmill.recipe import Recipe

CHECKPOINTS, MARKER = "checkpoints", "COMMITTED"  # the marker is written last into a checkpoint
SWEEP = "sweep.json"  # in the folder of a sweep: its trials, runs beside it, and their states


@dataclass(frozen=True)
class Folder:
    """The files of one run."""

    path: str

    @property
    def recipe(self) -> str:
        """The resolved recipe, written first."""
        return storage.join(self.path, "recipe.json")

    @property
    def metrics(self) -> str:
        """One JSON line a logged step."""
        return storage.join(self.path, "metrics.jsonl")

    @property
    def bad_clips(self) -> str:
        """One JSON line a clip that did not decode: wanted, used, reason."""
        return storage.join(self.path, "bad_clips.jsonl")

    @property
    def feed(self) -> str:
        """What the feed of rank 0 measured, and its verdict; written at the end."""
        return storage.join(self.path, "feed.json")

    @property
    def attempts(self) -> str:
        """One JSON line a start: on how many Ray workers, and from which step on; the last may write."""
        return storage.join(self.path, "attempts.jsonl")

    @property
    def result(self) -> str:
        """What came out, written last: the mark of a finished run."""
        return storage.join(self.path, "result.json")

    @property
    def model(self) -> str:
        """The model folder."""
        return storage.join(self.path, "model")


def folder_of(given: Recipe) -> Folder:
    """The folder of a recipe's run."""
    return Folder(storage.join(storage.absolute(given.run.folder), given.run.name))


def committed(run: str) -> list[Path]:
    """The checkpoints of a run's folder that count, by their steps."""
    return sorted(path.parent for path in Path(run, CHECKPOINTS).glob(f"step-*/{MARKER}"))


def uncommitted(run: str) -> list[Path]:
    """Those that do not: being written, or left by a crash."""
    every = Path(run, CHECKPOINTS).glob("step-*")
    return sorted(path for path in every if not (path / MARKER).exists())


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint is of."""
    return int(checkpoint.name.split("-")[1])


def committed_step(home: Folder) -> int:
    """How far a run has come for good."""
    return max(map(step_of, committed(home.path)), default=0)


def cut_metrics(metrics: str, done: int) -> None:
    """Drop logged steps after the last commit: they will be logged again."""
    rows = [row for row in read_metrics(metrics) if row["step"] <= done]
    storage.put(metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())


def add_lines(path: str, rows: list[dict[str, Any]]) -> None:
    """Append rows as JSON lines."""
    if rows:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def cut_bad_clips(path: str, position: int) -> None:
    """Drop bad clips after the last commit: they will be met again."""
    if os.path.exists(path):
        rows = [row for row in read_metrics(path) if row["position"] < position]
        storage.put(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_metrics(path: str) -> list[dict[str, Any]]:
    """Read logged steps; a line that is still being written is left out."""
    if not os.path.exists(path):
        return []
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class Tail:
    """Reads a growing file of JSON lines bit by bit; from the start again once it was replaced."""

    def __init__(self, path: str) -> None:
        self.path, self._place, self._file = path, 0, (0, 0)

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Read the whole lines that were added, and tell whether the file is another one."""
        try:
            with open(self.path, "rb") as file:
                told = os.fstat(file.fileno())
                anew = (told.st_dev, told.st_ino) != self._file or told.st_size < self._place
                self._file = (told.st_dev, told.st_ino)
                self._place = 0 if anew else self._place
                file.seek(self._place)
                added = file.read()
        except FileNotFoundError:
            return [], False
        whole = added[: added.rfind(b"\n") + 1]
        self._place += len(whole)
        return [json.loads(line) for line in whole.splitlines()], anew
