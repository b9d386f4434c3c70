"""Runs in this process: exact resume, refusals, what a run leaves behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill import api, cluster, launch, recipe, storage
from clipmill.checkpoint import Keeper
from clipmill.errors import BusyError, RunError, UsageError
from clipmill.folder import Tail, add_lines, cut_metrics
from clipmill.launch import room, stop
from tiny import RUN_STEPS as STEPS
from tiny import run_recipe as plain


def test_a_run_tells_what_it_did(trained: dict[str, Any]) -> None:
    assert trained["steps"] == STEPS
    assert {"loss", "val_accuracy", "wait_share"} <= set(trained["metrics"])
    assert len(trained["weights_sha256"]) == len(trained["takes_sha256"]) == 64
    rows = launch.read_metrics(launch.Folder(trained["folder"]).metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_killed_run_ends_with_the_same_weights_and_takes(
    dataset: str, tmp_path: Path, trained: dict[str, Any]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain(dataset, tmp_path, "killed")))
    command = [sys.executable, "-c", "from clipmill.cli import main; main()", "train", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keeper = Keeper(str(tmp_path / "killed"))
    while keeper.last() is None:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists(), "killed too late"
    result = api.resume("killed", folder=str(tmp_path))
    assert result["weights_sha256"] == trained["weights_sha256"]
    assert result["takes_sha256"] == trained["takes_sha256"]
    rows = launch.read_metrics(launch.Folder(result["folder"]).metrics)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "a step twice or missing"


def test_the_digest_of_takes_is_an_independent_hash_of_the_plan(
    dataset: str, trained: dict[str, Any]
) -> None:
    import hashlib

    from clipmill import plan as plans

    plan = plans.make(recipe.load(plain(dataset, Path(), "x")), "train")
    told = bytes(32)
    for batch in range(STEPS):
        told = hashlib.sha256(
            told + b"".join(plan.digests(plan.at(batch * 4, batch * 4 + 4)))
        ).digest()
    assert told.hex() == trained["takes_sha256"]


def test_a_living_run_is_held(dataset: str, tmp_path: Path) -> None:
    with (
        storage.holding(str(tmp_path / "alive"), "clipmill train alive"),
        pytest.raises(BusyError, match="in use by clipmill train alive"),
    ):
        api.train(plain(dataset, tmp_path, "alive"))
    assert not (tmp_path / "alive" / "recipe.json").exists()


def test_an_unknown_run_is_named_with_those_that_are_there(trained: dict[str, Any]) -> None:
    folder = str(Path(trained["folder"]).parent)
    with pytest.raises(RunError, match="no run 'nosuch'.*one of trained"):
        api.show("nosuch", folder=folder)
    assert [run["name"] for run in api.runs(folder)["runs"]] == ["trained"]
    assert api.show(trained["run_id"], folder=folder)["name"] == "trained"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_broken_off_after_its_last_step_is_finished(
    dataset: str, tmp_path: Path, trained: dict[str, Any], workers: int
) -> None:
    made = recipe.load(plain(dataset, tmp_path, "late", workers=workers)).anchored()
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain()})
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})
    result = api.resume("late", folder=str(tmp_path))
    assert result["weights_sha256"] == trained["weights_sha256"]


def test_a_run_holds_from_any_folder(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(dataset).parent)
    result = api.train(plain("data", Path("here"), "moved", steps=3))
    monkeypatch.chdir(tmp_path)
    assert api.evaluate(result["folder"])["videos"] == 6
    assert api.evaluate("moved", folder=str(Path(dataset).parent / "here"))["videos"] == 6


def test_a_name_that_cannot_be_registered_is_told_before_any_step(
    dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="choose another name"):
        api.train(plain(dataset, tmp_path, "x"), ["track.register=a/b"])
    assert not (tmp_path / "x").exists()


def test_a_crop_larger_than_the_picture_is_told(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resize 36 of at least size 48"):
        api.plan(plain(dataset, tmp_path, "x"), ["model.size=48"])


# --- room


@pytest.mark.parametrize("verb", [api.train, api.sweep])
@pytest.mark.parametrize(
    ("address", "error"), [(None, RunError), ("ray://elsewhere", ConnectionError)]
)
def test_shared_memory_here_is_asked_for_where_ray_starts_here(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    address: str | None, error: type[Exception], verb: Any,
) -> None:  # fmt: skip
    def session(*_: Any, **__: Any) -> None:
        raise ConnectionError("it goes on to Ray")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "session", session)
    monkeypatch.setattr(room, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(room, "needed_bytes", lambda *_: 2**60)
    asked = plain(dataset, tmp_path, "large", workers=1)
    seeds = ["train.seed=[1,2]"] if verb is api.sweep else []
    with pytest.raises(error, match="of shared memory are free in|it goes on to Ray"):
        verb(asked, seeds, address=address)


@pytest.mark.parametrize(("verb", "seeds"), [(api.train, []), (api.sweep, ["train.seed=[1,2]"])])
def test_a_cluster_without_workers_is_refused(
    dataset: str, tmp_path: Path, verb: Any, seeds: list[str]
) -> None:
    with pytest.raises(UsageError, match="0 workers, and the cluster at auto; wanted workers"):
        verb(plain(dataset, tmp_path, "here", workers=0), seeds, address="auto")
    assert not (tmp_path / "here" / "checkpoints").exists()


# --- signals


def press_when_training(home: Path, which: signal.Signals) -> threading.Thread:
    """Send this process a signal as soon as a run has logged a step."""

    def wait() -> None:
        while not (home / "metrics.jsonl").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), which)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_a_commit(
    dataset: str, tmp_path: Path, trained: dict[str, Any], which: signal.Signals
) -> None:
    before, home = signal.getsignal(which), tmp_path / "stopped"
    thread = press_when_training(home, which)
    with pytest.raises(launch.Stopped) as told:
        api.train(plain(dataset, tmp_path, "stopped", checkpoint_every=1000))
    thread.join()
    assert isinstance(told.value, KeyboardInterrupt) and told.value.exit_code == 128 + which
    assert signal.getsignal(which) is before
    step = launch.read_metrics(str(home / "metrics.jsonl"))[-1]["step"]
    assert 0 < step < STEPS
    wanted = f"kept at step {step} of {STEPS}; the same command, or `clipmill resume stopped"
    assert wanted in str(told.value)
    result = api.resume("stopped", folder=str(tmp_path))
    assert result["weights_sha256"] == trained["weights_sha256"]
    assert result["takes_sha256"] == trained["takes_sha256"]


def test_whoever_presses_twice_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(launch.Stopped), stop.on_signals(str(tmp_path)) as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGINT] and stop.asked(str(tmp_path))
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop.on_signals(str(tmp_path)) as came:
            os.kill(os.getpid(), signal.SIGINT)
        assert came == [] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is read while a run lives


def test_a_tail_reads_each_line_once_and_starts_again_with_another_file(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    tail = Tail(path)
    assert tail.read() == ([], False)
    add_lines(path, [{"step": 1}, {"step": 2}])
    assert tail.read() == ([{"step": 1}, {"step": 2}], True)
    with open(path, "a") as file:
        file.write('{"step": 3}\n{"st')
    assert tail.read() == ([{"step": 3}], False)
    with open(path, "a") as file:
        file.write('ep": 4}\n')
    assert tail.read() == ([{"step": 4}], False)
    cut_metrics(path, 1)
    assert tail.read() == ([{"step": 1}], True)
    assert tail.read() == ([], False)
