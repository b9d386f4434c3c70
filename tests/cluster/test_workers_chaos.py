"""Runs on Ray workers under attack: killed workers, a killed driver, signals, hopeless errors."""

import contextlib
import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from clipmill import api, catalog, checkpoint, launch, storage, track
from clipmill.checkpoint import Keeper
from clipmill.errors import RunError
from clipmill.launch import room
from test_feed_mend import wipe
from tiny import RUN_STEPS, digest_of, ingested, run_recipe, write_videos

PATIENCE_SECONDS = 400  # Ray's workers take a minute to start on a busy machine
EVERY = 3  # steps between checkpoints, as run_recipe has it


class Run:
    """A run as a terminal starts it: a process group of its own, which a test may end."""

    def __init__(self, folder: Path, recipe: dict[str, Any], *words: str) -> None:
        self.home = Path(recipe["run"]["folder"]) / recipe["run"]["name"]
        path = folder / f"{recipe['run']['name']}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-c", "from clipmill.cli import main; main()", "train"]
        self.process = subprocess.Popen(
            [*command, str(path), *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"it ended: {self.process.communicate()[1]}"
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.003)

    def end(self) -> str:
        """Wait for its end; give what it said."""
        _, told = self.process.communicate(timeout=PATIENCE_SECONDS)
        return told

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        found = []
        for each in self.family():
            with contextlib.suppress(psutil.Error):
                if "RayTrainWorker" in " ".join(each.cmdline()):
                    found.append(each)
        return found

    def step(self) -> int:
        rows = launch.read_metrics(str(self.home / "metrics.jsonl"))
        return rows[-1]["step"] if rows else 0

    def goes_on(self) -> None:
        """Wait until it is beyond where it is now, whatever it has to do again."""
        reached = self.step()
        self.wait_until(lambda: self.step() > reached + EVERY)

    def attempts(self) -> list[tuple[int, int]]:
        """Its starts: on how many workers, from which step on."""
        rows = launch.read_metrics(launch.Folder(str(self.home)).attempts)
        return [(row["workers"], row["step"]) for row in rows]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """The runs of a test; what is left of them ends with it."""
    started: list[Run] = []
    yield started
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.communicate()


def gone(family: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_SECONDS)  # Ray's agents take a while
    return not alive


def steps_logged(home: Path) -> list[int]:
    return [row["step"] for row in launch.read_metrics(str(home / "metrics.jsonl"))]


@pytest.fixture(scope="module")
def flawed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset in which the bytes of one training video are gone."""
    folder = tmp_path_factory.mktemp("flawed")
    write_videos(folder / "videos")
    data = ingested(folder / "videos", folder / "data")
    wipe(catalog.load(data).part(split="train"), 7)
    return data


@pytest.mark.slow
def test_a_worker_killed_at_five_random_steps_changes_no_take(
    flawed: str, tmp_path: Path, runs: list[Run]
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng, steps = random.Random(seed), 3 * RUN_STEPS
    recipe = run_recipe(flawed, tmp_path, "chaos", steps=steps, workers=2, max_failures=9)
    recipe["feed"] = {"max_bad_share": 0.5}
    run = Run(tmp_path, recipe)
    runs.append(run)
    for victim in sorted(rng.sample(range(1, steps - 2 * EVERY), 5)):
        run.wait_until(lambda least=victim: run.step() >= least and len(run.workers()) == 2)  # type: ignore[misc]
        tries = len(run.attempts())
        rng.choice(run.workers()).kill()
        run.wait_until(lambda before=tries: len(run.attempts()) > before)  # type: ignore[misc]
    told = run.end()
    assert run.process.returncode == 0, told
    assert len(run.attempts()) == 6 and all(world == 2 for world, _ in run.attempts())
    plain = {**recipe, "run": {**recipe["run"], "name": "unbroken"}}
    unbroken = api.train(plain, ["train.workers=0"])
    result = api.show("chaos", folder=str(tmp_path))
    assert result["takes_sha256"] == unbroken["takes_sha256"]
    assert result["bad_clips"] == unbroken["bad_clips"] > 0
    assert steps_logged(run.home) == list(range(1, steps + 1))
    bad = [launch.read_metrics(launch.Folder(each["folder"]).bad_clips) for each in (result, unbroken)]  # fmt: skip
    assert bad[0] == bad[1]


@pytest.mark.slow
def test_a_killed_driver_goes_on_from_its_last_commit_in_the_same_mlflow_run(
    dataset: str, tmp_path: Path, runs: list[Run]
) -> None:
    steps = 5 * RUN_STEPS  # workers train on until Ray has ended them, which takes a while
    recipe = run_recipe(dataset, tmp_path, "killed", steps=steps, workers=2)
    run = Run(tmp_path, recipe)
    runs.append(run)
    run.wait_until(lambda: run.step() > 2 * EVERY)
    family = run.family()
    os.killpg(run.process.pid, signal.SIGKILL)
    run.end()
    assert gone(family), "processes stay behind"
    reached, before = run.step(), track.run_id_of(str(run.home))
    assert not (run.home / "result.json").exists(), "killed too late"
    again = Run(tmp_path, recipe)
    runs.append(again)
    again.end()
    result = api.show("killed", folder=str(tmp_path))
    assert result["takes_sha256"] == digest_of(recipe, steps)
    assert result["run_id"] == before is not None
    _, resumed = run.attempts()[1]
    assert reached - EVERY - 1 <= resumed <= reached, "more than an interval was lost"
    assert steps_logged(run.home) == list(range(1, steps + 1))
    with track.store(track.uri_of(None, str(tmp_path))) as client:
        history = client.get_metric_history(before, "loss")
    assert sorted(each.step for each in history) == list(range(1, steps + 1))


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_workers_after_a_commit_and_fewer_go_on(
    dataset: str, tmp_path: Path, trained: dict[str, Any], runs: list[Run], which: signal.Signals
) -> None:
    run = Run(tmp_path, run_recipe(dataset, tmp_path, "told", workers=2, checkpoint_every=1000))
    runs.append(run)
    run.wait_until(lambda: run.step() > 0)
    family = run.family()
    if which is signal.SIGINT:  # a terminal tells the whole group
        os.killpg(run.process.pid, which)
    else:
        os.kill(run.process.pid, which)
    told = run.end().splitlines()
    assert run.process.returncode == 128 + which, told
    assert gone(family), "processes stay behind"
    assert f"stopped and kept at step {run.step()} of {RUN_STEPS}" in told[-1]
    assert "Traceback" not in "".join(told) and Keeper(str(run.home)).last() is not None
    one = ["train.workers=1" if which is signal.SIGINT else "train.workers=0"]
    result = api.resume("told", one, folder=str(tmp_path))
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert steps_logged(run.home) == list(range(1, RUN_STEPS + 1))


@pytest.mark.slow
def test_an_error_that_another_try_would_meet_again_ends_a_run_at_once(
    dataset: str, tmp_path: Path
) -> None:
    recipe = run_recipe(dataset, tmp_path, "hopeless", workers=2, max_failures=5)
    with pytest.raises(RunError, match=r"the norm of its gradient .*; wanted finite numbers"):
        api.train(recipe, ["model.learning_rate=1e30"])
    rows = launch.read_metrics(launch.Folder(str(tmp_path / "hopeless")).attempts)
    assert len(rows) == 1, "it was tried again"


def test_a_window_larger_than_shared_memory_is_refused(dataset: str, tmp_path: Path) -> None:
    recipe = run_recipe(dataset, tmp_path, "large", workers=1)
    huge = ["feed.ahead_mb=1000000", "model.size=4096", "model.resize=4096"]
    with pytest.raises(RunError, match=r"the object store of Ray holds \d+ MB; wanted \d+ MB"):
        api.train(recipe, huge)
    assert not storage.exists(str(tmp_path / "large" / "checkpoints"))
    more = api.recipe(recipe, [*huge, "model.size=65536", "model.resize=65536"])
    from clipmill import plan as plans

    with pytest.raises(RunError, match=r"of shared memory are free in /dev/shm; wanted"):
        room.check_machine(more, plans.make(more, "train"))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_lost_node_costs_an_elastic_run_no_take(
    dataset: str,
    tmp_path: Path,
    trained: dict[str, Any],
    two_small_nodes: tuple[Any, Any],
    runs: list[Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, second = two_small_nodes
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    run = Run(tmp_path, run_recipe(dataset, tmp_path, "node", workers=2, min_workers=1))
    runs.append(run)
    run.wait_until(lambda: run.step() > EVERY)
    cluster.remove_node(second, allow_graceful=False)
    told = run.end()
    assert run.process.returncode == 0, told
    (before, _), *_, (after, resumed) = run.attempts()
    assert (before, after) == (2, 1) and resumed >= EVERY
    result = api.show("node", folder=str(tmp_path))
    assert result["takes_sha256"] == trained["takes_sha256"]
    assert steps_logged(run.home) == list(range(1, RUN_STEPS + 1))


@pytest.mark.slow
@pytest.mark.cluster
def test_an_elastic_run_goes_on_with_one_worker_and_then_with_two_again(
    dataset: str,
    tmp_path: Path,
    two_small_nodes: tuple[Any, Any],
    runs: list[Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, second = two_small_nodes
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    endless = {"steps": 100_000, "batch": 16, "workers": 2, "min_workers": 1}
    recipe = run_recipe(dataset, tmp_path, "elastic", **endless)
    run = Run(tmp_path, recipe)
    runs.append(run)
    run.wait_until(lambda: run.step() > EVERY)
    cluster.remove_node(second, allow_graceful=False)
    run.wait_until(lambda: run.attempts()[-1][0] == 1)
    run.goes_on()
    cluster.add_node(num_cpus=1, memory=1)
    run.wait_until(lambda: run.attempts()[-1][0] == 2)
    run.goes_on()
    os.kill(run.process.pid, signal.SIGTERM)
    told = run.end()
    assert run.process.returncode == 128 + signal.SIGTERM, told
    worlds = itertools.groupby(world for world, _ in run.attempts())
    assert [world for world, _ in worlds] == [2, 1, 2]
    state = checkpoint.read_state(Keeper(str(run.home)).last() or "")
    assert state.step > run.attempts()[-1][1] >= EVERY
    assert state.takes_sha256 == digest_of(recipe, state.step)
    assert steps_logged(run.home) == list(range(1, state.step + 1))
