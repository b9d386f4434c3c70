"""Trials side by side on one Ray: what they come to is what they would one after another."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill import api
from clipmill.folder import Folder, committed_step
from tiny import run_recipe

RATES = "model.learning_rate=[1e30,1e-9,0.003,0.001]"
HALVED = ("sweep.halving={eta: 2, first_steps: 3}", "train.steps=6")
BY_LOSS = ("sweep.metric=loss", "sweep.higher_is_better=false")
PATIENCE_SECONDS = 180


def told_of(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("name", "state", "steps", "scores", "error")
    return [
        tuple(str(row[name]).split(" checkpoint")[0] for name in names) for row in result["trials"]
    ]


def weights_of(result: dict[str, Any]) -> str:
    home = Path(result["folder"]).parent / result["best"]["name"]
    return str(json.loads(Path(Folder(str(home)).result).read_text())["weights_sha256"])


def test_trials_side_by_side_are_those_one_after_another(dataset: str, tmp_path: Path) -> None:
    heard: list[str] = []
    results = []
    for parallel in (1, 2):
        plain = run_recipe(dataset, tmp_path / str(parallel), "tried", checkpoint_every=100)
        asked = [RATES, *HALVED, *BY_LOSS, f"sweep.parallel={parallel}"]
        results.append(api.sweep(plain, asked, progress=lambda what, *_: heard.append(what)))
    assert told_of(results[0]) == told_of(results[1])
    assert weights_of(results[0]) == weights_of(results[1])
    assert "sweep" in heard


@pytest.mark.slow
def test_trials_with_workers_of_their_own_are_those_in_one_process(
    dataset: str, tmp_path: Path
) -> None:
    results = []
    for workers, parallel in ((0, 1), (1, 2)):
        plain = run_recipe(dataset, tmp_path / str(workers), "tried", workers=workers, steps=6)
        asked = ["model.learning_rate=[0.003,0.001]", *BY_LOSS, f"sweep.parallel={parallel}"]
        results.append(api.sweep(plain, asked))
    assert told_of(results[0]) == told_of(results[1])
    assert weights_of(results[0]) == weights_of(results[1])


def sweeping(file: Path) -> "subprocess.Popen[str]":
    code = "from clipmill.cli import main; main()"
    asked = [sys.executable, "-c", code, "sweep", str(file), "train.seed=[1,2]", "--parallel", "2"]
    return subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_signal_stops_all_trials_and_the_same_command_goes_on(
    dataset: str, tmp_path: Path
) -> None:
    file, homes = tmp_path / "recipe.yaml", [tmp_path / f"tried-00{at}" for at in (0, 1)]
    file.write_text(yaml.safe_dump(run_recipe(dataset, tmp_path, "tried", steps=400)))
    deadline = time.monotonic() + PATIENCE_SECONDS
    with sweeping(file) as process:
        while not all((home / "metrics.jsonl").exists() for home in homes):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130 and "the same command goes on with the sweep" in err
    steps = [committed_step(Folder(str(home))) for home in homes]
    assert all(0 < step < 400 for step in steps)
    states = [
        row["state"] for row in json.loads((tmp_path / "tried/sweep.json").read_text())["trials"]
    ]
    assert states == ["going", "going"]
    with sweeping(file) as process:
        assert process.wait(PATIENCE_SECONDS) == 0
    assert all(Path(Folder(str(home)).result).exists() for home in homes)
