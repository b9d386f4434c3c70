"""Trains the trials of a sweep rung by rung, one after another or side by side.

The best go on at each rung. Knows nothing of how a run is trained.
"""

import contextlib
from collections.abc import Iterator, Sequence

from clipmill import cluster, storage
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, RegistryError, RunError
from clipmill.folder import Folder, folder_of
from clipmill.launch import room
from clipmill.launch.mirror import Progress
from clipmill.sweep import beside, halving, ledger, told
from clipmill.sweep.asked import Sweep, Trial
from clipmill.sweep.ledger import Ledger, Row
from clipmill.sweep.trial import Outcome, Turn, taken


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
        with _session(sweep, notes, catalog, address), parent.open():
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
def _session(sweep: Sweep, notes: Ledger, catalog: Catalog, address: str | None) -> Iterator[None]:
    """One Ray for all trials, if any needs it: each would start its own."""
    due = [
        trial.given
        for trial in sweep.trials
        if notes.trials[trial.name]["state"] in ("waiting", "going")
    ]
    on_ray = [given for given in due if given.train.workers]
    count = min(sweep.parallel, len(due))
    if not on_ray and count < 2:
        cluster.check(0, address)
        yield
        return
    if on_ray and cluster.starts_one(address):
        most = max(on_ray, key=lambda given: given.train.workers)
        room.check_machine(most, plans.make(most, "train", catalog))
    with cluster.session(address, dashboard=bool(on_ray)):
        if count > 1:
            beside.check_room(max(due, key=lambda given: given.train.workers), catalog, count)
        yield


def _trained(
    sweep: Sweep, notes: Ledger, parent: "told.Parent", address: str | None,
    progress: Progress | None,
) -> list[Trial]:  # fmt: skip
    """Train rung by rung; give the trials that came to the last."""
    living, done = list(sweep.trials), 0
    of_name = {trial.name: trial for trial in living}
    for steps in sweep.rungs:
        rows = (notes.trials[trial.name] for trial in living)
        scored = {r["name"] for r in rows if r["state"] == "failed" or str(steps) in r["scores"]}
        turns = [
            _turn(sweep, each, steps, parent.run_id) for each in living if each.name not in scored
        ]
        done += len(scored)
        for turn, outcome in _outcomes(sweep, notes, turns, address, progress):
            _note(notes, turn, outcome)
            with contextlib.suppress(RegistryError):  # told again at the end
                parent.tell(of_name[turn.name])
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


def _turn(sweep: Sweep, trial: Trial, steps: int, parent: str | None) -> Turn:
    is_last = steps == sweep.rungs[-1]
    return Turn(trial.given.anchored(), trial.overrides, steps, is_last, sweep.metric, parent)


def _outcomes(
    sweep: Sweep, notes: Ledger, turns: Sequence[Turn], address: str | None,
    progress: Progress | None,
) -> Iterator[tuple[Turn, Outcome]]:  # fmt: skip
    """Take all turns of a rung; each is written down as going when it begins."""

    def began(turn: Turn) -> None:
        notes.note(turn.name, state="going")

    if sweep.parallel > 1 and len(turns) > 1:
        yield from beside.outcomes(turns, sweep.parallel, notes.folder, began, progress)
        return
    for turn in turns:
        began(turn)
        yield turn, taken(turn, address=address, progress=progress)


def _note(notes: Ledger, turn: Turn, outcome: Outcome) -> None:
    """Write down a trial's score, or why it has none."""
    if outcome.error is not None:
        notes.note(turn.name, state="failed", error=outcome.error)
        return
    scores = {**notes.trials[turn.name]["scores"], str(turn.steps): outcome.score}
    state: ledger.State = "finished" if turn.is_last else "going"
    notes.note(turn.name, state=state, steps=turn.steps, score=outcome.score, scores=scores)


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
