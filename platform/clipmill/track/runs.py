"""One training run as one run of MLflow: its recipe, data, metrics, files and end.

What a run says is decided by whoever trains; this only carries it, in few calls.
"""

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill import storage
from clipmill.catalog import Catalog
from clipmill.errors import RunError
from clipmill.recipe import Recipe
from clipmill.track.store import SQLITE, store, uri_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

PARENT = "mlflow.parentRunId"  # the tag by which MLflow's pages nest runs
DIGEST_LENGTH = 36  # of a dataset, as MLflow's database has it
MOST_PARAMS, MOST_METRICS = 100, 1000  # of one call
INPUT_TRIES = 4
PARAM_LENGTH, TAG_LENGTH = 6000, 8000


def begin(
    recipe: Recipe,
    catalog: Catalog,
    known_id: str | None = None,
    *,
    overrides: Sequence[str] = (),
    parent: str | None = None,
) -> str:
    """Open the MLflow run of a training run, or the one it has already; give its id.

    `parent` is the id of the run that this one is a trial of.
    """
    uri = store_of(recipe)
    with store(uri) as client:
        if known_id is not None:
            client.update_run(known_id, status="RUNNING")
            return known_id
        experiment = _experiment(client, recipe, uri)
        tags = {**_tags(recipe, catalog, overrides), **({PARENT: parent} if parent else {})}
        run_id = str(client.create_run(experiment, run_name=recipe.run.name, tags=tags).info.run_id)
        try:
            _log_params(client, run_id, recipe)
            _log_data(client, run_id, catalog)
        except BaseException:
            with suppress(Exception):  # half a run would stay as one that goes on for ever
                client.delete_run(run_id)
            raise
        return run_id


def store_of(recipe: Recipe) -> str:
    """The tracking store of a recipe."""
    return uri_of(recipe.track.uri, recipe.run.folder)


def _experiment(client: "MlflowClient", recipe: Recipe, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    name = recipe.track.experiment
    here = None
    if uri.startswith("sqlite:"):  # a server keeps artifacts itself
        here = f"file://{storage.absolute(recipe.run.folder)}/mlflow"
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=here))
    except MlflowException:  # another run has made it meanwhile
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _tags(recipe: Recipe, catalog: Catalog, overrides: Sequence[str]) -> dict[str, str]:
    return {
        "clipmill.run": recipe.run.name,
        "clipmill.plugin": recipe.model.plugin,
        "clipmill.overrides": _listed(overrides),
        "clipmill.catalog_digest": str(catalog.meta["digest"]),
        "clipmill.version": version("clipmill"),
        "clipmill.python": platform.python_version(),
        "clipmill.torch": version("torch"),
        "clipmill.ray": version("ray"),
    }


def _listed(overrides: Sequence[str]) -> str:
    """Overrides as JSON; of very many those that a tag can hold. All are in the run's folder."""
    kept = list(overrides)
    while len(json.dumps(kept)) > TAG_LENGTH:
        kept.pop()
    return json.dumps(kept)


def flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested plain data as one level, with dotted keys."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{above}{name}.") if inner else {above + name: value}
    return found


def _log_params(client: "MlflowClient", run_id: str, recipe: Recipe) -> None:
    from mlflow.entities import Param

    told = flat(recipe.plain())
    params = [Param(name, str(value)[:PARAM_LENGTH]) for name, value in told.items()]
    for at in range(0, len(params), MOST_PARAMS):
        client.log_batch(run_id, params=params[at : at + MOST_PARAMS])


def _log_data(client: "MlflowClient", run_id: str, catalog: Catalog) -> None:
    """Each dataset as an input of the run, by the digest of its catalog."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = [InputTag("mlflow.data.context", "training")]
    inputs = []
    for folder, meta in zip(catalog.folders, catalog.metas, strict=True):
        digest = str(meta["digest"])
        profile = {"records": meta.get("records"), "classes": len(meta.get("classes", ()))}
        data = Dataset(
            storage.name_of(folder) or "data",
            digest[:DIGEST_LENGTH],
            "local",
            json.dumps({"uri": folder, "digest": digest}),
            profile=json.dumps(profile),
        )
        inputs.append(DatasetInput(data, context))
    _log_inputs(client, run_id, inputs)


def _log_inputs(client: "MlflowClient", run_id: str, inputs: list["DatasetInput"]) -> None:
    """MLflow looks for a dataset and then makes it: of two runs that begin at once one fails."""
    from mlflow.exceptions import MlflowException

    for _ in range(INPUT_TRIES - 1):
        try:
            return client.log_inputs(run_id, inputs)
        except MlflowException as error:
            if "UNIQUE" not in str(error).upper():
                raise
    return client.log_inputs(run_id, inputs)


def log(recipe: Recipe, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append metrics; each row has `step`, `time` and figures. The same row twice is one."""
    from mlflow.entities import Metric

    metrics = [
        Metric(_metric_name(name), float(value), int(row["time"] * 1000), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    ]
    with store(store_of(recipe)) as client:
        for at in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics=metrics[at : at + MOST_METRICS])


def _metric_name(name: str) -> str:
    """A plugin may log under any name; MLflow takes letters, digits and a few signs."""
    return re.sub(r"[^\w./ -]", "_", name).strip("/. ") or "_"


def tag(recipe: Recipe, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    mark(store_of(recipe), run_id, tags)


def mark(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in a store."""
    with store(uri) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value[:TAG_LENGTH])


def add_files(recipe: Recipe, run_id: str, files: Iterable[str], where: str | None = None) -> None:
    """Add files to a run, as its artifacts, in a folder of theirs; what is not there is left out."""
    with store(store_of(recipe)) as client:
        for file in files:
            if Path(file).exists():
                client.log_artifact(run_id, file, where)


def finish(
    recipe: Recipe, run_id: str, status: str, tags: Mapping[str, str], folder: str | None = None
) -> None:
    """Close a run with its last tags and its model folder as artifacts."""
    tag(recipe, run_id, tags)
    with store(store_of(recipe)) as client:
        if folder:
            client.log_artifacts(run_id, folder, "clipmill")
        client.set_terminated(run_id, status)


def run_id_of(folder: str) -> str | None:
    """The MLflow id of a run's folder, once it has one."""
    path = storage.join(folder, "mlflow.json")
    return str(storage.read_json(path)["run_id"]) if storage.exists(path) else None


def no_such_run(name: str, folder: str) -> RunError:
    """The error for a run that is not there."""
    known = sorted(path.parent.name for path in Path(folder).glob("*/recipe.json"))
    told = ", ".join(known) or "nothing yet"
    return RunError(f"no run {name!r} in {folder}", f"one of {told}", "see `clipmill runs`")


def local_artifacts(uri: str, run_id: str) -> str | None:
    """The folder of a run's artifacts, where the store keeps them on this disk."""
    if not uri.startswith(SQLITE):
        return None
    with store(uri) as client:
        found = str(client.get_run(run_id).info.artifact_uri)
    return found.removeprefix("file://") if found.startswith("file:///") else None
