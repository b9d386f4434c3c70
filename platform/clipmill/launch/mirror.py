"""Brings a run's committed metrics to MLflow, and its progress to whoever watches."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from clipmill import storage
from clipmill.folder import Tail, committed_step
from clipmill.launch.tracked import Tracked
from clipmill.watch import watching

Progress = Callable[[str, int, int, dict[str, float]], None]  # what, done, total, figures

LOOK_SECONDS = 0.5


@contextlib.contextmanager
def mirrored(tracked: Tracked, steps: int, progress: Progress | None) -> Iterator[None]:
    """Beside the training, tell its progress and bring committed metrics to MLflow."""
    mirror = Mirror(tracked)

    def look(*, last: bool = False) -> None:
        mirror.catch_up(last=last)
        if mirror.newest and progress:
            progress("training", mirror.newest["step"], steps, mirror.newest)

    first = tracked.begin_beside
    try:
        with watching(look, every_seconds=LOOK_SECONDS, name="mirror", first=first):
            yield
    finally:
        look(last=True)


class Mirror:
    """Brings metrics to MLflow up to the last commit, each step once over all restarts."""

    def __init__(self, tracked: Tracked) -> None:
        self.tracked, self.home = tracked, tracked.home
        self.path = storage.join(self.home.path, "mirrored.json")
        told = storage.read_json(self.path) if storage.exists(self.path) else {"step": 0}
        self.step = int(str(told["step"]))
        self.tail = Tail(self.home.metrics)
        self.waiting: list[dict[str, Any]] = []
        self.newest: dict[str, Any] = {}

    def catch_up(self, *, last: bool = False) -> None:
        """Send what is committed and not yet sent; a server that is away is asked again later."""
        self._read()
        committed = committed_step(self.home)
        due = [row for row in self.waiting if self.step < row["step"] <= committed]
        if due and self.tracked.metrics(due, last=last):
            self.step = due[-1]["step"]
            storage.put_json(self.path, {"step": self.step})
            self.waiting = [row for row in self.waiting if row["step"] > self.step]

    def _read(self) -> None:
        rows, anew = self.tail.read()
        if anew:  # cut back to a commit: the steps after it are done again
            self.waiting = []
        self.waiting += [row for row in rows if row["step"] > self.step]
        self.newest = rows[-1] if rows else self.newest
