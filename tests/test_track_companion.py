"""Beside a run: in what it was made, what the machine does, and all of it sent once."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest

from clipmill import recipe, storage, track
from clipmill.recipe import Recipe
from clipmill.track import machine, outbox, surroundings
from clipmill.track.companion import Companion, accompanied
from tiny import catalog_of, recipe_of, rows

# --- in what a run was made


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false")
    told = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return told.stdout.strip()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_git_tells_commit_branch_and_changes(code: Path) -> None:
    commit = git(code, "rev-parse", "HEAD")
    clean = {"commit": commit, "dirty": False, "changes": [], "branch": "trunk"}
    assert surroundings.git(str(code)) == clean
    (code / "a.py").write_text("2")
    (code / "b.py").write_text("3")
    dirty = surroundings.git(str(code))
    assert dirty["dirty"] is True and dirty["changes"] == [" M a.py", "?? b.py"]
    git(code, "checkout", "-q", "--detach")
    assert "branch" not in surroundings.git(str(code))


def test_where_is_no_git_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert surroundings.git(str(tmp_path)) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert surroundings.git(str(tmp_path)) == {}


def test_surroundings_are_plain_and_name_what_is_installed() -> None:
    told = json.loads(json.dumps(surroundings.surroundings()))
    assert told["packages"]["mlflow"] == mlflow.__version__
    assert told["packages"]["numpy"] == np.__version__
    assert told["machine"]["cpus"] == psutil.cpu_count() and told["folder"] == str(Path.cwd())


# --- what the machine does


def test_a_sample_tells_cpu_memory_disk_and_network(tmp_path: Path) -> None:
    watched = machine.Machine(str(tmp_path))
    before = watched.sample()
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        pass
    told = watched.sample()
    assert told["system/cpu_utilization_percentage"] > 5
    assert told["system/own_memory_megabytes"] > 20
    assert 0 < told["system/system_memory_usage_percentage"] <= 100
    assert 0 <= told["system/disk_usage_percentage"] <= 100
    for name in ("network_receive_megabytes", "network_transmit_megabytes"):
        assert told[f"system/{name}"] >= before[f"system/{name}"] >= 0


def test_the_table_of_nvidia_smi_is_read() -> None:
    text = "0, 87, 1024, 143771, 312.50\n1, 0, 0, 143771, [N/A]\nstrange\n"
    told = machine.read_smi(text)
    assert told["gpu_0_utilization_percentage"] == 87
    assert told["gpu_0_memory_usage_megabytes"] == pytest.approx(1073.741824)
    assert told["gpu_0_memory_usage_percentage"] == pytest.approx(100 * 1024 / 143771)
    assert told["gpu_0_power_usage_watts"] == 312.5
    assert told["gpu_1_utilization_percentage"] == 0 and "gpu_1_power_usage_watts" not in told


def test_a_tool_that_fails_costs_nothing(tmp_path: Path) -> None:
    assert machine.gpus(None) == machine.gpus(str(tmp_path / "gone")) == {}
    assert machine.gpus("/bin/false") == {}


# --- kept and sent


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, str]:
    """Open a run of a recipe in a store of its own."""
    folder = tmp_path_factory.mktemp("runs")
    given = recipe.parse(recipe_of(run={"name": "tiny", "folder": str(folder)}))
    return given, track.begin(given, catalog_of(rows(8)))


def home(tmp_path: Path, run_id: str | None) -> Path:
    if run_id:
        storage.put_json(str(tmp_path / "mlflow.json"), {"run_id": run_id})
    storage.put_json(str(tmp_path / "recipe.json"), {"recipe": {}})
    return tmp_path


def client(given: Recipe) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(track.uri_of(None, given.run.folder))


def samples(given: Recipe, run_id: str) -> list[int]:
    found = client(given).get_metric_history(run_id, "system/cpu_utilization_percentage")
    return [metric.step for metric in found]


def files(given: Recipe, run_id: str, folder: str | None = None) -> set[str]:
    return {each.path for each in client(given).list_artifacts(run_id, folder)}


def test_what_waits_is_sent_once_the_run_is_known(
    tracked: tuple[Recipe, str], tmp_path: Path
) -> None:
    given, _ = tracked
    run_id = track.begin(given, catalog_of(rows(8)))
    early = Companion(given, str(home(tmp_path, None)), lambda file: Path(file).write_bytes(b"jpg"))
    early.start(["train.seed=1"])
    early.look()
    assert early.outbox.send() is False and samples(given, run_id) == []
    home(tmp_path, run_id)
    later = Companion(given, str(tmp_path))  # as after a restart
    later.start([])
    later.look()
    assert samples(given, run_id) == [1, 2]
    assert later.outbox.send() is True and samples(given, run_id) == [1, 2]
    assert files(given, run_id) == {"recipe.json", "surroundings.jsonl", "pictures"}
    assert files(given, run_id, "pictures") == {"pictures/samples.jpg"}
    tags = client(given).get_run(run_id).data.tags
    assert tags["clipmill.starts"] == "2" and "clipmill.host" in tags
    starts = outbox.rows_of(str(tmp_path / track.SURROUNDINGS))
    assert [start["overrides"] for start in starts] == [["train.seed=1"], []]


def test_a_store_that_is_away_is_asked_again(
    tracked: tuple[Recipe, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    given, run_id = tracked
    lost = given.model_copy(update={"track": given.track.model_copy(update={"uri": "http://127.0.0.1:1"})})  # fmt: skip
    away = Companion(lost, str(home(tmp_path, run_id)))
    away.look()
    assert away.outbox.send() is False
    assert track.Outbox(given, str(tmp_path)).send() is True
    assert samples(given, run_id)[-1:] == [1]


def test_a_file_that_grew_is_sent_anew(tracked: tuple[Recipe, str], tmp_path: Path) -> None:
    given, run_id = tracked
    path = home(tmp_path, run_id) / "bad_clips.jsonl"
    for text in ("one\n", "one\ntwo\n"):
        path.write_text(text)
        assert track.Outbox(given, str(tmp_path)).send() is True
        where = track.local_artifacts(track.uri_of(None, given.run.folder), run_id)
        assert where and Path(where, "bad_clips.jsonl").read_text() == text


def test_a_picture_that_cannot_be_drawn_costs_nothing(
    tracked: tuple[Recipe, str], tmp_path: Path
) -> None:
    def draw(file: str) -> None:
        raise RuntimeError("a plugin's own fault")

    given, run_id = tracked
    with accompanied(given, str(home(tmp_path, run_id)), draw=draw, seconds=0.01):
        while len(outbox.rows_of(str(tmp_path / track.SYSTEM))) < 2:
            time.sleep(0.01)
    assert len(outbox.rows_of(str(tmp_path / track.SYSTEM))) >= 2
    assert not list((tmp_path / track.PICTURES).iterdir())


def test_what_ends_a_run_passes_through(tracked: tuple[Recipe, str], tmp_path: Path) -> None:
    given, run_id = tracked
    with pytest.raises(KeyboardInterrupt), accompanied(given, str(home(tmp_path, run_id))):
        raise KeyboardInterrupt
    assert len(outbox.rows_of(str(tmp_path / track.SYSTEM))) == 1


def test_other_commits_are_told() -> None:
    def start(commit: str | None) -> dict[str, Any]:
        told = {"commit": commit, "dirty": False} if commit else {}
        return {"command": "x", "machine": {"host": "h"}, "user": None, "git": told}

    assert "clipmill.commits" not in outbox.tags_of([start("a"), start("a")])
    tags = outbox.tags_of([start("a"), start(None), start("b")])
    assert (tags["clipmill.commits"], tags["mlflow.source.git.commit"]) == ("a, b", "b")
    assert "mlflow.source.git.commit" not in outbox.tags_of([start(None)])


def test_a_line_that_was_broken_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": ')
    assert outbox.rows_of(str(tmp_path / "x.jsonl")) == [{"a": 1}]
    assert outbox.rows_of(str(tmp_path / "gone.jsonl")) == []
