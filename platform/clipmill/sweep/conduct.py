"""Trains the trials of a sweep one after another, and lets the best go on at each rung.

A trial is an ordinary run: it is stopped after a rung as a signal would stop it, and goes on
from its own commit, so that any schedule is exact. Knows nothing of how a run is trained.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence

from clipmill import cluster, launch, storage
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, PluginError, RecipeError, RunError
from clipmill.launch import Folder, folder_of, read_metrics, stop
from clipmill.launch.folder import Tail
from clipmill.launch.mirror import Progress
from clipmill.sweep import halving, ledger, told
from clipmill.sweep.asked import Sweep, Trial
from clipmill.sweep.ledger import Ledger, Row

LOOK_SECONDS = 0.02
NO_RUN = (RunError, PluginError, RuntimeError)  # the last is what torch raises, as for memory


def run(
    sweep: Sweep,
    *,
    address: str | None = None,
    progress: Progress | None = None,
    overrides: Sequence[str] = (),
) -> Row:
    """Train all trials of a sweep, or those that are still to do, and tell the best."""
    home = folder_of(sweep.base)
    _check_place(sweep, home)
    catalog = plans.catalog_of(sweep.base.data)
    _check_videos(sweep, catalog)
    with storage.holding(home.path, f"clipmill sweep {sweep.base.run.name}"):
        notes = ledger.opened(sweep, home.path, str(catalog.meta["digest"]))
        notes.keep()
        parent = told.Parent(sweep, notes, catalog, overrides)
        with parent.open(), _session(sweep, notes, address):
            living = _trained(sweep, notes, parent, address, progress)
            best = _best(sweep, notes, living)
            storage.put(storage.join(home.path, told.BEST), told.best_recipe(sweep, best))
            parent.close(best)
    return told.result(sweep, notes, best)


def _check_place(sweep: Sweep, home: Folder) -> None:
    if storage.is_remote(home.path):
        raise RunError(f"the sweep's folder {home.path} is in an object store", "one on a disk")
    if storage.exists(home.recipe):
        name = sweep.base.run.name
        raise RunError(f"{name!r} is a run in {sweep.base.run.folder}", "a new name for a sweep")


def _check_videos(sweep: Sweep, catalog: Catalog) -> None:
    data = sweep.base.data
    validated = sweep.metric.startswith("val_")
    if validated and not len(catalog.part(split=data.validate_, where=data.where)):
        raise PlanError(
            f"a sweep by {sweep.metric}, and no records in the split {data.validate_!r}",
            "some to validate on",
            "set data.validate",
        )


@contextlib.contextmanager
def _session(sweep: Sweep, notes: Ledger, address: str | None) -> Iterator[None]:
    """One Ray for all trials, if any needs it: each would start its own."""
    needed = any(
        trial.given.train.workers and notes.trials[trial.name]["state"] in ("waiting", "going")
        for trial in sweep.trials
    )
    with cluster.session(address, dashboard=True) if needed else contextlib.nullcontext():
        yield


def _trained(
    sweep: Sweep, notes: Ledger, parent: "told.Parent", address: str | None,
    progress: Progress | None,
) -> list[Trial]:  # fmt: skip
    """Train rung by rung; give the trials that came to the last."""
    living, done = list(sweep.trials), 0
    for steps in sweep.rungs:
        for trial in living:
            row = notes.trials[trial.name]
            if row["state"] != "failed" and str(steps) not in row["scores"]:
                _try(sweep, notes, trial, steps, parent.run_id, address, progress)
                parent.tell(trial)
            done += 1
            if progress:
                progress("sweep", done, _count(sweep), {})
        living = _chosen(sweep, notes, living, steps)
    return living


def _count(sweep: Sweep) -> int:
    """How often a trial is trained on, if none fails."""
    count = living = len(sweep.trials)
    for _ in sweep.rungs[1:]:
        living = max(1, living // sweep.eta)
        count += living
    return count


def _try(
    sweep: Sweep, notes: Ledger, trial: Trial, steps: int, parent: str | None,
    address: str | None, progress: Progress | None,
) -> None:  # fmt: skip
    """Train one trial to a rung and write down its score, or why it has none."""
    notes.note(trial.name, state="going")
    try:
        last = steps == sweep.rungs[-1]
        _to_rung(sweep, trial, None if last else steps, parent, address, progress)
        score = _score(sweep, trial, steps)
        if not math.isfinite(score):
            raise RunError(f"its {sweep.metric} is {score}", "a number")
    except NO_RUN as error:
        reason = str(error) if isinstance(error, RunError | PluginError) else repr(error)
        notes.note(trial.name, state="failed", error=reason)
        return
    scores = {**notes.trials[trial.name]["scores"], str(steps): score}
    state: ledger.State = "finished" if last else "going"
    notes.note(trial.name, state=state, steps=steps, score=score, scores=scores)


def _to_rung(
    sweep: Sweep, trial: Trial, steps: int | None, parent: str | None,
    address: str | None, progress: Progress | None,
) -> None:  # fmt: skip
    """Train until a rung has been validated, or to the end; what has been done is not done again."""
    home = folder_of(trial.given)
    if storage.exists(home.result) or (steps and _row_at(home, steps)):
        return

    def tell(what: str, done: int, total: int, figures: dict[str, float]) -> None:
        if progress:
            progress(trial.name if what == "training" else what, done, total, figures)

    with _stopped_at(home, steps) as was_ours:
        try:
            launch.run(
                trial.given, address=address, progress=tell, overrides=trial.overrides,
                parent=parent,
            )  # fmt: skip
        except launch.Stopped:
            if not was_ours.is_set():
                raise


@contextlib.contextmanager
def _stopped_at(home: Folder, steps: int | None) -> Iterator[threading.Event]:
    """While it lasts, a run that comes to a step is asked to stop; tell whether it was.

    It may go on for some steps until it hears. They are kept, and change no score: that is of the
    validation at the very step.
    """
    over, ours, tail = threading.Event(), threading.Event(), Tail(home.metrics)

    def watch(asked: int) -> None:
        while not over.wait(LOOK_SECONDS):
            if any(row["step"] >= asked for row in tail.read()[0]):
                ours.set()
                return stop.ask(home.path)

    watcher = threading.Thread(target=watch, args=(steps,), name="clipmill-rung", daemon=True)
    if steps is not None:
        watcher.start()
    try:
        yield ours
    finally:
        over.set()
        if steps is not None:
            watcher.join()
            stop.forget(home.path)


def _row_at(home: Folder, steps: int) -> Row | None:
    """What was logged at a rung, once it has been trained and validated."""
    rows = [row for row in read_metrics(home.metrics) if row["step"] == steps]
    return rows[-1] if rows else None


def _score(sweep: Sweep, trial: Trial, steps: int) -> float:
    """The metric at a rung; that of its model where the run has ended for good."""
    home = folder_of(trial.given)
    row = _row_at(home, steps) if steps != sweep.rungs[-1] else None
    if row is None:
        result: Row = storage.read_json(home.result)
        row = result["metrics"]
    if sweep.metric not in row:
        raise RecipeError(f"sweep.metric is {sweep.metric!r}", f"one of {', '.join(row)}")
    return float(row[sweep.metric])


def _chosen(sweep: Sweep, notes: Ledger, living: list[Trial], steps: int) -> list[Trial]:
    """Those that go on after a rung; the others are written down as stopped."""
    rows = [notes.trials[trial.name] for trial in living]
    scores = {r["name"]: r["scores"][str(steps)] for r in rows if r["state"] != "failed"}
    if not scores:
        first = rows[0]
        raise RunError(
            f"all of {len(rows)} trials failed, {first['name']}: {first['error']}",
            "one that trains",
            "mend that and run it again, or change what is tried and set run.name=...",
        )
    if steps == sweep.rungs[-1]:
        return [trial for trial in living if trial.name in scores]
    kept = halving.best(scores, sweep.eta, higher_is_better=sweep.higher_is_better)
    for name in scores.keys() - set(kept):
        notes.note(name, state="stopped")
    return [trial for trial in living if trial.name in kept]


def _best(sweep: Sweep, notes: Ledger, living: list[Trial]) -> Trial:
    scores = {trial.name: notes.trials[trial.name]["score"] for trial in living}
    name = halving.best(scores, len(scores), higher_is_better=sweep.higher_is_better)[0]
    return next(trial for trial in living if trial.name == name)
