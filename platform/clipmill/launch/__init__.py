"""A training run from recipe to model folder, on Ray Train workers or in this process.

The run's folder is the truth: recipe, checkpoints, metrics and, at the end, the model. A finished
name is refused, a broken run goes on from its last commit, a living one is held by its process.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from clipmill import checkpoint, cluster, infer, look, storage, track, video
from clipmill import evaluate as evaluation
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.catalog import Catalog
from clipmill.checkpoint import Keeper, State
from clipmill.errors import ClipmillError, DataError, PlanError
from clipmill.folder import Folder, committed_step, folder_of, read_metrics
from clipmill.launch import begin, going_on, judge, lesson, room, stop, turn
from clipmill.launch.fit import fit
from clipmill.launch.mirror import Progress, mirrored
from clipmill.launch.stop import Stopped
from clipmill.launch.tracked import Ending, Tracked, ending_of
from clipmill.launch.worker import work
from clipmill.plan import Plan
from clipmill.recipe import Recipe

__all__ = [
    "Folder",
    "Stopped",
    "folder_of",
    "model_at",
    "read_metrics",
    "run",
    "send_untold",
    "work",
]


def run(
    given: Recipe,
    *,
    progress: Progress | None = None,
    address: str | None = None,
    allow_changed_data: bool = False,
    overrides: Sequence[str] = (),
    parent: str | None = None,
) -> dict[str, Any]:
    """Train a recipe to its end, from its last commit if there is one, and tell what came out."""
    going_on.check_local(given)
    given = given.anchored()
    started, home = time.monotonic(), folder_of(given)
    if given.track.register_:
        track.check_name(given.track.register_)
    if ending_of(home) and storage.exists(home.result):
        going_on.check_trained(given, home)
        return send_untold(home)
    catalog = plans.catalog_of(given.data)
    plan = plans.make(given, "train", catalog)  # refuse what cannot work before anything is written
    lesson.check(given, plan.plugin)
    if given.train.validate_every is not None:
        judge.check(given, catalog)
    given = lesson.with_steps(given, plan)
    going_on.check_new(given, home)
    with storage.holding(home.path, f"clipmill train {given.run.name}"):
        going_on.check_new(given, home)
        changes = going_on.check_same(given, plan, catalog, home, allow_changed_data)
        storage.put_json(home.recipe, {"recipe": given.plain(), "data_changes": changes})
        begun = begin.gather(given, home, plan.plugin.class_names(catalog))
        stop.forget(home.path)
        tracked = Tracked(given, home, overrides=overrides, parent=parent)
        tracked.begin(catalog)
        with _ends_tracked(tracked):
            draw = partial(look.look, given)
            with (
                track.accompanied(given, home.path, overrides=overrides, draw=draw),
                mirrored(tracked, given.train.steps, progress),
            ):
                _trained(given, home, plan, address)
            result = _finished(given, home, catalog, tracked, progress)
    return {**result, **begun, "seconds": time.monotonic() - started}


def send_untold(home: Folder) -> dict[str, Any]:
    """Tell MLflow what it has not heard of a finished run, and give its result."""
    result: dict[str, Any] = storage.read_json(home.result)
    ending = ending_of(home)
    if ending is None:
        return result
    with storage.holding(home.path, f"clipmill resume {result['name']}"):
        told: dict[str, Any] = storage.read_json(home.recipe)
        moved = {**told["recipe"]["run"], "folder": os.path.dirname(home.path)}
        tracked = Tracked(recipes.parse({**told["recipe"], "run": moved}), home)
        with mirrored(tracked, result["steps"], None):
            pass
        tracked.end(ending)
        return _put_result(home, result, tracked)


@contextmanager
def _ends_tracked(tracked: Tracked) -> Iterator[None]:
    """Whatever ends a run early is told in MLflow; the run itself may go on later."""
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with suppress(ClipmillError):
            tracked.end(Ending(status, {"clipmill.ended": type(error).__name__}))
        raise


def _trained(given: Recipe, home: Folder, plan: Plan, address: str | None) -> None:
    last = Keeper(home.path).last()
    state = checkpoint.read_state(last) if last else None
    if state and (state.ended or state.step >= given.train.steps):
        return  # broken off after its last step
    if given.train.workers == 0:
        with _stoppable(given, home):
            Keeper(home.path).clean()
            settings = {"recipe": given.plain(), "folder": home.path, "transport": "thread"}
            work(settings, turn.begin(home, 0))
        return
    if cluster.starts_one(address):
        room.check_machine(given, plan)
    with _stoppable(given, home), cluster.session(address, dashboard=True):
        room.check_cluster(given, plan)
        Keeper(home.path).clean()
        if not stop.asked(home.path):
            fit(given, home.path)


@contextmanager
def _stoppable(given: Recipe, home: Folder) -> Iterator[None]:
    """A signal ends the run after a step and a commit; then tell how to go on."""
    with stop.on_signals(home.path) as came:
        yield
    if came or stop.asked(home.path):
        stop.forget(home.path)
        step = committed_step(home)
        kept = f"stopped and kept at step {step}" if step else "stopped before its first step"
        raise Stopped(
            f"{kept} of {given.train.steps}; the same command, or"
            f" `clipmill resume {given.run.name} --runs {given.run.folder}`, goes on from there",
            came[0] if came else None,
        )


def _finished(
    given: Recipe, home: Folder, catalog: Catalog, tracked: Tracked, progress: Progress | None
) -> dict[str, Any]:
    """Make the model folder, measure it on validation and close the run.

    The model is that of the last commit, or of the best where the run could end early.
    """
    keeper = Keeper(home.path)
    last = keeper.last()
    assert last is not None, "a run commits its last step"
    chosen = (keeper.best() if given.train.stop else None) or last
    state = checkpoint.read_state(last)
    state = replace(state, weights_sha256=checkpoint.read_state(chosen).weights_sha256)
    model = model_at(chosen, given, catalog)
    figures = _validation(model, catalog, given, progress)
    model.figures = {"validation": figures} if "metrics" in figures else {}
    infer.save(home.model, model)
    metrics = {f"val_{name}": value for name, value in figures.get("metrics", {}).items()}
    result = {
        "run_id": tracked.run_id,
        "name": given.run.name,
        "folder": home.path,
        "steps": state.step,
        "metrics": {**_last_metrics(home), **metrics},
        "weights_sha256": state.weights_sha256,
        "takes_sha256": state.takes_sha256,
        **_told_of_feed(home),
        **({"health": figures["health"]} if "health" in figures else {}),
        **({"validation_fault": figures["fault"]} if "fault" in figures else {}),
    }
    tracked.end(_ending(given, state, metrics, figures.get("health")))
    return _put_result(home, result, tracked)


def _put_result(home: Folder, result: dict[str, Any], tracked: Tracked) -> dict[str, Any]:
    """Write what came out, the mark of a finished run."""
    result |= {"run_id": tracked.run_id, "tracked": ending_of(home) is None}
    if tracked.version:
        result["version"] = tracked.version
    storage.put_json(home.result, result)
    return result


def _told_of_feed(home: Folder) -> dict[str, Any]:
    """What limited, and how many clips were bad; nothing where the run broke off at its end."""
    if not storage.exists(home.feed):
        return {}
    figures: dict[str, Any] = storage.read_json(home.feed)
    return {"bad_clips": len(read_metrics(home.bad_clips)), "verdict": figures["verdict"]}


def _ending(given: Recipe, state: State, metrics: dict[str, float], health: str | None) -> Ending:
    tags = {
        "clipmill.weights_sha256": state.weights_sha256,
        "clipmill.takes_sha256": state.takes_sha256,
        **({"clipmill.health": health} if health else {}),
    }
    row = {"step": state.step, "time": time.time(), **metrics}
    return Ending("FINISHED", tags, row, model=True, register=given.track.register_)


def model_at(checkpoint_folder: str, given: Recipe, catalog: Catalog) -> infer.Model:
    """The model of a checkpoint."""
    plugin = given.plugin()
    classes = plugin.class_names(catalog)
    module = infer.build(plugin, classes, restored=True)
    module.load_state_dict(checkpoint.read_weights(checkpoint_folder))
    profile = video.Profile(**catalog.meta["profile"])
    return infer.Model(module, given, classes, profile).to(infer.device())


LONG = ("answers", "figures", "left_out")  # of an evaluation: not for the model's own folder


def _validation(
    model: infer.Model, catalog: Catalog, given: Recipe, progress: Progress | None
) -> dict[str, Any]:
    split = given.data.validate_
    if model.plugin.meter() is None or not len(catalog.part(split=split, where=given.data.where)):
        return {}

    def tell(what: str, done: int, total: int) -> None:
        if progress:
            progress(what, done, total, {})

    try:
        figures = evaluation.evaluate(model, catalog, stage="val", progress=tell)
    except (DataError, PlanError) as error:  # what was learned is not lost by unfit videos
        return {"fault": str(error)}
    with suppress(ClipmillError, OSError):  # pictures are not worth a run
        evaluation.draw(figures, storage.join(folder_of(given).path, track.PICTURES), catalog)
    return {name: told for name, told in figures.items() if name not in LONG}


def _last_metrics(home: Folder) -> dict[str, float]:
    rows = read_metrics(home.metrics)
    return {k: v for k, v in rows[-1].items() if k not in ("step", "time")} if rows else {}
