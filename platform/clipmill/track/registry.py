"""Names, versions and aliases: what is registered, found, fetched and promoted.

A version is code, safetensors and JSON, never a pickle; any MLflow client can load it.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill import plugin, storage
from clipmill.errors import RegistryError
from clipmill.track.store import all_pages, ambient, store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FLAVOUR = Path(__file__).with_name("pyfunc_model.py")
CHALLENGER, CHAMPION = "challenger", "champion"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NO_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)  # MLflow means something else by these


def check_name(name: str) -> None:
    """Refuse names that no registry can hold, or no version could be asked for by."""
    if not NAME.fullmatch(name):
        raise RegistryError(f"the name {name!r}", "letters, digits, - and _", "choose another name")


def check_alias(alias: str) -> None:
    """Refuse aliases that no registry can hold."""
    if not NAME.fullmatch(alias) or NO_ALIAS.fullmatch(alias):
        raise RegistryError(
            f"the alias {alias!r}", "letters, digits, - and _", f"such as {CHAMPION}"
        )


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
    name, alias, number = parse_version(text)
    with store(uri) as client:
        found = _found(client, name, alias, number)
        if found is None:
            raise RegistryError(
                f"no version {text} in {uri}",
                _known(client, name),
                "register one with `clipmill promote RUN --name NAME`, or name the store with --track",
            )
        return found


def _found(client: "MlflowClient", name: str, alias: str, number: str) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    from clipmill.track.store import is_away

    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except MlflowException as error:
        if is_away(error):
            raise
        return None


def _known(client: "MlflowClient", name: str) -> str:
    """What there is: the aliases and newest numbers of a name, or the names."""
    models = {model.name: model for model in all_pages(_registered, client)}
    if name not in models:
        return f"a version of {', '.join(sorted(models)) or 'nothing: the registry is empty'}"
    aliases = [f"{name}@{alias}" for alias in sorted(models[name].aliases)]
    numbers = sorted(int(each.version) for each in _versions(client, f"name='{name}'"))
    return f"one of {', '.join([*aliases, *(f'{name}/{number}' for number in numbers[-5:])])}"


def _registered(client: "MlflowClient", page_token: str | None) -> Any:
    return client.search_registered_models(page_token=page_token)


def _versions(client: "MlflowClient", where: str) -> list["ModelVersion"]:
    def search(page_token: str | None) -> Any:
        return client.search_model_versions(where, page_token=page_token)

    return list(all_pages(search))


def holder(uri: str, name: str, alias: str) -> dict[str, str] | None:
    """The version that holds an alias of a name, if any does."""
    with store(uri) as client:
        found = _found(client, name, alias, "")
        return {"version": str(found.version), "run_id": str(found.run_id)} if found else None


def versions_of(uri: str, run_id: str) -> list[dict[str, str]]:
    """The versions that came of a run."""
    with store(uri) as client:
        found = _versions(client, f"run_id='{run_id}'")
        return [{"name": str(each.name), "version": str(each.version)} for each in found]


def registered_runs(uri: str) -> set[str]:
    """The ids of all runs that a version came of."""
    with store(uri) as client:
        return {str(each.run_id) for each in _versions(client, "")}


def register(uri: str, run_id: str, folder: str, name: str, alias: str | None) -> dict[str, str]:
    """Make a version of a model folder and, if asked, give it the alias.

    A run has one model: where it is a version of that name already, only the alias is given.
    """
    check_name(name)
    if alias:
        check_alias(alias)
    with store(uri) as client:
        before = _versions(client, f"name='{name}' and run_id='{run_id}'")
        made = before[0] if before else _made(client, uri, run_id, folder, name)
        if alias:
            client.set_registered_model_alias(name, alias, made.version)
    return {"name": name, "version": str(made.version), "alias": alias or ""}


def _made(client: "MlflowClient", uri: str, run_id: str, folder: str, name: str) -> "ModelVersion":
    import mlflow

    with ambient(uri), _reopened(client, run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(FLAVOUR),
            artifacts={"model": folder},
            signature=_signature(),
            pip_requirements=requirements(folder),
        )
        # MLflow's own short cut prints to the terminal.
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        return client.create_model_version(
            name, logged.model_uri, run_id=run_id, model_id=logged.model_id
        )


def requirements(folder: str) -> list[str]:
    """The packages that answer with a model folder: this one, and that of its plugin."""
    told: dict[str, Any] = storage.read_json(storage.join(folder, "model.json"))
    wanted = told["recipe"]["model"]["plugin"]
    packages = {"clipmill": version("clipmill")}
    packages |= {e.package: e.version for e in plugin.found() if e.name == wanted and e.plugin}
    return [f"{name}=={number}" for name, number in packages.items()]


@contextlib.contextmanager
def _reopened(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Log into a run that has ended, and leave it ended as it was."""
    import mlflow

    before = client.get_run(run_id).info
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:  # an error within makes MLflow close it as one that failed
        client.set_terminated(run_id, before.status, before.end_time)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs, outputs = ColSpec("binary", "video"), ColSpec("string", "answer")
    return ModelSignature(Schema([inputs]), Schema([outputs]))


@contextlib.contextmanager
def fetched(uri: str, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Bring a version's model folder here for a while; give the folder and what the version is."""
    import mlflow

    found = resolve(uri, text)
    with tempfile.TemporaryDirectory(prefix="clipmill-version-") as target:
        with store(uri), ambient(uri):
            source = f"models:/{found.name}/{found.version}"
            folder = mlflow.artifacts.download_artifacts(source, dst_path=target)
        inner = next(Path(folder).glob("artifacts/*/model.json"), None)
        if inner is None:
            raise RegistryError(f"{text} holds no model.json", "a version that clipmill registered")
        told = {"name": found.name, "version": str(found.version), "run_id": str(found.run_id)}
        yield str(inner.parent), told


def note(uri: str, name: str, number: str, tags: dict[str, str]) -> None:
    """Write down beside a version why it stands where it stands."""
    with store(uri) as client:
        for key, value in tags.items():
            client.set_model_version_tag(name, number, key, value[:5000])
