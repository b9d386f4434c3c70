"""Tracking and registry, through MLflow's own client: one run, versions without pickle, aliases."""

import io
import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch

from clipmill import api, catalog, infer, launch, track
from clipmill.errors import RegistryError
from clipmill.track import registry
from clipmill.track.store import store as track_store


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


def test_the_run_has_files_pictures_and_the_machine(trained: dict[str, Any], runs: str) -> None:
    mine, run_id = client(runs), trained["run_id"]
    top = {each.path for each in mine.list_artifacts(run_id)}
    assert {"recipe.json", "surroundings.jsonl", "feed.json", "clipmill", "pictures"} <= top
    pictures = {each.path for each in mine.list_artifacts(run_id, "pictures")}
    assert {"pictures/samples.jpg", "pictures/confusion.png", "pictures/worst.png"} <= pictures
    for name in pictures:
        path = Path(trained["folder"], name)
        assert path.read_bytes()[:4] in (b"\xff\xd8\xff\xe0", b"\x89PNG")
    run = mine.get_run(run_id)
    assert run.data.metrics["system/own_memory_megabytes"] > 50
    tags = run.data.tags
    assert (tags["clipmill.starts"], tags["clipmill.bad_clips"]) == ("1", "0")
    assert tags["clipmill.verdict"] == trained["verdict"]
    for name in ("loss", "learning_rate", "gradient_norm", "takes_per_second", "wait_share"):
        assert len(mine.get_metric_history(run_id, name)) == trained["steps"], name


def is_pickle(data: bytes) -> bool:
    """Whether all of these bytes are one pickle, of any protocol, or begin as a newer one does."""
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    try:
        last = [place for _, _, place in pickletools.genops(data)][-1:]
    except Exception:  # bytes that are none fail in many ways
        return False
    return last == [len(data) - 1]


def holds_code(data: bytes) -> bool:
    """Whether a loader would unpickle it: a pickle, or an archive such as torch writes."""
    return is_pickle(data) or data[:2] in (b"PK", b"\x1f\x8b", b"BZ") or b"ustar" in data[257:265]


def test_pickles_are_known_when_they_are_seen() -> None:
    value = {"weights": [1.5, None, "text"], "bytes": b"x" * 300}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert is_pickle(pickle.dumps(value, protocol)), protocol
    for new_format in (True, False):
        buffer = io.BytesIO()
        torch.save(value, buffer, _use_new_zipfile_serialization=new_format)
        assert holds_code(buffer.getvalue())
    for harmless in (b"", b"N", b"{}", b"a: 1\n", b"I am text.", b"import os\n"):
        assert not holds_code(harmless)


def test_a_version_has_an_alias_and_no_pickle(
    promoted: dict[str, Any], trained: dict[str, Any], runs: str
) -> None:
    found = client(runs).get_model_version_by_alias("tiny", "champion")
    assert (promoted["uri"], str(found.version)) == ("models:/tiny@champion", promoted["version"])
    assert found.run_id == trained["run_id"]
    with track.fetched(track.uri_of(None, runs), "tiny@champion") as (folder, told):
        files = [path for path in Path(folder).parents[1].rglob("*") if path.is_file()]
        known = {".safetensors", ".json", ".yaml", ".txt", ".py", ""}
        assert {path.suffix for path in files} <= known
        assert len(files) > 5 and not [path for path in files if holds_code(path.read_bytes())]
        weights = Path(folder, "weights.safetensors").read_bytes()
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        assert "__metadata__" not in header or isinstance(header["__metadata__"], dict)
        assert told["version"] == promoted["version"]
    assert not Path(folder).exists()


def test_a_version_names_the_packages_that_answer_with_it(trained: dict[str, Any]) -> None:
    told = registry.requirements(f"{trained['folder']}/model")
    assert told == [f"clipmill=={version('clipmill')}"]


