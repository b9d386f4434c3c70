"""Brings a run's committed metrics to MLflow, and its progress to whoever watches."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clipmill import storage, track
from clipmill.checkpoint import Keeper
from clipmill.errors import RegistryError
from clipmill.launch.folder import Folder, read_metrics
from clipmill.recipe import Recipe

Progress = Callable[[str, int, int, dict[str, float]], None]  # what, done, total, figures


@contextlib.contextmanager
def mirrored(given: Recipe, home: Folder, run_id: str, progress: Progress | None) -> Iterator[None]:
    """Beside the training, tell its progress and bring committed metrics to MLflow."""
    over = threading.Event()
    mirror = Mirror(given, home, run_id)

    def look() -> None:
        rows = read_metrics(home.metrics)
        if rows and progress:
            progress("training", rows[-1]["step"], given.train.steps, rows[-1])
        mirror.catch_up(rows)

    def watch() -> None:
        while not over.wait(0.5):
            look()

    watcher = threading.Thread(target=watch, name="clipmill-mirror", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()


class Mirror:
    """Brings metrics to MLflow up to the last commit, each step once over all restarts."""

    def __init__(self, given: Recipe, home: Folder, run_id: str) -> None:
        self.given, self.home, self.run_id = given, home, run_id
        self.path = storage.join(home.path, "mirrored.json")
        told = storage.read_json(self.path) if storage.exists(self.path) else {"step": 0}
        self.step = int(str(told["step"]))

    def catch_up(self, rows: list[dict[str, Any]]) -> None:
        """Send what is committed and not yet sent; a server that is away is asked again later."""
        last = Keeper(self.home.path).last()
        committed = _step_of(last) if last else 0
        due = [row for row in rows if self.step < row["step"] <= committed]
        if not due:
            return
        with contextlib.suppress(RegistryError):
            track.log(self.given, self.run_id, due)
            self.step = due[-1]["step"]
            storage.put_json(self.path, {"step": self.step})


def _step_of(folder: str) -> int:
    return int(Path(folder).name.split("-")[1])
