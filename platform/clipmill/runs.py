"""What stands in a folder of runs: how far each has come, and all that is known of one.

Reads only the files of the runs' folders; asks neither MLflow nor Ray, and changes nothing.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clipmill import storage, track
from clipmill.folder import SWEEP, Folder, committed, committed_step, read_metrics, step_of
from clipmill.storage.hold import HELD

# Trials of a sweep are also "stopped" by it, or "waiting" while it trains others.
State = Literal["living", "broken", "finished", "stopped", "waiting"]
GOING_ON = ("living", "waiting")
Row = dict[str, Any]

TAIL_BYTES = 1 << 16  # of a file of metrics, for what a run does now
RECENT = 20  # logged steps that a pace is of
CURVE_POINTS = 200
WAITING, COPYING = 0.02, 0.2  # shares of the time above which they limit


def path_of(run: str, folder: str) -> str:
    """The folder of a run by its name or its MLflow id."""
    root = storage.absolute(folder)
    for home in (f"{root}/{run}", storage.absolute(run)):
        if run and os.path.exists(f"{home}/recipe.json"):
            return home
    for path in Path(root).glob("*/mlflow.json"):
        if track.run_id_of(str(path.parent)) == run:
            return str(path.parent)
    raise track.no_such_run(run, folder)


def listed(folder: str) -> list[Row]:
    """Where all runs of a folder stand, by name."""
    trials = trials_of(folder)
    paths = [str(path.parent) for path in sorted(Path(folder).glob("*/recipe.json"))]
    return [_standing(path, trials.get(os.path.basename(path))) for path in paths]


def standing(path: str) -> Row:
    """Where one run stands: its result, or how far it has come."""
    return _standing(path, _trial_at(path))


def _standing(path: str, trial: Row | None) -> Row:
    home, state = Folder(path), _state(path, trial)
    recipe = _recipe(home)
    rows = _tail(home.metrics)
    done = _result(home) if state == "finished" else _so_far(home, recipe, rows)
    total = int(recipe["train"]["steps"])
    pace = _steps_per_second(rows)
    left = (total - done["steps"]) / pace if pace else None
    told = {
        "status": "finished" if state == "finished" else "unfinished",
        **done,
        "state": state,
        "total_steps": total,
        "plugin": recipe["model"]["plugin"],
        "data": recipe["data"]["path"],
        "seconds": _seconds(path, rows),
        "takes_per_second": pace * recipe["train"]["batch"] if pace else None,
        "left_seconds": left if state == "living" else None,
        "changed": _changed(home),
        "sweep": trial["sweep"] if trial else None,
    }
    limit = done.get("verdict") or (limits(rows[-1]) if rows else None)
    return {**told, "verdict": limit}


def state_of(path: str) -> State:
    """Whether a run has finished, is held by a process, was broken off, or rests as a trial."""
    return _state(path, _trial_at(path))


def _state(path: str, trial: Row | None) -> State:
    if os.path.exists(Folder(path).result):
        return "finished"
    if is_held(path):
        return "living"
    if trial and trial["state"] == "stopped":
        return "stopped"
    is_next = trial and trial["is_held"] and trial["state"] in ("waiting", "going")
    return "waiting" if is_next else "broken"


def trials_of(folder: str) -> dict[str, Row]:
    """The trials of all sweeps of a folder by their names, as their sweeps know them."""
    found: dict[str, Row] = {}
    for file in sorted(Path(folder).glob(f"*/{SWEEP}")):
        told: Row = storage.read_json(str(file))
        about = {"sweep": file.parent.name, "is_held": is_held(str(file.parent))}
        found |= {row["name"]: {**row, **about} for row in told["trials"]}
    return found


def _trial_at(path: str) -> Row | None:
    return trials_of(os.path.dirname(path)).get(os.path.basename(path))


def is_held(path: str) -> bool:
    """Whether a process on this machine works on a run's folder."""
    try:
        with open(os.path.join(path, HELD)) as file:
            # Whoever lets go leaves it empty; words without a holder are those of one who died.
            if not file.read(1):
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _recipe(home: Folder) -> Row:
    told: Row = storage.read_json(home.recipe)
    recipe: Row = told["recipe"]
    return recipe


