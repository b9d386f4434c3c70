"""Tracking and registry, through MLflow's own client: one run, versions without pickle, aliases."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from clipmill import api, catalog, infer, launch, track
from clipmill.errors import RegistryError


@pytest.fixture(scope="module")
def runs(trained: dict[str, Any]) -> str:
    return str(Path(trained["folder"]).parent)


@pytest.fixture(scope="module")
def promoted(runs: str) -> dict[str, Any]:
    return api.promote("trained", name="tiny", folder=runs)


def client(runs: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(track.uri_of(None, runs))


def test_the_run_is_all_there(trained: dict[str, Any], runs: str) -> None:
    run = client(runs).get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.plugin"] == "single_frame"
    assert run.data.params["train.steps"] == str(trained["steps"])
    assert run.data.tags["clipmill.takes_sha256"] == trained["takes_sha256"]
    assert run.data.metrics["val_accuracy"] == trained["metrics"]["val_accuracy"]
    (data,) = run.inputs.dataset_inputs
    told = run.data.tags["clipmill.catalog_digest"]
    assert told.startswith(data.dataset.digest)


def test_every_logged_step_is_there_once(trained: dict[str, Any], runs: str) -> None:
    steps = [m.step for m in client(runs).get_metric_history(trained["run_id"], "loss")]
    rows = launch.read_metrics(launch.Folder(trained["folder"]).metrics)
    assert steps == [row["step"] for row in rows]


def test_a_version_has_an_alias_and_no_pickle(
    promoted: dict[str, Any], trained: dict[str, Any], runs: str
) -> None:
    found = client(runs).get_model_version_by_alias("tiny", "champion")
    assert (promoted["uri"], str(found.version)) == ("models:/tiny@champion", promoted["version"])
    assert found.run_id == trained["run_id"]
    with track.fetched(track.uri_of(None, runs), "tiny@champion") as (folder, told):
        files = [path for path in Path(folder).parents[1].rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {
            ".safetensors",
            ".json",
            ".yaml",
            ".txt",
            ".py",
            "",
        }
        assert not any(path.read_bytes()[:2] == b"\x80\x04" for path in files)
        assert told["version"] == promoted["version"]
    assert not Path(folder).exists()


def test_mlflows_own_loader_gives_our_answer(
    promoted: dict[str, Any], trained: dict[str, Any], dataset: str, runs: str
) -> None:
    data = catalog.load(dataset)
    record = data.read(data.table.to_pylist()[0])
    code = (
        "import mlflow, pandas, sys\n"
        f"mlflow.set_tracking_uri({track.uri_of(None, runs)!r})\n"
        f"model = mlflow.pyfunc.load_model({promoted['uri']!r})\n"
        "frame = pandas.DataFrame({'video': [sys.stdin.buffer.read()]})\n"
        "print(model.predict(frame)['answer'][0])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], input=record, capture_output=True, check=True
    )
    theirs = json.loads(told.stdout.splitlines()[-1])
    ours = infer.answer(infer.load(f"{trained['folder']}/model"), record)
    assert [c["name"] for c in theirs["classes"]] == [c["name"] for c in ours["classes"]]
    for one, two in zip(theirs["classes"], ours["classes"], strict=True):
        assert one["probability"] == pytest.approx(two["probability"], abs=1e-5)
    assert isinstance(pd.DataFrame(theirs["classes"]), pd.DataFrame)


def test_promoting_the_champion_again_does_nothing(promoted: dict[str, Any], runs: str) -> None:
    again = api.promote("trained", name="tiny", folder=runs)
    assert (again["version"], again["nothing_to_do"]) == (promoted["version"], True)


def test_evaluating_a_version_is_evaluating_its_run(promoted: dict[str, Any], runs: str) -> None:
    one = api.evaluate("models:/tiny@champion", folder=runs)
    two = api.evaluate(f"tiny/{promoted['version']}", folder=runs)
    three = api.evaluate("trained", folder=runs)
    assert one["metrics"] == two["metrics"] == three["metrics"] == promoted["metrics"]


@pytest.mark.parametrize("text", ["tiny", "tiny@", "@champion", "", "models:/tiny"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match="NAME@alias or NAME/3"):
        track.parse_version(text)


@pytest.mark.parametrize("text", ["tiny@nosuch", "tiny/99", "nosuch@champion"])
def test_a_version_that_is_not_there_is_named(
    text: str, promoted: dict[str, Any], runs: str
) -> None:
    with pytest.raises(RegistryError, match=f"no version {text}.*version of tiny"):
        api.evaluate(text, folder=runs)


@pytest.mark.parametrize("name", ["a/b", "a:b", "", "a@b", "a.b"])
def test_names_that_no_registry_holds_are_refused(name: str, runs: str) -> None:
    with pytest.raises(RegistryError, match="choose another name"):
        api.promote("trained", name=name, folder=runs)


def test_an_address_of_no_store_is_told_at_the_start(dataset: str, tmp_path: Path) -> None:
    from tiny import run_recipe

    made = run_recipe(dataset, tmp_path, "away")
    with pytest.raises(RegistryError, match="MLflow at nosuch://"):
        api.train(made, ["track.uri=nosuch://server"])
    shutil.rmtree(tmp_path / "away")


def test_the_ambient_store_is_left_as_it_was(promoted: dict[str, Any]) -> None:
    import os

    assert "MLFLOW_TRACKING_URI" not in os.environ
