"""A training run from recipe to model folder, on Ray Train workers or in this process.

The run's folder is the truth: recipe, checkpoints, metrics and, at the end, the model. A finished
name is refused, a broken run goes on from its last commit, a living one is held by its process.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch

from clipmill import checkpoint, cluster, infer, storage, track, video
from clipmill import evaluate as evaluation
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.catalog import Catalog
from clipmill.checkpoint import Keeper, State
from clipmill.errors import ClipmillError, RunError
from clipmill.launch.folder import Folder, folder_of, read_metrics
from clipmill.launch.mirror import Progress, mirrored
from clipmill.launch.worker import work
from clipmill.recipe import Recipe

__all__ = ["Folder", "folder_of", "model_at", "read_metrics", "run", "work"]


def run(
    given: Recipe, *, progress: Progress | None = None, address: str | None = None
) -> dict[str, Any]:
    """Train a recipe to its end, from its last commit if there is one, and tell what came out."""
    given = given.anchored()
    started, home = time.monotonic(), folder_of(given)
    if given.track.register_:
        track.check_name(given.track.register_)
    catalog = plans.catalog_of(given.data)
    plans.make(given, "train", catalog)  # refuse what cannot work before anything is written
    _check_new(given, home)
    with storage.holding(home.path, f"clipmill train {given.run.name}"):
        _check_new(given, home)
        _check_same(given, catalog, home)
        storage.put_json(home.recipe, {"recipe": given.plain(), "identity": given.identity()})
        run_id = track.begin(given, catalog, track.run_id_of(home.path))
        storage.put_json(storage.join(home.path, "mlflow.json"), {"run_id": run_id})
        with _ends_tracked(given, run_id), mirrored(given, home, run_id, progress):
            _trained(given, home, address)
        with _ends_tracked(given, run_id):
            result = _finished(given, home, catalog, run_id, progress)
    return {**result, "seconds": time.monotonic() - started}


def _check_new(given: Recipe, home: Folder) -> None:
    if storage.exists(home.result):
        raise RunError(
            f"the run {given.run.name!r} in {given.run.folder} has finished",
            "a new name",
            "set run.name=... or remove its folder",
        )
    if os.path.isdir(home.path) and not storage.exists(home.recipe):
        strange = [name for name in os.listdir(home.path) if name != ".held"]
        if strange:
            raise RunError(f"{home.path} holds {strange[0]!r} and no run", "a new name or folder")


def _check_same(given: Recipe, catalog: Catalog, home: Folder) -> None:
    """A broken run goes on only with what it began with."""
    last = Keeper(home.path).last()
    if last is None or not storage.exists(home.recipe):
        return
    before: dict[str, Any] = storage.read_json(home.recipe)
    if before["identity"] != given.identity():
        changed = given.differences(recipes.parse(before["recipe"]))
        raise RunError(
            f"the run {given.run.name!r} began with another {', '.join(changed)}",
            "the same model, data and training keys (workers, logging and checkpoints may differ)",
            f"take the recipe in {home.recipe}, or set run.name=...",
        )
    if checkpoint.read_state(last).catalog_digest != catalog.meta["digest"]:
        raise RunError(
            f"the dataset {catalog.folder} is not the one that {given.run.name!r} began with",
            "the same catalog digest",
            "restore it, or set run.name=...",
        )


@contextlib.contextmanager
def _ends_tracked(given: Recipe, run_id: str) -> Iterator[None]:
    """Whatever ends a run early is told in MLflow; the run itself may go on later."""
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with contextlib.suppress(ClipmillError):
            track.finish(given, run_id, status, {"clipmill.ended": type(error).__name__})
        raise


def _trained(given: Recipe, home: Folder, address: str | None) -> None:
    last = Keeper(home.path).last()
    if last and checkpoint.read_state(last).step >= given.train.steps:
        return None  # broken off after its last step
    if given.train.workers == 0:
        Keeper(home.path).clean()
        return work({"recipe": given.plain(), "folder": home.path, "transport": "thread"})
    with cluster.session(address, dashboard=True):
        _check_cpus(given)
        Keeper(home.path).clean()
        _fit(given, home)


def _check_cpus(given: Recipe) -> None:
    # Decoding gets all CPUs: a task holds one, a training worker next to none. It stands still
    # by itself when enough is ready, so a network on the CPU gets what it needs.
    cpus = cluster.cpus()
    if cpus < 1 or (given.train.workers > cpus and not torch.cuda.is_available()):
        raise RunError(
            f"{given.train.workers} workers on {cpus} CPUs",
            "a CPU for each, which it shares with decoding",
            "lower train.workers",
        )


def _fit(given: Recipe, home: Folder) -> None:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train restores by name by itself; our commits are the truth, so every attempt is new.
    scratch = storage.join(home.path, ".ray")
    gpu = torch.cuda.is_available()
    trainer = TorchTrainer(
        work,
        train_loop_config={"recipe": given.plain(), "folder": home.path, "transport": "ray"},
        scaling_config=ScalingConfig(
            num_workers=given.train.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 0.01, **({"GPU": 1} if gpu else {})},
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        torch_config=TorchConfig(timeout_s=120),
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as that of Ray Train v1
            name=f"{given.run.name}-{os.urandom(4).hex()}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=given.train.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error, given) from error
    except SystemExit:  # how Ray Train leaves on Ctrl-C, without a word
        raise KeyboardInterrupt from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cause(error: Any, given: Recipe) -> ClipmillError:
    """Find our own error among those of the workers, or tell theirs in a line."""
    for fault in getattr(error, "worker_failures", {}).values():
        inner: BaseException | None = fault
        while inner is not None:
            if isinstance(inner, ClipmillError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = lines[-1] if lines else type(error).__name__
    return RunError(
        f"training stopped: {told}", todo=f"see the run {given.run.name}, then resume it"
    )


def _finished(
    given: Recipe, home: Folder, catalog: Catalog, run_id: str, progress: Progress | None
) -> dict[str, Any]:
    """Make the model folder of the last commit, measure it on validation and close the run."""
    last = Keeper(home.path).last()
    assert last is not None, "a run commits its last step"
    state = checkpoint.read_state(last)
    model = model_at(last, given, catalog)
    figures = _validation(model, catalog, given, progress)
    model.figures = {"validation": figures} if figures else {}
    infer.save(home.model, model)
    metrics = {f"val_{name}": value for name, value in figures.get("metrics", {}).items()}
    result = {
        "run_id": run_id,
        "name": given.run.name,
        "folder": home.path,
        "steps": state.step,
        "metrics": {**_last_metrics(home), **metrics},
        "weights_sha256": state.weights_sha256,
        "takes_sha256": state.takes_sha256,
        **_told_of_feed(home),
    }
    _close_tracked(given, home, run_id, state, metrics)
    if given.track.register_:
        uri = track.uri_of(given.track.uri, given.run.folder)
        made = track.register(uri, run_id, home.model, given.track.register_, "challenger")
        result["version"] = made["version"]
    storage.put_json(home.result, result)
    return result


def _told_of_feed(home: Folder) -> dict[str, Any]:
    """What limited, and how many clips were bad; nothing where the run broke off at its end."""
    if not storage.exists(home.feed):
        return {}
    figures: dict[str, Any] = storage.read_json(home.feed)
    return {"bad_clips": len(read_metrics(home.bad_clips)), "verdict": figures["verdict"]}


def _close_tracked(
    given: Recipe, home: Folder, run_id: str, state: State, metrics: dict[str, float]
) -> None:
    row = {"step": state.step, "time": time.time(), **metrics}
    tags = {
        "clipmill.weights_sha256": state.weights_sha256,
        "clipmill.takes_sha256": state.takes_sha256,
    }
    track.log(given, run_id, [row])
    track.finish(given, run_id, "FINISHED", tags, home.model)


def model_at(checkpoint_folder: str, given: Recipe, catalog: Catalog) -> infer.Model:
    """The model of a checkpoint."""
    module = infer.build(given.plugin(), catalog.classes, restored=True)
    module.load_state_dict(checkpoint.read_weights(checkpoint_folder))
    profile = video.Profile(**catalog.meta["profile"])
    return infer.Model(module, given, catalog.classes, profile).to(infer.device())


def _validation(
    model: infer.Model, catalog: Catalog, given: Recipe, progress: Progress | None
) -> dict[str, Any]:
    split = given.data.validate_
    if model.plugin.meter() is None or not len(catalog.part(split=split, where=given.data.where)):
        return {}

    def tell(what: str, done: int, total: int) -> None:
        if progress:
            progress(what, done, total, {})

    figures = evaluation.evaluate(model, catalog, stage="val", progress=tell)
    figures.pop("answers")
    return figures


def _last_metrics(home: Folder) -> dict[str, float]:
    rows = read_metrics(home.metrics)
    return {k: v for k, v in rows[-1].items() if k not in ("step", "time")} if rows else {}
