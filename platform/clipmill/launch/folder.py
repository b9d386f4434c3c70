"""The files of one run, and what is read from them while it lives."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill import storage
from clipmill.recipe import Recipe


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
