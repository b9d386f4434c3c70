"""What a run's name and folder may be used for: a new run, or the very one that was broken off.

Reads what lies there and refuses; changes nothing.
"""

import os
from typing import Any

from clipmill import checkpoint, storage
from clipmill import recipe as recipes
from clipmill.catalog import Catalog
from clipmill.checkpoint import Keeper, State
from clipmill.errors import RunError
from clipmill.folder import Folder
from clipmill.plan import Plan
from clipmill.recipe import Recipe


def check_local(given: Recipe) -> None:
    """Workers write into the run's folder as into any other, which takes a disk."""
    if storage.is_remote(given.run.folder):
        raise RunError(
            f"the run's folder {given.run.folder} is in an object store",
            "a folder on a disk, which all nodes share; datasets may lie in a store",
            "set run.folder=...",
        )


def check_new(given: Recipe, home: Folder) -> None:
    """Neither a finished run nor somebody's files are written over."""
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


def check_trained(given: Recipe, home: Folder) -> None:
    """What MLflow has not heard of is told for its own recipe; another wants a run of its own."""
    told: dict[str, Any] = storage.read_json(home.recipe)
    before, steps = told["recipe"], told["recipe"]["train"]["steps"]
    if not given.plugin().by_gradient:  # its steps were counted, not asked for
        given = given.model_copy(update={"train": given.train.model_copy(update={"steps": steps})})
    if given.train.steps != steps or not given.is_of(before):
        check_new(given, home)


def check_same(
    given: Recipe, plan: Plan, catalog: Catalog, home: Folder, allow_changed_data: bool
) -> list[dict[str, Any]]:
    """A broken run goes on only with what it began with; give the changes of data it has seen."""
    last = Keeper(home.path).last()
    if last is None or not storage.exists(home.recipe):
        return []
    before: dict[str, Any] = storage.read_json(home.recipe)
    if changed := given.differences(recipes.parse(before["recipe"])):
        raise RunError(
            f"the run {given.run.name!r} began with another {', '.join(changed)}",
            "the same model, data and training keys (workers, logging and checkpoints may differ)",
            f"take the recipe in {home.recipe}, or set run.name=...",
        )
    state, digest = checkpoint.read_state(last), str(catalog.meta["digest"])
    changes: list[dict[str, Any]] = before.get("data_changes") or []
    seen = changes[-1]["digest"] if changes else state.catalog_digest
    if digest in (state.catalog_digest, seen):
        _check_plan(given, plan, state, bool(changes) or allow_changed_data)
        return changes
    if allow_changed_data:
        return [*changes, {"step": state.step, "digest": digest, "before": seen}]
    raise RunError(
        f"the dataset {catalog.folder} is not the one that {given.run.name!r} began with",
        "the same catalog digest",
        "restore it, set run.name=..., or go on with `clipmill train --anyway`, which is recorded",
    )


def _check_plan(given: Recipe, plan: Plan, state: State, is_allowed: bool) -> None:
    """The same records may still make other takes; what is the same by now is not named."""
    known = ("", plan.digest, plan.digest_with_defaults)
    if state.plan_digest not in known and not is_allowed:
        data = given.data
        causes = [
            "order of records",
            f"choice of those that {given.model.plugin} can use",
            *(["shards, which data.window goes by"] if data.window else []),
            *(["file of data.negatives"] if data.negatives else []),
            *(
                ["names of the classes in masks"]
                if any(meta.get("mask_classes") for meta in plan.catalog.metas)
                else []
            ),
        ]
        raise RunError(
            f"the takes of {given.run.name!r} would be others than those that it began with,"
            " with the same recipe and records",
            f"the same {' and '.join(causes)}",
            "restore them, set run.name=..., or go on with `clipmill train --anyway`",
        )