def test_registering_again_gives_the_alias_to_the_same_version(
    promoted: dict[str, Any], trained: dict[str, Any], runs: str
) -> None:
    uri = track.uri_of(None, runs)
    model = f"{trained['folder']}/model"
    again = track.register(uri, trained["run_id"], model, "tiny", track.CHALLENGER)
    assert again == {"name": "tiny", "version": promoted["version"], "alias": "challenger"}
    versions = client(runs).search_model_versions("name='tiny'")
    assert [str(each.version) for each in versions] == [promoted["version"]]
    assert client(runs).get_run(trained["run_id"]).info.status == "FINISHED"


def test_a_run_stays_ended_as_it_was_where_registering_fails(
    trained: dict[str, Any], runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise OSError("no space left")

    before = client(runs).get_run(trained["run_id"]).info
    monkeypatch.setattr(registry, "_signature", fails)
    with pytest.raises(OSError, match="no space left"):
        model = f"{trained['folder']}/model"
        track.register(track.uri_of(None, runs), trained["run_id"], model, "vain", None)
    after = client(runs).get_run(trained["run_id"]).info
    assert (after.status, after.end_time) == ("FINISHED", before.end_time)


def test_a_version_is_traced_to_data_recipe_run_and_files(
    promoted: dict[str, Any], trained: dict[str, Any], dataset: str, runs: str
) -> None:
    told = api.trace("tiny@champion", folder=runs)
    assert (told["name"], told["version"]) == ("tiny", promoted["version"])
    assert "champion" in told["aliases"] and told["notes"]["clipmill.promoted"] == "champion"
    assert told["run"]["run_id"] == trained["run_id"] and told["run"]["status"] == "FINISHED"
    assert told["data"] == [{"path": dataset, "digest": catalog.load(dataset).meta["digest"]}]
    assert told["recipe"]["model"]["plugin"] == "single_frame"
    assert (
        told["figures"]["validation"]["metrics"]["accuracy"] == trained["metrics"]["val_accuracy"]
    )
    assert told["figures"]["validation"]["protocol"]["split"] == "val"
    for name in ("weights_sha256", "takes_sha256"):
        assert told[name] == trained[name]
    sizes = {each["file"]: each["bytes"] for each in told["files"]}
    assert sizes["artifacts/model/weights.safetensors"] > 1000
    json.dumps(told)


def test_what_was_trained_on_a_dataset_is_found(
    promoted: dict[str, Any], trained: dict[str, Any], dataset: str, runs: str
) -> None:
    told = track.trained_on(track.uri_of(None, runs), [catalog.load(dataset).meta["digest"]])
    assert trained["run_id"] in [run["run_id"] for run in told["runs"]]
    assert {"name": "tiny", "version": promoted["version"]} in told["versions"]


def test_mlflows_own_loader_gives_our_answer(
    promoted: dict[str, Any], trained: dict[str, Any], dataset: str, runs: str, tmp_path: Path
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
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], input=record, capture_output=True, check=True,
        cwd=tmp_path, env=elsewhere,
    )  # fmt: skip
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


def test_a_person_sees_pages(promoted: dict[str, Any], trained: dict[str, Any], runs: str) -> None:
    from typer.testing import CliRunner

    from clipmill.cli import app

    digest = catalog.load(api.show("trained", folder=runs)["data"]).meta["digest"]
    steps = trained["steps"]
    for words, shown in (
        (["runs", runs], ["trained", "finished", f"{steps}/{steps}", "limits"]),
        (["show", "trained", "--runs", runs], ["loss", "█", trained["verdict"], "train.seed"]),
        (["show", "trained", "--live", "--runs", runs], ["█", trained["weights_sha256"]]),
        (["trace", "tiny@champion", "--runs", runs], [digest, "validation", "weights.safetensors"]),
        (["clean", runs, "--days", "1000"], ["nothing is old enough to go"]),
        (["promote", "trained", "--name", "tiny", "--runs", runs], ["models:/tiny@champion"]),
    ):
        ran = CliRunner().invoke(app, words)
        assert ran.exit_code == 0, ran.stderr
        assert [word for word in shown if word not in ran.stdout] == [] and "{" not in ran.stdout
        told = CliRunner().invoke(app, [*words, "--json"])
        assert isinstance(json.loads(told.stdout), dict)


