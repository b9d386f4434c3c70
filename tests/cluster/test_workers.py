"""Runs on Ray Train workers: the same takes and weights as in one process, through kills too."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from clipmill import api, launch
from clipmill.checkpoint import Keeper
from tiny import RUN_STEPS, run_recipe

PATIENCE_SECONDS = 180


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def started(tmp_path: Path, recipe: dict[str, Any]) -> subprocess.Popen[bytes]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", "from clipmill.cli import main; main()", "train", str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps_logged(result: dict[str, Any]) -> list[int]:
    return [row["step"] for row in launch.read_metrics(launch.Folder(result["folder"]).metrics)]


def test_one_worker_gives_the_weights_of_this_process(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    result = api.train(run_recipe(dataset, tmp_path, "one", workers=1))
    assert result["weights_sha256"] == trained["weights_sha256"]
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert not (tmp_path / "one" / ".ray").exists()


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_ends_with_the_same_weights(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    recipe = run_recipe(dataset, tmp_path, "killed", workers=1)
    process = started(tmp_path, recipe)
    wait_for(lambda: Keeper(str(tmp_path / "killed")).last() is not None, process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists(), "killed too late"
    result = api.train(recipe)
    assert result["weights_sha256"] == trained["weights_sha256"]
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert steps_logged(result) == list(range(1, RUN_STEPS + 1))
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)  # Ray's agents take a minute
    assert not alive, "processes stay behind"


@pytest.mark.slow
def test_two_workers_one_of_them_killed_train_on_the_same_takes(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    recipe = run_recipe(dataset, tmp_path, "two", workers=2)
    process = started(tmp_path, recipe)
    wait_for(lambda: Keeper(str(tmp_path / "two")).last() is not None, process)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [each for each in family if "RayTrainWorker" in " ".join(each.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    assert process.wait(timeout=PATIENCE_SECONDS) == 0
    result = api.show("two", folder=str(tmp_path))
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert steps_logged(result) == list(range(1, RUN_STEPS + 1))


def test_too_many_workers_for_the_machine_are_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 workers on 2 CPUs; wanted a CPU for each"):
        api.train(run_recipe(dataset, tmp_path, "many", workers=4))
