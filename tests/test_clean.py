"""Cleaning: what is old goes, and only when told; living, registered and untold runs stay."""

import os
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from clipmill import api, clean, recipe, storage, track
from tiny import catalog_of, recipe_of, rows

OLD = time.time() - 40 * 86400


def made(
    runs: Path, name: str, *, old: bool = True, in_mlflow: bool = False, **result: Any
) -> Path:
    """Write the folder of a run that has ended."""
    given = recipe.parse(recipe_of(run={"name": name, "folder": str(runs)}))
    home = runs / name
    storage.put_json(str(home / "recipe.json"), {"recipe": given.plain()})
    if in_mlflow:
        run_id = track.begin(given, catalog_of(rows(8)))
        storage.put_json(str(home / "mlflow.json"), {"run_id": run_id})
        storage.put(str(home / "words.txt"), b"w" * 500)
        track.add_files(given, run_id, [str(home / "words.txt")])
        result["run_id"] = run_id
    done = {"name": name, "run_id": None, "steps": 6, "metrics": {}, "folder": str(home), **result}
    storage.put_json(str(home / "result.json"), done)
    if old:
        for path in home.iterdir():
            os.utime(path, (OLD, OLD))
    return home


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return tmp_path / "runs"


def names(told: dict[str, Any], kind: str = "runs") -> list[str]:
    return [find["name"] for find in told[kind]]


def test_old_runs_are_listed_and_go_only_when_told(runs: Path) -> None:
    home = made(runs, "old", in_mlflow=True)
    made(runs, "new", old=False)
    listed = api.clean(str(runs))
    assert names(listed) == ["old"] and listed["removed"] is False and home.exists()
    (find,) = listed["runs"]
    assert find["bytes"] == sum(map(clean.size_of, find["paths"])) > 1000
    assert find["why"] == "finished, 40 days old, no version came of it"
    assert listed["kept"] == [{"name": "new", "why": "it is 0 days old"}]
    artifacts = Path(find["paths"][1])
    assert (artifacts / "words.txt").exists()
    gone = api.clean(str(runs), yes=True)
    assert gone["removed"] is True and names(gone) == ["old"]
    assert not home.exists() and not artifacts.exists() and (runs / "new").exists()
    run = mlflow.MlflowClient(track.uri_of(None, str(runs))).get_run(find["run_id"])
    assert run.data.tags["clipmill.cleaned"] and run.data.params["train.batch"] == "4"
    assert api.clean(str(runs), yes=True)["bytes"] == 0


def test_living_and_untold_runs_stay(runs: Path) -> None:
    living = made(runs, "living")
    (living / "result.json").unlink()
    made(runs, "untold", tracked=False)
    with storage.holding(str(living), "clipmill train living"):
        told = api.clean(str(runs), days=0, yes=True)
    assert names(told) == [] and {each["name"] for each in told["kept"]} == {"living", "untold"}
    assert names(api.clean(str(runs), days=0)) == ["living"], "it was broken off"


def swept(runs: Path, state: str = "stopped", **trials: bool) -> Path:
    """Write a sweep and its trials, by name whether they are old."""
    for name, old in trials.items():
        made(runs, name, old=old)
    rows = [{"name": name, "state": state} for name in trials]
    file = runs / "sweep" / "sweep.json"
    storage.put_json(str(file), {"trials": rows, "run_id": None, "tracked": True})
    os.utime(file, (OLD, OLD))
    return file.parent


def test_a_sweep_goes_with_the_last_of_its_trials(runs: Path) -> None:
    home = swept(runs, a=True, b=False)
    told = api.clean(str(runs), yes=True)
    assert (names(told), names(told, "sweeps")) == (["a"], [])
    assert {"name": "sweep", "why": "its trial b stays"} in told["kept"] and home.exists()
    made(runs, "b")
    told = api.clean(str(runs), yes=True)
    assert (names(told), names(told, "sweeps")) == (["b"], ["sweep"])
    assert told["sweeps"][0]["why"] == "40 days old, none of its trials stays"
    assert not home.exists()


def test_a_sweep_that_goes_on_keeps_the_trials_that_wait(runs: Path) -> None:
    home = swept(runs, "going", a=True)
    (runs / "a" / "result.json").unlink()
    with storage.holding(str(home), "clipmill sweep sweep"):
        told = api.clean(str(runs), days=0, yes=True)
        assert (names(told), names(told, "sweeps")) == ([], [])
    told = api.clean(str(runs), days=0)
    assert (names(told), names(told, "sweeps")) == (["a"], ["sweep"])


def test_a_sweep_that_mlflow_has_not_heard_of_stays(runs: Path) -> None:
    home = swept(runs, a=True)
    plain = {**storage.read_json(str(home / "sweep.json")), "tracked": False}
    storage.put_json(str(home / "sweep.json"), plain)
    told = api.clean(str(runs), days=0)
    assert (names(told), names(told, "sweeps")) == (["a"], [])


def test_runs_of_registered_versions_stay(runs: Path) -> None:
    made(runs, "good", in_mlflow=True)
    made(runs, "idle", in_mlflow=True)
    run_id = track.run_id_of(str(runs / "good"))
    client = mlflow.MlflowClient(track.uri_of(None, str(runs)))
    client.create_registered_model("demo")
    client.create_model_version("demo", str(runs / "good"), run_id=run_id)
    told = api.clean(str(runs), yes=True)
    assert names(told) == ["idle"] and (runs / "good").exists()
    assert told["kept"] == [{"name": "good", "why": "a version in the registry came of it"}]


def test_decoded_clips_go_but_not_under_a_living_run(runs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "temporary" / f"clipmill-cache-{os.getuid()}"
    cache.mkdir()
    for name, age in (("old.npz", OLD), ("new.npz", time.time()), ("mine.txt", OLD)):
        (cache / name).write_bytes(bytes(100))
        os.utime(cache / name, (age, age))
    living = made(runs, "living", old=False)
    (living / "result.json").unlink()
    with storage.holding(str(living), "x"):
        assert api.clean(str(runs), yes=True)["caches"] == []
    (find,) = api.clean(str(runs), yes=True)["caches"]
    assert (find["bytes"], find["name"]) == (100, str(cache))
    assert sorted(path.name for path in cache.iterdir()) == ["mine.txt", "new.npz"]


def test_what_crashes_left_goes(runs: Path, tmp_path: Path) -> None:
    checkpoints = made(runs, "broken", old=False) / "checkpoints"
    for name, marker in (("step-00000003-aa", True), ("step-00000006-bb", False)):
        storage.put(str(checkpoints / name / "weights.safetensors"), bytes(50))
        if marker:
            storage.put(str(checkpoints / name / "COMMITTED"), b"")
    for name, age in (("clipmill-version-a", OLD), ("clipmill-version-b", time.time())):
        (tmp_path / "temporary" / name).mkdir()
        os.utime(tmp_path / "temporary" / name, (age, age))
    told = api.clean(str(runs), yes=True)
    assert names(told, "leftovers") == ["step-00000006-bb", "clipmill-version-a"]
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000003-aa"]
    assert (tmp_path / "temporary" / "clipmill-version-b").exists()


def test_where_is_nothing_nothing_is_made(runs: Path) -> None:
    told = api.clean(str(runs), yes=True)
    assert told["bytes"] == 0 and not runs.exists()
