"""What a run's name and folder may be used for: new runs, broken ones, and nothing else."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipmill import api, catalog, launch, recipe, storage, track
from clipmill.checkpoint import State
from clipmill.errors import RunError
from clipmill.launch import going_on
from clipmill.launch.tracked import untold
from clipmill.plan import Plan
from tiny import RUN_STEPS as STEPS
from tiny import catalog_of, rows
from tiny import run_recipe as plain


def test_a_finished_name_is_refused(dataset: str, trained: dict[str, Any]) -> None:
    folder = Path(trained["folder"]).parent
    with pytest.raises(RunError, match="has finished; wanted a new name"):
        api.train(plain(dataset, folder, "trained"))


@pytest.mark.parametrize(
    ("train", "is_sent"), [({"workers": 1}, True), ({"seed": 5}, False), ({"steps": 99}, False)]
)
def test_a_run_that_mlflow_missed_is_told_for_its_own_recipe_alone(
    dataset: str,
    tmp_path: Path,
    trained: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    train: dict[str, int],
    is_sent: bool,
) -> None:
    home = tmp_path / "trained"
    home.mkdir()
    for name in ("recipe.json", "result.json"):
        shutil.copy(Path(trained["folder"], name), home)
    storage.put_json(untold(launch.Folder(str(home))), {"status": "FINISHED"})
    monkeypatch.setattr(launch, "send_untold", lambda home: {"sent": home.path})
    asked = plain(dataset, tmp_path, "trained", **train)
    if is_sent:
        assert api.train(asked) == {"sent": str(home)}
        return
    with pytest.raises(RunError, match="has finished; wanted a new name"):
        api.train(asked)


def _broken(dataset: str, folder: Path) -> None:
    """Leave a run as a crash after its first commit would."""
    made = recipe.load(plain(dataset, folder, "broken", steps=4))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain()})
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


def test_a_run_that_kept_the_digest_of_before_goes_on_and_others_are_told_why() -> None:
    given = recipe.load(plain("data", Path(), "x"))
    made = Plan(catalog_of(rows(8)), given.plugin(), "train", 0, 4)
    state = State(1, 4, "", "", "", "", plan_digest=made.digest_with_defaults)
    going_on._check_plan(given, made, state, False)
    told = r"same order of records and choice of those that single_frame can use;"
    with pytest.raises(RunError, match=told):
        going_on._check_plan(given, made, replace(state, plan_digest="other"), False)


def test_a_folder_of_something_else_is_left_alone(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        api.train(plain(dataset, tmp_path, "mine"))
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_a_run_that_committed_nothing_may_begin_with_another_recipe(
    dataset: str, tmp_path: Path
) -> None:
    made = recipe.load(plain(dataset, tmp_path, "typo", seed=9))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain()})
    assert api.train(plain(dataset, tmp_path, "typo", steps=3))["steps"] == 3


def test_changed_data_is_trained_on_only_when_told_and_is_recorded(
    dataset: str, tmp_path: Path
) -> None:
    _broken(dataset, tmp_path)
    changed = str(tmp_path / "changed")
    for path in storage.list_files(dataset):
        storage.put(f"{changed}/{Path(path).name}", storage.read(path))
    whole = catalog.load(dataset)
    catalog.save(changed, whole.table.slice(1), whole.meta)
    digest = catalog.load(changed).meta["digest"]
    with pytest.raises(RunError, match="--anyway"):
        api.train(plain(changed, tmp_path, "broken"))
    result = api.train(plain(changed, tmp_path, "broken"), allow_changed_data=True)
    assert result["steps"] == STEPS
    told: dict[str, Any] = storage.read_json(f"{result['folder']}/recipe.json")
    assert [(each["step"], each["digest"]) for each in told["data_changes"]] == [(4, digest)]
    with track.store(track.uri_of(None, str(tmp_path))) as client:
        tags = client.get_run(result["run_id"]).data.tags
    assert tags["clipmill.data_changes"] == f"{digest[:12]} from step 4"


def test_a_folder_in_an_object_store_is_refused(dataset: str) -> None:
    with pytest.raises(RunError, match="is in an object store; wanted a folder on a disk"):
        api.train(plain(dataset, Path("x"), "x"), ["run.folder=s3://bucket/runs"])
