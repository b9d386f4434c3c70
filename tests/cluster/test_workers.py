"""Runs on Ray Train workers: the same takes and weights as in one process, through kills too."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from clipmill import api, launch
from clipmill.checkpoint import Keeper
from clipmill.cli import app
from clipmill.cluster import QUIET
from clipmill.errors import RunError
from tiny import RUN_STEPS, run_recipe

PATIENCE_SECONDS = 180
START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


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


def logs_of_controllers() -> set[Path]:
    """What Ray's library logged in the controllers of all runs of this session."""
    from ray._private.worker import _global_node

    folder = Path(_global_node.get_logs_dir_path())
    outs = [at for at in folder.glob("worker-*.out") if "TrainController" in at.read_text()]
    processes = [at.stem.split("-")[-1] for at in outs]
    return {at for each in processes for at in folder.glob(f"python-core-worker-*_{each}.log")}


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_controller_ends_without_destructors_that_may_wait_for_good(
    dataset: str, tmp_path: Path
) -> None:
    before = logs_of_controllers()
    api.train(run_recipe(dataset, tmp_path, "ended", workers=1, steps=2))
    (log,) = logs_of_controllers() - before
    process = int(log.stem.split("_")[-1])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_running(process):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    assert "Core worker is destructed" in log.read_text()
    assert "Destructing CoreWorkerProcessImpl" not in log.read_text()


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


def kill_a_worker_of(folder: Path) -> None:
    """Kill the last worker of a run of this process once it has committed something."""
    deadline, found = time.monotonic() + PATIENCE_SECONDS, list[psutil.Process]()
    while time.monotonic() < deadline:
        if not found and launch.read_metrics(launch.Folder(str(folder)).attempts):
            family = psutil.Process().children(recursive=True)
            found = [each for each in family if "RayTrainWorker" in " ".join(each.cmdline())]
        if found and Keeper(str(folder)).last() is not None:
            return found[-1].kill()
        time.sleep(0.005)


@pytest.mark.slow
def test_a_failure_more_than_is_allowed_ends_a_run_in_one_line_and_resume_goes_on(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    recipe = run_recipe(dataset, tmp_path, "limit", workers=2, max_failures=0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    killer = threading.Thread(target=kill_a_worker_of, args=[tmp_path / "limit"])
    killer.start()
    ran = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml")])
    killer.join()
    assert ran.exit_code == 1 and not (tmp_path / "limit" / "result.json").exists(), ran.output
    (fault,) = [line for line in ran.stderr.splitlines() if line.startswith("clipmill: ")]
    assert fault == ran.stderr.splitlines()[-1] and "Traceback" not in ran.stderr
    assert "training stopped: " in fault and "then resume it" in fault
    assert len(launch.read_metrics(launch.Folder(str(tmp_path / "limit")).attempts)) == 1
    result = api.resume("limit", ["train.workers=0"], folder=str(tmp_path))
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert steps_logged(result) == list(range(1, RUN_STEPS + 1))


@contextlib.contextmanager
def nothing_left(resource: str) -> Iterator[None]:
    """Hold all that is free of something on this Ray."""
    import ray  # it reads the environment once, which is set by now
    from ray.util import placement_group, remove_placement_group

    free = ray.available_resources()[resource]
    held = placement_group([{resource: free}])
    try:
        assert held.wait(PATIENCE_SECONDS), "somebody else was quicker"
        yield
    finally:
        remove_placement_group(held)


def test_too_many_workers_for_the_machine_are_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 workers on 2 CPUs; wanted a CPU for each"):
        api.train(run_recipe(dataset, tmp_path, "many", workers=4))


@pytest.mark.slow
def test_workers_that_find_no_place_end_a_run_after_a_few_short_tries(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert int(QUIET[START_SECONDS]) <= 20, "Ray's own is a minute"
    monkeypatch.setenv(START_SECONDS, "1")
    monkeypatch.setattr(importlib.import_module("clipmill.launch.fit"), "MOST_STARTS", 1)
    with (
        nothing_left("memory"),
        pytest.raises(RunError, match="timed out after 1.0 seconds") as told,
    ):
        api.train(run_recipe(dataset, tmp_path, "nowhere", workers=1))
    assert "then resume it" in str(told.value) and "\n" not in str(told.value)
    assert launch.read_metrics(launch.Folder(str(tmp_path / "nowhere")).attempts) == []
    result = api.resume("nowhere", ["train.workers=0"], folder=str(tmp_path))
    assert result["steps"] == RUN_STEPS
