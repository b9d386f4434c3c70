"""What lies in a run's folder and MLflow is to have: files, pictures, samples of the machine.

Sent when the store answers, each row once over all restarts; a note in the folder tells how far.
Whoever writes these files knows nothing of this.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipmill import storage
from clipmill.errors import ClipmillError
from clipmill.recipe import Recipe
from clipmill.track import runs

SYSTEM, SURROUNDINGS = "system.jsonl", "surroundings.jsonl"  # rows of metrics; starts of the run
PICTURES = "pictures"  # a folder
FEED, BAD_CLIPS = "feed.json", "bad_clips.jsonl"  # the feed's figures; a row a clip
FILES = ("recipe.json", SURROUNDINGS, FEED, BAD_CLIPS)
SENT = "sent.json"


class Outbox:
    """What MLflow is to have of one run's folder."""

    def __init__(self, recipe: Recipe, folder: str) -> None:
        self.recipe, self.folder = recipe, Path(folder)
        path = str(self.folder / SENT)
        told: dict[str, Any] = storage.read_json(path) if storage.exists(path) else {}
        self.rows: int = told.get("rows", 0)
        self.files: dict[str, int] = told.get("files", {})  # with their sizes

    def send(self) -> bool:
        """Send what is new; False where it has to wait, to be asked again."""
        run_id = runs.run_id_of(str(self.folder))
        if run_id is None:
            return False
        with suppress(ClipmillError, OSError):
            self._send_files(run_id)
            self._send_system(run_id)
            return True
        return False

    def _send_files(self, run_id: str) -> None:
        pictures = sorted(self.folder.glob(f"{PICTURES}/*"))
        for path in (*(self.folder / name for name in FILES), *pictures):
            name = str(path.relative_to(self.folder))
            if not path.exists() or self.files.get(name) == (size := path.stat().st_size):
                continue
            where = PICTURES if path in pictures else None
            runs.add_files(self.recipe, run_id, [str(path)], where)
            if tags := self._tags(path):
                runs.tag(self.recipe, run_id, tags)
            self.files[name] = size
            self._note()

    def _tags(self, path: Path) -> dict[str, str]:
        """What a file says that is to be seen, and asked for, without opening it."""
        if path.name == SURROUNDINGS:
            return tags_of(rows_of(str(path)))
        if path.name == FEED:
            told: dict[str, Any] = storage.read_json(str(path))
            bad = rows_of(str(self.folder / BAD_CLIPS))
            return {"clipmill.verdict": str(told["verdict"]), "clipmill.bad_clips": str(len(bad))}
        return {}

    def _send_system(self, run_id: str) -> None:
        rows = rows_of(str(self.folder / SYSTEM))
        if due := rows[self.rows :]:
            runs.log(self.recipe, run_id, due)
            self.rows = len(rows)
            self._note()

    def _note(self) -> None:
        storage.put_json(str(self.folder / SENT), {"rows": self.rows, "files": self.files})


def rows_of(path: str) -> list[dict[str, Any]]:
    """Read JSON lines; one that was broken off is left out."""
    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def tags_of(starts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Where the code stood at the last start, and at the others if it stood elsewhere."""
    last = starts[-1]
    tags = {"mlflow.source.name": last["command"], "mlflow.source.type": "LOCAL"}
    tags |= {"clipmill.host": last["machine"]["host"], "clipmill.starts": str(len(starts))}
    if last["user"]:
        tags["mlflow.user"] = last["user"]
    if git := last["git"]:
        tags |= {"mlflow.source.git.commit": git["commit"], "clipmill.dirty": str(git["dirty"])}
        tags |= {"mlflow.source.git.branch": git["branch"]} if "branch" in git else {}
    commits = dict.fromkeys(each["git"]["commit"] for each in starts if each["git"])
    return tags | ({"clipmill.commits": ", ".join(commits)} if len(commits) > 1 else {})