@pytest.mark.parametrize("text", ["tiny", "tiny@", "@champion", "", "models:/tiny"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match="NAME@alias or NAME/3"):
        track.parse_version(text)


@pytest.mark.parametrize("text", ["tiny@nosuch", "tiny/99", "nosuch@champion"])
def test_a_version_that_is_not_there_is_named(
    text: str, promoted: dict[str, Any], runs: str
) -> None:
    there = "a version of tiny;" if text.startswith("nosuch") else "one of .*tiny@champion, tiny/1;"
    with pytest.raises(RegistryError, match=f"no version {text} in .*; wanted {there}") as told:
        api.trace(text, folder=runs)
    with pytest.raises(RegistryError) as same:
        api.predict(text, ["x.mp4"], folder=runs)
    assert str(same.value) == str(told.value)


@pytest.mark.parametrize("name", ["a/b", "a:b", "", "a@b", "a.b", "a b", "-a", "ä", "a\n", "../a"])
def test_names_that_no_registry_holds_are_refused(name: str, runs: str) -> None:
    with pytest.raises(RegistryError, match="choose another name"):
        api.promote("trained", name=name, folder=runs)


@pytest.mark.parametrize("alias", ["latest", "v3", "", "a b", "a/b", "LATEST"])
def test_aliases_that_no_registry_holds_are_refused(alias: str, runs: str) -> None:
    with pytest.raises(RegistryError, match="the alias .*such as champion"):
        api.promote("trained", name="tiny", alias=alias, folder=runs)


def test_an_address_of_no_store_is_told_at_the_start(dataset: str, tmp_path: Path) -> None:
    from tiny import run_recipe

    made = run_recipe(dataset, tmp_path, "away")
    with pytest.raises(RegistryError, match="MLflow at nosuch://"):
        api.train(made, ["track.uri=nosuch://server"])
    shutil.rmtree(tmp_path / "away")


def test_the_ambient_store_is_left_as_it_was(promoted: dict[str, Any]) -> None:
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_database_whose_making_is_broken_off_is_not_there(tmp_path: Path) -> None:
    code = "import sys; from clipmill.track.store import store\nwith store(sys.argv[1]): pass"
    uri, making = f"sqlite:///{tmp_path}/runs/mlflow.db", tmp_path / "making"
    making.mkdir()
    command = [sys.executable, "-c", code, uri]
    for least in (1, 300_000):  # as soon as its file is there, and when most of it is
        process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(making)})
        while sum(path.stat().st_size for path in making.rglob("mlflow.db")) < least:
            assert process.poll() is None, "it was made before it could be killed"
            time.sleep(0.005)
        process.kill()
        process.wait()
        shutil.rmtree(making)
        making.mkdir()
        assert not (tmp_path / "runs" / "mlflow.db").exists(), "killed too late"
    with track_store(uri) as opened:
        assert opened.search_experiments()
    assert mlflow.MlflowClient(uri, uri).search_experiments()
    assert os.listdir(tmp_path / "runs") == ["mlflow.db"]


def test_two_databases_of_one_process_share_nothing(tmp_path: Path) -> None:
    uris = [f"sqlite:///{tmp_path}/{name}/mlflow.db" for name in ("one", "two")]
    with track_store(uris[0]) as one, track_store(uris[1]) as two:
        made = one.create_experiment("mine")
        assert [each.name for each in one.search_experiments()] == ["mine", "Default"]
        assert [each.name for each in two.search_experiments()] == ["Default"]
        assert two.create_experiment("theirs") == made
