"""From data to models and back: what was trained on a catalog, and what a version came of.

Reads the registry and the files that a version carries; needs neither run folder nor data.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill import storage
from clipmill.track.registry import fetched, resolve, versions_of
from clipmill.track.runs import DIGEST_LENGTH, PARENT
from clipmill.track.store import all_pages, store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def trained_on(uri: str, digests: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Runs on any of these catalogs, alone or among others, and the versions that came of them."""
    with store(uri) as client:
        found = [run for digest in dict.fromkeys(digests) for run in _runs_on(client, digest)]
        runs = {run.info.run_id: str(run.info.run_name) for run in found}
    versions = [each for run_id in runs for each in versions_of(uri, run_id)]
    return {"runs": [{"run_id": i, "name": name} for i, name in runs.items()], "versions": versions}


def _runs_on(client: "MlflowClient", digest: str) -> list["Run"]:
    def search(page_token: str | None) -> Any:
        where = f"dataset.digest = '{digest[:DIGEST_LENGTH]}'"
        return client.search_runs(places, where, page_token=page_token)

    places = [each.experiment_id for each in all_pages(_experiments, client)]
    return list(all_pages(search)) if places else []


def _experiments(client: "MlflowClient", page_token: str | None) -> Any:
    return client.search_experiments(page_token=page_token)


def trace(uri: str, text: str) -> dict[str, Any]:
    """Everything that a version came of: data, recipe, commit, run, figures with protocol, files."""
    found = resolve(uri, text)
    with fetched(uri, text) as (folder, _):
        model: dict[str, Any] = storage.read_json(storage.join(folder, "model.json"))
        files = files_of(str(Path(folder).parents[1]))
    with store(uri) as client:
        run = client.get_run(str(found.run_id))
        named = client.get_registered_model(found.name)
    aliases = sorted(a for a, number in named.aliases.items() if str(number) == str(found.version))
    return {
        "name": str(found.name),
        "version": str(found.version),
        "aliases": aliases,
        "run": _run(run),
        "data": _data(run),
        "commit": _commit(run),
        "recipe": model["recipe"],
        "overrides": json.loads(run.data.tags.get("clipmill.overrides", "[]")),
        "classes": model["classes"],
        "profile": model["profile"],
        "protocol": model["protocol"],
        "figures": model["figures"],
        "metrics": dict(run.data.metrics),
        "weights_sha256": model["weights_sha256"],
        "takes_sha256": run.data.tags.get("clipmill.takes_sha256"),
        "notes": dict(found.tags),
        "files": files,
    }


def _run(run: "Run") -> dict[str, Any]:
    tags, info = run.data.tags, run.info
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "status": info.status,
        "started": info.start_time / 1000,
        "seconds": (info.end_time - info.start_time) / 1000 if info.end_time else None,
        "parent": tags.get(PARENT),
        "user": tags.get("mlflow.user"),
        "host": tags.get("clipmill.host"),
        "starts": tags.get("clipmill.starts"),
        "clipmill": tags.get("clipmill.version"),
        "torch": tags.get("clipmill.torch"),
    }


def _data(run: "Run") -> list[dict[str, str]]:
    told = []
    for each in run.inputs.dataset_inputs if run.inputs else ():
        source = json.loads(each.dataset.source)
        told.append({"path": source["uri"], "digest": source.get("digest", each.dataset.digest)})
    return told


def _commit(run: "Run") -> dict[str, str]:
    names = {
        "commit": "mlflow.source.git.commit",
        "branch": "mlflow.source.git.branch",
        "dirty": "clipmill.dirty",
        "commits": "clipmill.commits",
    }
    tags = run.data.tags
    return {name: tags[tag] for name, tag in names.items() if tag in tags}


def files_of(folder: str) -> list[dict[str, Any]]:
    """The files below a folder, with their sizes."""
    root = Path(folder)
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return [{"file": str(p.relative_to(root)), "bytes": p.stat().st_size} for p in found]
