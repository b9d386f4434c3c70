"""A cluster of two hosts with a token: an ingest and a run as jobs, its cable pulled in mid-epoch.

The host comes back after it has lost all that ran there, and with all of it alive.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill import catalog, ingest, launch
from clipmill.checkpoint import read_state
from clipmill.folder import committed, committed_step, step_of
from tiny import digest_of, ingested, run_recipe, write_videos

pytest_plugins = ["hosts"]

CLI = (sys.executable, "-c", "from clipmill.cli import main; main()")
PATIENCE_SECONDS = 200
STOPPED_CODE = 143  # as of a process that SIGTERM has ended
EVERY = 3  # steps between checkpoints, as run_recipe has it


class Run:
    """A run on the hosts, submitted from the head."""

    def __init__(self, hosts: Any, recipe: dict[str, Any], file: Path) -> None:
        self.home = launch.Folder(str(Path(recipe["run"]["folder"]) / recipe["run"]["name"]))
        self.head = hosts.head
        self.there = ("--address", hosts.jobs)
        file.write_text(yaml.safe_dump(recipe))
        asked = ("submit", str(file), "--detach", "--json", "--python", sys.executable)
        self.job = json.loads(self.head.ask(*CLI, *asked, *self.there))["job"]
        self.process = self.head.start(*CLI, "jobs", "wait", self.job, *self.there)

    def stop(self) -> dict[str, Any]:
        """Stop its job: what is told of that."""
        stopped: dict[str, Any] = json.loads(
            self.head.ask(*CLI, "jobs", "stop", self.job, "--json", *self.there)
        )
        return stopped

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"it ended: {self.head.told()}"
            assert time.monotonic() < deadline, f"nothing happened: {self.head.told()}"
            time.sleep(0.05)

    def steps(self) -> list[int]:
        return [row["step"] for row in launch.read_metrics(self.home.metrics)]

    def step(self) -> int:
        return max(self.steps(), default=0)

    def goes_on(self) -> None:
        """Wait until it has come further."""
        reached = self.step()
        self.wait_until(lambda: self.step() > reached + EVERY)

    def ledger(self) -> int:
        """The file of its metrics: a start that goes on from a commit makes a new one."""
        return Path(self.home.metrics).stat().st_ino

    def is_exact(self, recipe: dict[str, Any], folder: Path) -> None:
        """See that a checkpoint has learned from the very takes that it should."""
        state = read_state(str(folder))
        assert state.takes_sha256 == digest_of(recipe, state.step)

    def attempts(self) -> list[tuple[int, int]]:
        """Its starts: on how many workers, from which step on."""
        rows = launch.read_metrics(self.home.attempts)
        return [(row["workers"], row["step"]) for row in rows]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cable_pulled_and_put_back_costs_no_take(hosts: Any, tmp_path: Path) -> None:
    no_token = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    asked = hosts.worker.ray("health-check", "--address", hosts.address)
    assert hosts.worker.run(*asked) == 0
    assert hosts.worker.run(*asked, **no_token) != 0, "a stranger got in"

    write_videos(tmp_path / "videos")
    data = str(tmp_path / "data")
    verb = ("ingest", str(tmp_path / "videos"), "--out", data)
    hosts.head.ask(*CLI, "submit", "--address", hosts.jobs, "--python", sys.executable, "--", *verb)
    assert len(catalog.load(data)) == 34 and ingest.verify(data) == []

    plain = run_recipe(data, tmp_path, "two", steps=100_000, workers=2, min_workers=1)
    run = Run(hosts, plain, tmp_path / "recipe.yaml")
    run.wait_until(lambda: run.step() > 2 * EVERY)
    assert hosts.head.trains() and hosts.worker.trains(), "not on both hosts"
    hosts.cut()
    run.wait_until(lambda: len(run.attempts()) > 1 and run.step() > run.attempts()[-1][1] + EVERY)
    (before, _), *_, (alone, resumed) = run.attempts()
    assert (before, alone) == (2, 1) and resumed >= EVERY

    hosts.worker.halt()
    hosts.mend()
    hosts.begin_worker()
    run.wait_until(lambda: run.attempts()[-1][0] == 2 and hosts.worker.trains())
    run.wait_until(hosts.worker.decodes)
    run.goes_on()
    assert run.stop()["status"] == "STOPPED"
    assert run.process.wait(PATIENCE_SECONDS) == STOPPED_CODE, hosts.head.told()
    (*_, last) = committed(run.home.path)
    run.is_exact(plain, last)
    assert run.steps() == list(range(1, step_of(last) + 1))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_host_that_comes_back_alive_writes_nothing_more_into_the_run(
    hosts: Any, tmp_path: Path
) -> None:
    write_videos(tmp_path / "videos")
    data = ingested(tmp_path / "videos", tmp_path / "data")
    lone = run_recipe(data, tmp_path, "lone", steps=100_000, workers=1)
    run = Run(hosts, lone, tmp_path / "recipe.yaml")
    run.wait_until(lambda: run.step() > 2 * EVERY)
    assert hosts.worker.trains() and not hosts.head.trains(), "not where the cable leads"
    before = run.ledger()
    hosts.cut()
    run.wait_until(lambda: run.ledger() != before)  # alone, it trains on there until then
    run.goes_on()
    assert hosts.head.trains() and hosts.worker.trains(), "not of two minds"

    hosts.mend()
    run.wait_until(lambda: not hosts.worker.processes())  # Ray ends there what was given up
    hosts.begin_worker()
    run.goes_on()
    assert run.stop()["status"] == "STOPPED"
    assert [workers for workers, _ in run.attempts()] == [1, 1]
    for folder in committed(run.home.path):
        run.is_exact(lone, folder)
    assert run.steps() == list(range(1, committed_step(run.home) + 1))
