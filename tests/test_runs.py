"""Where runs stand, read from their folders: states, pace, curves, what limits."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clipmill import recipe, runs, storage, track
from clipmill.errors import RunError
from clipmill.folder import MARKER, SWEEP
from tiny import recipe_of


def made(
    folder: Path, name: str, *, steps: int = 0, total: int = 100, seconds: float = 0.5
) -> Path:
    """Write a run's folder as one leaves it that has logged some steps."""
    given = recipe.parse(
        recipe_of(run={"name": name, "folder": str(folder)}, train={"steps": total})
    )
    home = folder / name
    storage.put_json(str(home / "recipe.json"), {"recipe": given.plain(), "identity": "x"})
    rows = [
        {"step": step, "time": 1000 + seconds * step, "loss": 1 / step, "takes_per_second": 9.0}
        for step in range(1, steps + 1)
    ]
    (home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def test_a_run_is_living_broken_or_finished(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=3)
    assert runs.state_of(str(home)) == "broken"
    with storage.holding(str(home), "clipmill train a"):
        assert runs.state_of(str(home)) == "living"
        told = runs.standing(str(home))
    assert (told["state"], told["status"], told["steps"]) == ("living", "unfinished", 3)
    assert runs.state_of(str(home)) == "broken"
    result = {"name": "a", "run_id": "1", "steps": 3, "metrics": {"loss": 0.1}, "verdict": "x"}
    storage.put_json(str(home / "result.json"), result)
    told = runs.standing(str(home))
    assert (told["state"], told["status"], told["verdict"]) == ("finished", "finished", "x")
    assert told["left_seconds"] is None


def sweep_of(folder: Path, **states: str) -> Path:
    """Write down a sweep of trials as it keeps them, by name."""
    rows = [{"name": name, "state": state} for name, state in states.items()]
    storage.put_json(str(folder / "tried" / SWEEP), {"trials": rows})
    return folder / "tried"


def test_a_run_has_come_as_far_as_it_has_committed(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=3)
    last = home / "checkpoints" / "step-00000005-abc"
    last.mkdir(parents=True)
    (last / MARKER).touch()
    assert runs.standing(str(home))["steps"] == 5


def test_a_trial_is_stopped_by_its_sweep_or_waits_in_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        made(tmp_path, name, steps=3)
    home = sweep_of(tmp_path, a="stopped", b="going", c="failed")
    with storage.holding(str(home), "clipmill sweep tried"):
        states = {run["name"]: (run["state"], run["sweep"]) for run in runs.listed(str(tmp_path))}
    assert states == {
        "a": ("stopped", "tried"), "b": ("waiting", "tried"), "c": ("broken", "tried"),
        "d": ("broken", None),
    }  # fmt: skip
    assert runs.state_of(str(tmp_path / "b")) == "broken", "nobody works on its sweep any more"
    assert runs.whole(str(tmp_path / "a"))["state"] == "stopped"
    with storage.holding(str(tmp_path / "a"), "clipmill train a"):
        assert runs.state_of(str(tmp_path / "a")) == "living"


def test_a_run_whose_process_was_killed_is_broken(tmp_path: Path) -> None:
    home = made(tmp_path, "a")
    code = (
        "import sys, time\nfrom clipmill import storage\n"
        f"with storage.holding({str(home)!r}, 'x'):\n  print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        assert runs.state_of(str(home)) == "living"
        process.kill()
    assert (home / ".held").read_text(), "its words are still there"
    assert runs.state_of(str(home)) == "broken"


def test_looking_keeps_nobody_from_a_run(tmp_path: Path) -> None:
    home, over = made(tmp_path, "a"), threading.Event()

    def look() -> None:
        while not over.is_set():
            runs.is_held(str(home))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(200):
        with storage.holding(str(home), "clipmill train a"):
            pass
    over.set()
    thread.join()


def test_pace_and_time_left_are_those_of_the_last_steps(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=60, total=100, seconds=0.5)
    with storage.holding(str(home), "x"):
        told = runs.standing(str(home))
    assert told["takes_per_second"] == pytest.approx(8.0)  # batches of 4, two a second
    assert told["left_seconds"] == pytest.approx(20.0)
    assert (told["steps"], told["total_steps"], told["metrics"]["loss"]) == (60, 100, 1 / 60)


def test_the_end_of_a_long_file_is_enough(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=5000, total=6000)
    with open(home / "metrics.jsonl", "a") as file:
        file.write('{"step": 5001, "ti')  # still being written
    assert (home / "metrics.jsonl").stat().st_size > 3 * runs.TAIL_BYTES
    assert runs.standing(str(home))["steps"] == 5000
    curve = runs.whole(str(home))["curves"]["loss"]
    assert len(curve["steps"]) <= runs.CURVE_POINTS and curve["steps"][-1] == 5000
    assert curve["values"][-1] == 1 / 5000 and curve["steps"] == sorted(curve["steps"])


def test_time_is_that_of_work_and_not_of_breaks(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=20, seconds=1.0)  # at 1001 to 1020
    starts = [{"time": 999.0, "git": {}, "command": "x"}, {"time": 5000.0, "command": "x"}]
    (home / track.SURROUNDINGS).write_text("".join(json.dumps(s) + "\n" for s in starts))
    (home / track.SYSTEM).write_text(json.dumps({"step": 1, "time": 5010.0}) + "\n")
    assert runs.standing(str(home))["seconds"] == pytest.approx((1020 - 999) + 10)


def test_a_run_without_a_step_is_told_as_well(tmp_path: Path) -> None:
    told = runs.whole(str(made(tmp_path, "a")))
    assert (told["steps"], told["metrics"], told["curves"]) == (0, {}, {})
    assert told["verdict"] is None and told["takes_per_second"] is None


def test_runs_are_listed_by_name_and_found_by_id(tmp_path: Path) -> None:
    for name in ("b", "a"):
        storage.put_json(str(made(tmp_path, name) / "mlflow.json"), {"run_id": f"id of {name}"})
    (tmp_path / "mlflow").mkdir()
    assert [run["name"] for run in runs.listed(str(tmp_path))] == ["a", "b"]
    assert runs.path_of("id of b", str(tmp_path)) == runs.path_of("b", str(tmp_path))
    with pytest.raises(RunError, match="no run 'c' in .*wanted one of a, b"):
        runs.path_of("c", str(tmp_path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"feed_wait_share": 0.3, "copy_share": 0.5}, "the feed limits: the step waits 30%"),
        ({"feed_wait_share": 0.001, "copy_share": 0.5}, "copying limits: it takes 50%"),
        ({"feed_wait_share": 0.001}, "the step limits: it waits 0.1%"),
    ],
)
def test_what_limits_a_living_run_is_told(row: dict[str, Any], words: str) -> None:
    assert runs.limits(row).startswith(words)


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    home = made(tmp_path, "a", steps=2)
    with storage.holding(str(home), "x"):
        states = runs.followed(str(home), every_seconds=0.01)
        first = next(states)
        made(tmp_path, "a", steps=7)
        second = next(states)
    last = list(states)
    assert [first["steps"], second["steps"]] == [2, 7]
    assert first["state"] == "living" and [told["state"] for told in last] == ["broken"]
