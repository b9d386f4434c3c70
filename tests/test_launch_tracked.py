"""Runs whose MLflow is away: they train on, and what MLflow missed is sent when it is back."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipmill import api, track
from tiny import RUN_STEPS, run_recipe

PATIENCE_SECONDS = 120


@pytest.fixture
def port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's own server on a folder, gone at the end."""
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    try:
        wait_for(process, f"http://127.0.0.1:{port}/health")
        yield process
    finally:
        end(process)


def wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        assert process.poll() is None and time.monotonic() < deadline, "no server"
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it and its workers: a group of its own
    process.wait()


def asked_of(port: int, folder: Path, dataset: str, name: str, **train: Any) -> dict[str, Any]:
    recipe = run_recipe(dataset, folder, name, **train)
    return {**recipe, "track": {"uri": f"http://127.0.0.1:{port}", "experiment": "away"}}


def steps_in(uri: str, run_id: str) -> list[int]:
    """The steps at which MLflow has a loss."""
    with track.store(uri) as client:
        return sorted(each.step for each in client.get_metric_history(run_id, "loss"))


def runs_in(uri: str) -> list[Any]:
    with track.store(uri) as client:
        found = client.get_experiment_by_name("away")
        return list(client.search_runs([found.experiment_id]))


def shown(uri: str, path: str, asked: dict[str, Any] | None = None) -> str:
    """What a browser gets from MLflow's pages, and what their script asks for."""
    body = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(uri + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return str(answer.read().decode())


def check_pages(uri: str, result: dict[str, Any]) -> None:
    """MLflow's own pages open and list the run, with its figures, and the version made of it."""
    page = shown(uri, "/")
    (script,) = re.findall(r'src="([^"]+main[^"]*\.js)"', page)
    assert "<title>MLflow</title>" in page and len(shown(uri, f"/{script}")) > 10_000
    ours = "/ajax-api/2.0/mlflow"
    (known,) = [
        each["experiment_id"]
        for each in json.loads(shown(uri, f"{ours}/experiments/search?max_results=9"))[
            "experiments"
        ]
        if each["name"] == "away"
    ]
    (row,) = json.loads(shown(uri, f"{ours}/runs/search", {"experiment_ids": [known]}))["runs"]
    assert row["info"]["run_id"] == result["run_id"] and row["info"]["status"] == "FINISHED"
    figures = {each["key"]: each["value"] for each in row["data"]["metrics"]}
    assert figures["val_accuracy"] == result["metrics"]["val_accuracy"]
    told = json.loads(shown(uri, f"{ours}/registered-models/search?max_results=9"))
    (model,) = told["registered_models"]
    assert [each["run_id"] for each in model["latest_versions"]] == [result["run_id"]]


@pytest.mark.slow
def test_a_run_begun_without_mlflow_gets_its_run_later(
    dataset: str, tmp_path: Path, port: int, trained: dict[str, Any]
) -> None:
    recipe = asked_of(port, tmp_path, dataset, "away")
    began = time.monotonic()
    result = api.train(recipe, ["track.register=late"])
    assert time.monotonic() - began < PATIENCE_SECONDS
    assert (result["run_id"], result["tracked"]) == (None, False)
    assert result["takes_sha256"] == trained["takes_sha256"]
    with server(tmp_path, port):
        result = api.resume("away", folder=str(tmp_path))
        assert result["tracked"] and result["version"] == "1"
        uri = recipe["track"]["uri"]
        assert steps_in(uri, result["run_id"]) == list(range(1, RUN_STEPS + 1))
        (run,) = runs_in(uri)
        assert run.info.status == "FINISHED"
        assert run.data.tags["clipmill.takes_sha256"] == trained["takes_sha256"]
        assert api.show("away", folder=str(tmp_path))["run_id"] == run.info.run_id
        check_pages(uri, result)


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_is_told_the_rest_by_the_same_command(
    dataset: str, tmp_path: Path, port: int
) -> None:
    recipe = asked_of(port, tmp_path, dataset, "cut")
    with server(tmp_path, port) as process:

        def dies(what: str, done: int, total: int, figures: dict[str, float]) -> None:
            end(process)

        result = api.train(recipe, progress=dies)  # type: ignore[arg-type]
    assert not result["tracked"] and result["run_id"]
    with server(tmp_path, port):
        again = api.train(recipe)
        uri = recipe["track"]["uri"]
        assert again["tracked"] and again["run_id"] == result["run_id"]
        assert again["takes_sha256"] == result["takes_sha256"]
        assert steps_in(uri, result["run_id"]) == list(range(1, RUN_STEPS + 1))
        (run,) = runs_in(uri)
        assert run.info.status == "FINISHED"


def test_a_crash_after_registering_registers_once(dataset: str, tmp_path: Path) -> None:
    recipe = run_recipe(dataset, tmp_path, "once", steps=3)
    result = api.train(recipe, ["track.register=once"])
    os.remove(f"{result['folder']}/result.json")
    again = api.train(recipe, ["track.register=once"])
    assert again["version"] == result["version"] == "1"
    assert again["weights_sha256"] == result["weights_sha256"]
    with track.store(track.uri_of(None, str(tmp_path))) as client:
        assert len(client.search_model_versions("name='once'")) == 1