def _result(home: Folder) -> Row:
    result: Row = storage.read_json(home.result)
    return result


def _so_far(home: Folder, recipe: Row, rows: Sequence[Row]) -> Row:
    last = rows[-1] if rows else {}
    return {
        "run_id": track.run_id_of(home.path),
        "name": recipe["run"]["name"],
        "folder": home.path,
        "steps": max(last.get("step", 0), committed_step(home)),
        "metrics": _figures(last),
    }


def _figures(row: Mapping[str, Any]) -> Row:
    return {name: value for name, value in row.items() if name not in ("step", "time")}


def _tail(path: str) -> list[Row]:
    """The last rows of a file of metrics that may be large and still be written to."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[:-1]  # the last one is empty, or still being written
    return [json.loads(line) for line in (lines if size <= TAIL_BYTES else lines[1:])]


def _steps_per_second(rows: Sequence[Row]) -> float | None:
    """Of the last logged steps by the clock, with all that came between them."""
    first, last = (rows[-RECENT:][0], rows[-1]) if len(rows) > 1 else ({}, {})
    seconds = last.get("time", 0.0) - first.get("time", 0.0)
    return float((last["step"] - first["step"]) / seconds) if seconds > 0 else None


def _seconds(path: str, rows: Sequence[Row]) -> float | None:
    """Time that a run was worked on: of each start the time to the last sign of life after it."""
    starts = [row["time"] for row in track.rows_of(f"{path}/{track.SURROUNDINGS}")]
    signs = [row["time"] for row in (*track.rows_of(f"{path}/{track.SYSTEM}"), *rows)]
    if not starts or not signs:
        return None
    ends = [*starts[1:], float("inf")]
    spans = [
        max((sign for sign in signs if start <= sign < end), default=start) - start
        for start, end in zip(starts, ends, strict=True)
    ]
    return float(sum(spans))


def _changed(home: Folder) -> float:
    files = (home.result, home.metrics, home.recipe)
    return max(os.path.getmtime(file) for file in files if os.path.exists(file))


def limits(row: Mapping[str, Any]) -> str:
    """What holds a living run up, from its last figures."""
    waiting = float(row.get("feed_wait_share", row.get("wait_share", 0.0)))
    if waiting >= WAITING:
        return f"the feed limits: the step waits {waiting:.0%} of its time for clips"
    copying = float(row.get("copy_share", 0.0))
    if copying >= COPYING:
        return f"copying limits: it takes {copying:.0%} of the step"
    return f"the step limits: it waits {waiting:.1%} of its time for clips"


# --- all that is known of one


def whole(path: str) -> Row:
    """Everything that is known of one run."""
    home = Folder(path)
    told: Row = storage.read_json(home.recipe)
    starts = track.rows_of(f"{path}/{track.SURROUNDINGS}")
    system = track.rows_of(f"{path}/{track.SYSTEM}")
    last = {k: v for k, v in starts[-1].items() if k != "packages"} if starts else {}
    return {
        **standing(path),
        "bad_clips": len(read_metrics(home.bad_clips)),
        "curves": curves(read_metrics(home.metrics)),
        "checkpoints": sorted(map(step_of, committed(path))),
        "starts": len(starts),
        "surroundings": last,
        "system": _figures(system[-1]) if system else {},
        "pictures": sorted(str(file) for file in Path(path, track.PICTURES).glob("*")),
        "data_changes": told.get("data_changes") or [],
        "recipe": told["recipe"],
    }


def curves(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Each metric over the steps, thinned out evenly to what a page can show."""
    names = dict.fromkeys(name for row in rows for name in _figures(row))
    found = {}
    for name in names:
        of_it = [row for row in rows if name in row]
        stride = -(-len(of_it) // CURVE_POINTS)
        kept = of_it[::-1][::stride][::-1]  # the last one is among them
        found[name] = {
            "steps": [row["step"] for row in kept],
            "values": [row[name] for row in kept],
        }
    return found


def followed(path: str, *, every_seconds: float = 1.0) -> Iterator[Row]:
    """Tell all that is known of a run again and again while it goes on, and once after."""
    while True:
        told = whole(path)
        yield told
        if told["state"] not in GOING_ON:
            return
        time.sleep(every_seconds)
