"""Promotion: the same test for both, a worse one refused, and the grounds written down."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from clipmill import api, evaluate, storage, track
from clipmill.errors import RegistryError
from tiny import run_recipe


@pytest.fixture(scope="module")
def folder(dataset: str, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two runs: `plain`, and `other` that knows other weights and looks at fewer clips."""
    runs = tmp_path_factory.mktemp("runs")
    api.train(run_recipe(dataset, runs, "plain", steps=3))
    api.train(run_recipe(dataset, runs, "other", steps=2, seed=5), ["model.test_clips=3"])
    return runs


def score(folder: Path, run: str) -> float:
    return float(api.evaluate(run, folder=str(folder))["score"])


def promote(folder: Path, run: str, name: str, **more: Any) -> dict[str, Any]:
    return api.promote(run, name=name, folder=str(folder), **more)


def test_the_better_of_two_is_champion_whatever_came_first(folder: Path) -> None:
    better, worse = sorted(("plain", "other"), key=lambda run: -score(folder, run))
    if score(folder, better) == score(folder, worse):
        assert promote(folder, better, "race")["version"] == "1"
        assert promote(folder, worse, "race")["version"] == "2"
        return
    promote(folder, better, "race")
    with pytest.raises(RegistryError, match="race@champion accuracy .*not worse; use --force"):
        promote(folder, worse, "race")
    versions = client(folder).search_model_versions("name='race'")
    assert len(versions) == 1, "what was refused is not registered"


def client(folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(track.uri_of(None, str(folder)))


def test_a_forced_one_tells_how_it_compares_and_what_it_followed(folder: Path) -> None:
    first = promote(folder, "plain", "forced")
    assert (first["before"], first["comparison"]) == (None, None)
    second = promote(folder, "other", "forced", force=True)
    told = second["comparison"]
    assert (told["a"], told["b"], told["videos"]) == ("other", "forced/1", 6)
    assert told["low"] <= told["difference"] <= told["high"]
    assert second["before"]["accuracy"] == first["metrics"]["accuracy"]
    tags = client(folder).get_model_version("forced", second["version"]).tags
    assert tags["clipmill.followed"] == "forced/1"
    assert tags["clipmill.compared"] == told["verdict"]


def test_a_run_that_mlflow_has_not_heard_of_is_refused_before_any_test(
    trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unheard = shutil.ignore_patterns("mlflow.json")
    shutil.copytree(trained["folder"], tmp_path / "unheard", ignore=unheard)
    monkeypatch.delattr(evaluate, "evaluate")
    told = f"not heard of the run 'unheard'; .*`clipmill resume unheard --runs {tmp_path}`"
    with pytest.raises(RegistryError, match=told):
        promote(tmp_path, "unheard", "vain")


def test_a_challenger_becomes_champion_as_the_same_version(folder: Path) -> None:
    challenger = promote(folder, "plain", "climb", alias="challenger")
    champion = promote(folder, "plain", "climb")
    assert champion["version"] == challenger["version"] == "1"
    model = client(folder).get_registered_model("climb")
    assert {name: str(number) for name, number in model.aliases.items()} == {
        "challenger": "1", "champion": "1",
    }  # fmt: skip


def test_a_holder_that_cannot_be_tested_is_followed_only_by_force(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = promote(folder, "plain", "spoilt")
    source = client(folder).get_model_version("spoilt", first["version"]).source
    uri = track.uri_of(None, str(folder))
    with track.fetched(uri, "spoilt@champion"):
        pass
    model_id = source.removeprefix("models:/")
    (told,) = Path(folder, "mlflow").rglob(f"{model_id}/artifacts/artifacts/model/model.json")
    storage.put_json(str(told), {**storage.read_json(str(told)), "weights_sha256": "0"})
    with pytest.raises(RegistryError, match="spoilt@champion cannot be tested .*use --force"):
        promote(folder, "other", "spoilt")
    forced = promote(folder, "other", "spoilt", force=True)
    assert (forced["version"], forced["comparison"]) == ("2", None)
    tags = client(folder).get_model_version("spoilt", "2").tags
    assert tags["clipmill.compared"] == "not compared"
