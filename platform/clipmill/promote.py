"""Gives a run's model a name and an alias in the registry, unless the holder tests better.

Both are measured on the same videos, those that the new run's recipe tests on. Knows how models
are compared and registered, not where runs lie.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipmill import compare, evaluate, infer, track
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, RegistryError
from clipmill.infer import Model

Progress = Callable[[str, int, int], None]
Result = dict[str, Any]


def promote(
    home: str,
    uri: str,
    *,
    name: str,
    alias: str = track.CHAMPION,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Register the model of a run's folder under an alias; refuse one that tests worse."""
    track.check_name(name)
    track.check_alias(alias)
    run_id, before = _run_id(home), track.holder(uri, name, alias)
    model = infer.load(f"{home}/model").to(infer.device())
    catalog = plans.catalog_of(model.recipe.data)
    new = {"run": Path(home).name, **_tested(model, catalog, progress)}
    told = {
        "name": name,
        "alias": alias,
        "uri": f"models:/{name}@{alias}",
        "metrics": new["metrics"],
    }
    if before and before["run_id"] == run_id:
        return {**told, "version": before["version"], "nothing_to_do": True}
    old = _old(f"{name}@{alias}", uri, model, catalog, force, progress) if before else None
    compared = _compared(new, old, f"{name}@{alias}", force) if old else None
    made = track.register(uri, run_id, f"{home}/model", name, alias)
    _note(uri, made, alias, before, compared)
    return {
        **told,
        "version": made["version"],
        "nothing_to_do": False,
        "before": dict(old["metrics"]) if old else None,
        "comparison": compared,
    }


def _run_id(home: str) -> str:
    """The run's id in MLflow; refuse one that was trained while MLflow was away."""
    found = track.run_id_of(home)
    if found is None:
        run = Path(home)
        raise RegistryError(
            f"MLflow has not heard of the run {run.name!r}",
            "one that it knows",
            f"`clipmill resume {run.name} --runs {run.parent}` tells it",
        )
    return found


def _tested(model: Model, catalog: Catalog, progress: Progress | None) -> Result:
    return evaluate.evaluate(model, catalog, keep_meters=True, progress=progress)


def _old(
    holder: str, uri: str, new: Model, catalog: Catalog, force: bool, progress: Progress | None
) -> Result | None:
    """The holder of the alias on the same test; None if it cannot be tested and need not be."""
    try:
        with track.fetched(uri, holder) as (folder, told):
            model = infer.load(folder).to(infer.device())
        data = {"data": new.recipe.data}  # its own clips and views, on the videos of the new one
        model = dataclasses.replace(model, recipe=model.recipe.model_copy(update=data))
        return {**told, **_tested(model, catalog, progress)}
    except ClipmillError as error:
        if force:
            return None
        raise RegistryError(
            f"{holder} cannot be tested beside the new model: {error}", todo="or use --force"
        ) from error


def _compared(new: Result, old: Result, holder: str, force: bool) -> dict[str, Any] | None:
    """How the two compare, if they can be; refuse a worse one."""
    try:
        compared = compare.paired(new, old)
    except ClipmillError:
        if force:
            return None
        raise
    if not force and new["score"] < old["score"]:
        raise RegistryError(
            f"{new['run']} reaches {new['metric']} {new['metrics'][new['metric']]:.4f} on"
            f" {new['data']}, {holder} {old['metric']} {old['metrics'][old['metric']]:.4f}",
            "a model that is not worse",
            f"use --force to promote it all the same; {compared['verdict']}",
        )
    return compared


def _note(
    uri: str, made: dict[str, str], alias: str, before: dict[str, str] | None, compared: Any
) -> None:
    """Write beside the version what it took the alias from, and on which grounds."""
    notes = {"clipmill.promoted": alias}
    if before:
        notes["clipmill.followed"] = f"{made['name']}/{before['version']}"
        notes["clipmill.compared"] = compared["verdict"] if compared else "not compared"
    track.note(uri, made["name"], made["version"], notes)
