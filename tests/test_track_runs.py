"""One training run as one run of MLflow, read back with MLflow's own client."""

import json
import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from clipmill import catalog, recipe, track
from clipmill.catalog import Catalog
from clipmill.errors import RegistryError
from clipmill.recipe import Recipe
from tiny import catalog_of, recipe_of, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def asked(folder: Path, name: str, **track_keys: Any) -> Recipe:
    return recipe.parse(recipe_of(run={"name": name, "folder": str(folder)}, track=track_keys))


def dataset(name: str, count: int) -> Catalog:
    made = catalog_of(rows(count))
    return Catalog(f"/data/{name}", made.table, made.meta)


def client(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(track.uri_of(None, str(folder)))


@pytest.fixture(scope="module")
def begun(folder: Path) -> str:
    both = catalog.joined([dataset("one", 8), dataset("two", 9)])
    return track.begin(asked(folder, "first"), both, overrides=["train.seed=3", "x=[1, 2]"])


def test_a_run_has_its_recipe_overrides_seed_and_every_dataset(begun: str, folder: Path) -> None:
    run = client(folder).get_run(begun)
    assert run.info.run_name == "first" and run.info.status == "RUNNING"
    params = run.data.params
    assert (params["model.width"], params["train.seed"], params["data.path"]) == (
        "0.125", "0", "data",
    )  # fmt: skip
    assert params["train.log_every"], "a default is told as well"
    assert json.loads(run.data.tags["clipmill.overrides"]) == ["train.seed=3", "x=[1, 2]"]
    inputs = [each.dataset for each in run.inputs.dataset_inputs]
    assert sorted(each.name for each in inputs) == ["one", "two"]
    for each, count in zip(sorted(inputs, key=lambda d: d.name), (8, 9), strict=True):
        digest = json.loads(each.source)["digest"]
        assert digest == dataset("x", count).meta["digest"] and digest.startswith(each.digest)


def test_what_was_trained_on_one_of_several_datasets_is_found(begun: str, folder: Path) -> None:
    uri = track.uri_of(None, str(folder))
    one, strange = dataset("one", 8).meta["digest"], dataset("x", 5).meta["digest"]
    told = track.trained_on(uri, [strange, one, one])
    assert told == {"runs": [{"run_id": begun, "name": "first"}], "versions": []}
    assert track.trained_on(uri, [strange]) == {"runs": [], "versions": []}


def test_a_trial_lies_below_its_parent(begun: str, folder: Path) -> None:
    trial = track.begin(asked(folder, "trial"), dataset("one", 8), parent=begun)
    experiment = client(folder).get_run(begun).info.experiment_id
    found = client(folder).search_runs([experiment], f"tags.mlflow.parentRunId = '{begun}'")
    assert [run.info.run_id for run in found] == [trial]


def test_a_run_that_goes_on_is_the_same_run(folder: Path) -> None:
    given = asked(folder, "again")
    run_id = track.begin(given, dataset("one", 8))
    track.finish(given, run_id, "FAILED", {"clipmill.ended": "RunError"})
    assert client(folder).get_run(run_id).info.status == "FAILED"
    assert track.begin(given, dataset("one", 8), run_id) == run_id
    assert client(folder).get_run(run_id).info.status == "RUNNING"


def test_a_row_that_is_sent_twice_is_there_once(begun: str, folder: Path) -> None:
    given = asked(folder, "first")
    sent = [
        {"step": step, "time": 1000.0 + step, "loss": 1 / step, "top(1)": 0.5, "note": "words",
         "bad": math.nan, "is_good": True}
        for step in (1, 2, 3)
    ]  # fmt: skip
    track.log(given, begun, sent[:2])
    track.log(given, begun, sent)
    history = client(folder).get_metric_history(begun, "loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (1, 1.0, 1001000), (2, 0.5, 1002000), (3, 1 / 3, 1003000),
    ]  # fmt: skip
    metrics = client(folder).get_run(begun).data.metrics
    assert metrics["top_1_"] == 0.5 and "note" not in metrics and math.isnan(metrics["bad"])


def test_runs_that_begin_at_once_share_their_experiment(begun: str, folder: Path) -> None:
    made: list[str] = []

    def begin(number: int) -> None:
        made.append(track.begin(asked(folder, f"r{number}", experiment="new"), dataset("one", 8)))

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    experiments = {client(folder).get_run(run_id).info.experiment_id for run_id in made}
    assert len(made) == 4 and len(experiments) == 1


def test_very_many_overrides_do_not_stop_a_run(folder: Path) -> None:
    many = [f"model.key{number}={'x' * 100}" for number in range(200)]
    run_id = track.begin(asked(folder, "many"), dataset("one", 8), overrides=many)
    kept = json.loads(client(folder).get_run(run_id).data.tags["clipmill.overrides"])
    assert 10 < len(kept) < 200 and kept == many[: len(kept)]


def test_files_become_artifacts_and_missing_ones_are_left_out(
    begun: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "here.txt").write_text("here")
    files = [str(tmp_path / name) for name in ("here.txt", "gone.txt")]
    track.add_files(asked(folder, "first"), begun, files, "notes")
    assert [each.path for each in client(folder).list_artifacts(begun, "notes")] == [
        "notes/here.txt"
    ]
    where = track.local_artifacts(track.uri_of(None, str(folder)), begun)
    assert where and Path(where, "notes", "here.txt").read_text() == "here"


# --- the store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_is_away(folder: Path) -> None:
    given = asked(folder, "x", uri="http://127.0.0.1:1")
    with pytest.raises(track.AwayError, match="MLflow at http://127.0.0.1:1 is away"):
        track.begin(given, dataset("one", 8))


def test_what_no_waiting_mends_is_not_away(folder: Path) -> None:
    for uri in ("nosuch://server", track.uri_of(None, str(folder))):
        given = asked(folder, "x", uri=uri)
        with pytest.raises(RegistryError, match="MLflow at") as told:
            track.begin(given, dataset("one", 8), "0" * 32)
        assert not isinstance(told.value, track.AwayError)


def test_two_stores_at_once_leave_warnings_as_they_were(begun: str, folder: Path) -> None:
    before = list(warnings.filters)
    uri, inside, over = track.uri_of(None, str(folder)), threading.Event(), threading.Event()

    def stay() -> None:
        with track.store(uri):
            inside.set()
            over.wait()

    thread = threading.Thread(target=stay)
    with track.store(uri):
        thread.start()
        inside.wait()
    over.set()
    thread.join()
    assert list(warnings.filters) == before
