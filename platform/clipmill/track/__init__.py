"""Runs, versions and aliases in MLflow; the only module that knows it.

One MLflow run a training run. A model version is code, safetensors and JSON, never a pickle; any
MLflow client can load it. Imports MLflow inside functions: it is slow to load.
"""

import contextlib
import logging
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill import storage
from clipmill.catalog import Catalog
from clipmill.errors import RegistryError, RunError
from clipmill.recipe import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FLAVOUR = Path(__file__).with_name("pyfunc_model.py")


def uri_of(given: str | None, folder: str = "runs") -> str:
    """The tracking store: the one given, MLFLOW_TRACKING_URI, or SQLite in the runs' folder."""
    chosen = given or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{storage.absolute(folder)}/mlflow.db"


@contextlib.contextmanager
def store(uri: str) -> Iterator["MlflowClient"]:
    """Open a tracking store quietly; the database is made on first use."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own dependencies
        import mlflow
        from mlflow.exceptions import MlflowException

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield mlflow.MlflowClient(uri, uri)
        except MlflowException as error:
            first = str(error).splitlines()[0]
            raise RegistryError(f"MLflow at {uri}: {first}", todo="check --track") from error


@contextlib.contextmanager
def _ambient(uri: str) -> Iterator[None]:
    """For calls of MLflow that know no store but the process's own: name it for a while."""
    import mlflow

    variable, before = os.environ.get("MLFLOW_TRACKING_URI"), mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # which sets the variable as well
        if variable is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)


def begin(recipe: Recipe, catalog: Catalog, known_id: str | None = None) -> str:
    """Open the MLflow run of a training run, or the one it has already; give its id."""
    uri = uri_of(recipe.track.uri, recipe.run.folder)
    with store(uri) as client:
        if known_id is not None:
            client.update_run(known_id, status="RUNNING")
            return known_id
        experiment = _experiment(client, recipe, uri)
        run = client.create_run(experiment, run_name=recipe.run.name, tags=_tags(recipe))
        for name, value in _flat(recipe.plain()).items():
            client.log_param(run.info.run_id, name, str(value)[:6000])
        _log_data(client, run.info.run_id, catalog)
        return str(run.info.run_id)


def _experiment(client: "MlflowClient", recipe: Recipe, uri: str) -> str:
    found = client.get_experiment_by_name(recipe.track.experiment)
    if found:
        return str(found.experiment_id)
    here = None
    if uri.startswith("sqlite:"):  # a server keeps artifacts itself
        here = f"file://{storage.absolute(recipe.run.folder)}/mlflow"
    return str(client.create_experiment(recipe.track.experiment, artifact_location=here))


def _tags(recipe: Recipe) -> dict[str, str]:
    return {
        "clipmill.run": recipe.run.name,
        "clipmill.version": version("clipmill"),
        "clipmill.python": platform.python_version(),
        "clipmill.torch": version("torch"),
        "clipmill.ray": version("ray"),
        **_git(),
    }


def _git() -> dict[str, str]:
    try:
        commit = _git_says("rev-parse", "HEAD")
        return {"mlflow.source.git.commit": commit, "clipmill.dirty": str(bool(_git_says("status", "--porcelain")))}  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return {}


def _git_says(*words: str) -> str:
    told = subprocess.run(["git", *words], capture_output=True, check=True, text=True)
    return told.stdout.strip()


