"""Runs in this process: exact resume, refusals, what a run leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill import api, catalog, launch, recipe, storage
from clipmill.checkpoint import Keeper
from clipmill.errors import BusyError, RunError
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


def test_a_finished_name_is_refused(dataset: str, trained: dict[str, Any]) -> None:
    folder = Path(trained["folder"]).parent
    with pytest.raises(RunError, match="has finished; wanted a new name"):
        api.train(plain(dataset, folder, "trained"))


def _broken(dataset: str, folder: Path) -> None:
    """Leave a run as a crash after its first commit would."""
    made = recipe.load(plain(dataset, folder, "broken", steps=4))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})


def test_a_broken_run_goes_on_only_with_its_own_recipe(dataset: str, tmp_path: Path) -> None:
    _broken(dataset, tmp_path)
    with pytest.raises(RunError, match=r"began with another train\.seed"):
        api.train(plain(dataset, tmp_path, "broken", seed=5))
    shown = api.show("broken", folder=str(tmp_path))
    assert (shown["status"], shown["steps"]) == ("unfinished", 4)


def test_a_broken_run_goes_on_only_with_its_own_data(dataset: str, tmp_path: Path) -> None:
    _broken(dataset, tmp_path)
    other = tmp_path / "other"
    for path in storage.list_files(dataset):
        storage.put(str(other / Path(path).name), storage.read(path))
    whole = catalog.load(dataset)
    catalog.save(str(other), whole.table.slice(1), whole.meta)
    with pytest.raises(RunError, match="is not the one that 'broken' began with"):
        api.train(plain(str(other), tmp_path, "broken"))


def test_a_living_run_is_held(dataset: str, tmp_path: Path) -> None:
    with (
        storage.holding(str(tmp_path / "alive"), "clipmill train alive"),
        pytest.raises(BusyError, match="in use by clipmill train alive"),
    ):
        api.train(plain(dataset, tmp_path, "alive"))
    assert not (tmp_path / "alive" / "recipe.json").exists()


def test_a_folder_of_something_else_is_left_alone(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        api.train(plain(dataset, tmp_path, "mine"))
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


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
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})
    result = api.resume("late", folder=str(tmp_path))
    assert result["weights_sha256"] == trained["weights_sha256"]


def test_a_run_that_committed_nothing_may_begin_with_another_recipe(
    dataset: str, tmp_path: Path
) -> None:
    made = recipe.load(plain(dataset, tmp_path, "typo", seed=9))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    assert api.train(plain(dataset, tmp_path, "typo", steps=3))["steps"] == 3


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
