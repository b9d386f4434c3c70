"""One trial of a sweep, trained to a rung: a run that is stopped there, and its score.

A trial is an ordinary run: it is stopped after a rung as a signal would stop it, and goes on from
its own commit, so that any schedule is exact. Takes and gives plain values, so that it may be
done in any process; knows nothing of other trials.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from clipmill import launch, storage
from clipmill.errors import PluginError, RecipeError, RunError
from clipmill.folder import Folder, Tail, folder_of, read_metrics
from clipmill.launch import stop
from clipmill.launch.mirror import Progress
from clipmill.recipe import Recipe
from clipmill.sweep.ledger import Row
from clipmill.watch import watching

LOOK_SECONDS = 0.02
NO_RUN = (RunError, PluginError, RuntimeError)  # the last is what torch raises, as for memory


@dataclass(frozen=True)
class Turn:
    """What is to be done of a trial."""

    given: Recipe
    overrides: tuple[str, ...]
    steps: int  # the rung
    is_last: bool  # the run goes to its own end
    metric: str
    parent: str | None  # the sweep's run in MLflow

    @property
    def name(self) -> str:
        """Of its run."""
        return self.given.run.name

    @property
    def home(self) -> Folder:
        """The folder of its run."""
        return folder_of(self.given)


@dataclass(frozen=True)
class Outcome:
    """The score at a rung, or why there is none."""

    score: float | None = None
    error: str | None = None


def taken(turn: Turn, *, address: str | None = None, progress: Progress | None = None) -> Outcome:
    """Train one trial to a rung and give its score, or why it has none."""
    try:
        _to_rung(turn, address, progress)
        score = _score(turn)
        if not math.isfinite(score):
            raise RunError(f"its {turn.metric} is {score}", "a number")
    except NO_RUN as error:
        reason = str(error) if isinstance(error, RunError | PluginError) else repr(error)
        return Outcome(error=reason)
    return Outcome(score)


def _to_rung(turn: Turn, address: str | None, progress: Progress | None) -> None:
    """Train until a rung has been validated, or to the end; what has been done is not done again."""
    if storage.exists(turn.home.result) or (not turn.is_last and _row_at(turn)):
        return

    def tell(what: str, done: int, total: int, figures: dict[str, float]) -> None:
        if progress:
            progress(turn.name if what == "training" else what, done, total, figures)

    with _stopped_at(turn.home, None if turn.is_last else turn.steps) as was_ours:
        try:
            launch.run(
                turn.given, address=address, progress=tell, overrides=turn.overrides,
                parent=turn.parent,
            )  # fmt: skip
        except launch.Stopped as stopped:  # a signal may come while the rung is committed
            if stopped.by_signal or not was_ours.is_set():
                raise


@contextlib.contextmanager
def _stopped_at(home: Folder, steps: int | None) -> Iterator[threading.Event]:
    """While it lasts, a run that comes to a step is asked to stop; tell whether it was.

    It may go on for some steps until it hears. They are kept, and change no score: that is of the
    validation at the very step.
    """
    ours, tail = threading.Event(), Tail(home.metrics)
    if steps is None:
        yield ours
        return

    def look() -> None:
        if not ours.is_set() and any(row["step"] >= steps for row in tail.read()[0]):
            ours.set()
            stop.ask(home.path)

    try:
        with watching(look, every_seconds=LOOK_SECONDS, name="rung"):
            yield ours
    finally:
        stop.forget(home.path)


def _row_at(turn: Turn) -> Row | None:
    """What was logged at a rung, once it has been trained and validated."""
    rows = [row for row in read_metrics(turn.home.metrics) if row["step"] == turn.steps]
    return rows[-1] if rows else None


def _score(turn: Turn) -> float:
    """The metric at a rung; that of its model where the run has ended for good."""
    row = None if turn.is_last else _row_at(turn)
    if row is None:
        result: Row = storage.read_json(turn.home.result)
        row = result["metrics"]
    if turn.metric not in row:
        raise RecipeError(f"sweep.metric is {turn.metric!r}", f"one of {', '.join(row)}")
    return float(row[turn.metric])