def _flat(data: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= (
            _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
        )
    return flat


def _log_data(client: "MlflowClient", run_id: str, catalog: Catalog) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = f'{{"uri": "{catalog.folder}"}}'
    data = Dataset(Path(catalog.folder).name, catalog.meta["digest"][:36], "local", source)
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    client.set_tag(run_id, "clipmill.catalog_digest", catalog.meta["digest"])


def log(recipe: Recipe, run_id: str, rows: list[dict[str, Any]]) -> None:
    """Append metrics; each row has `step`, `time` and figures."""
    from mlflow.entities import Metric

    with store(uri_of(recipe.track.uri, recipe.run.folder)) as client:
        metrics = [
            Metric(name, float(value), int(row["time"] * 1000), int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name not in ("step", "time")
        ]
        for at in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[at : at + 1000])


def finish(
    recipe: Recipe, run_id: str, status: str, tags: Mapping[str, str], folder: str | None = None
) -> None:
    """Close a run with its last tags and its model folder as artifacts."""
    with store(uri_of(recipe.track.uri, recipe.run.folder)) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        if folder:
            client.log_artifacts(run_id, folder, "clipmill")
        client.set_terminated(run_id, status)


def register(uri: str, run_id: str, folder: str, name: str, alias: str | None) -> dict[str, str]:
    """Make a version of a model folder and, if asked, give it the alias."""
    import mlflow

    with store(uri) as client, _ambient(uri), _reopened(client, run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(FLAVOUR),
            artifacts={"model": folder},
            signature=_signature(),
            pip_requirements=[f"clipmill=={version('clipmill')}"],
        )
        made = _versioned(client, name, run_id, logged)
        if alias:
            client.set_registered_model_alias(name, alias, made.version)
    return {"name": name, "version": str(made.version), "alias": alias or ""}


def _versioned(client: "MlflowClient", name: str, run_id: str, logged: Any) -> "ModelVersion":
    """Make a version of a logged model; MLflow's own short cut prints to the terminal."""
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(
        name, logged.model_uri, run_id=run_id, model_id=logged.model_id
    )


@contextlib.contextmanager
def _reopened(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Log into a run that has ended, and leave it ended as it was."""
    import mlflow

    before = client.get_run(run_id).info.status
    with mlflow.start_run(run_id=run_id):
        yield
    client.set_terminated(run_id, before)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs, outputs = ColSpec("binary", "video"), ColSpec("string", "answer")
    return ModelSignature(Schema([inputs]), Schema([outputs]))


def parse_version(text: str) -> tuple[str, str, str]:
    """`models:/NAME@alias`, `NAME@alias` or `NAME/3`: name, alias and number (one is empty)."""
    bare = text.removeprefix("models:/")
    for sign in "@/":
        name, found, rest = bare.partition(sign)
        if found and name and rest:
            return (name, rest, "") if sign == "@" else (name, "", rest)
    raise RegistryError(f"{text!r} is no version", "NAME@alias or NAME/3", "such as demo@champion")


def resolve(uri: str, text: str) -> "ModelVersion":
    """Find a version in the registry."""
    from mlflow.exceptions import MlflowException

    name, alias, number = parse_version(text)
    with store(uri) as client:
        try:
            if alias:
                return client.get_model_version_by_alias(name, alias)
            return client.get_model_version(name, number)
        except MlflowException:
            known = sorted(model.name for model in client.search_registered_models())
            raise RegistryError(
                f"no version {text} in {uri}",
                f"a version of {', '.join(known) or 'nothing: the registry is empty'}",
                "register one with `clipmill promote RUN --name NAME`, or name the store with --track",
            ) from None


@contextlib.contextmanager
def fetched(uri: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Bring a version's model folder here for a while; give the folder and what the version is."""
    import mlflow

    found = resolve(uri, text)
    with tempfile.TemporaryDirectory(prefix="clipmill-version-") as target:
        with store(uri), _ambient(uri):
            source = f"models:/{found.name}/{found.version}"
            folder = mlflow.artifacts.download_artifacts(source, dst_path=target)
        inner = next(Path(folder).glob("artifacts/*/model.json"), None)
        if inner is None:
            raise RegistryError(f"{text} holds no model.json", "a version that clipmill registered")
        told = {"name": found.name, "version": str(found.version), "run_id": str(found.run_id)}
        yield str(inner.parent), told


def holder(uri: str, name: str, alias: str) -> dict[str, str] | None:
    """The version that holds an alias of a name, if any does."""
    with store(uri) as client:
        models = client.search_registered_models(f"name='{name}'")
        if not any(alias in model.aliases for model in models):
            return None
        found = client.get_model_version_by_alias(name, alias)
        return {"version": str(found.version), "run_id": str(found.run_id)}


def trained_on(uri: str, digests: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Runs on any of these catalogs, and the versions that came of them."""
    runs: list[dict[str, str]] = []
    versions: list[dict[str, str]] = []
    with store(uri) as client:
        places = [each.experiment_id for each in client.search_experiments()]
        for digest in dict.fromkeys(digests):
            found = client.search_runs(places, f"tags.`clipmill.catalog_digest` = '{digest}'")
            runs += [{"run_id": r.info.run_id, "name": r.info.run_name} for r in found]
        for run in runs:
            of_run = client.search_model_versions(f"run_id='{run['run_id']}'")
            versions += [{"name": v.name, "version": str(v.version)} for v in of_run]
    return {"runs": runs, "versions": versions}


def check_name(name: str) -> None:
    """Refuse names that no registry can hold."""
    if not name or any(sign in name for sign in "/:@.'\"\n"):
        raise RegistryError(f"the name {name!r}", "letters, digits, - and _", "choose another name")


def run_id_of(folder: str) -> str | None:
    """The MLflow id of a run's folder, once it has one."""
    path = storage.join(folder, "mlflow.json")
    return str(storage.read_json(path)["run_id"]) if storage.exists(path) else None


def no_such_run(name: str, folder: str) -> RunError:
    """The error for a run that is not there."""
    known = sorted(path.parent.name for path in Path(folder).glob("*/recipe.json"))
    told = ", ".join(known) or "nothing yet"
    return RunError(f"no run {name!r} in {folder}", f"one of {told}", "see `clipmill runs`")
