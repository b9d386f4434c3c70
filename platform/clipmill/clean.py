"""Old runs, sweeps, caches, what crashes left: finds them with sizes, and removes them if told.

Keeps living runs, those that a registered version came of, and those that MLflow has not heard of.
MLflow's own records of a run stay: only its files go.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from clipmill import runs, storage, track
from clipmill.feed.cache import own_folder
from clipmill.folder import SWEEP, uncommitted

Kind = Literal["run", "sweep", "cache", "leftover"]
Row = dict[str, Any]

DAY_SECONDS = 86400.0
LEFTOVER_DAYS = 1.0  # after which nobody is at work on a temporary folder any more
TEMPORARY = "clipmill-version-*"  # where versions are brought to


@dataclass(frozen=True)
class Find:
    """Something that could go: its paths, how large it is, and why."""

    kind: Kind
    name: str
    paths: tuple[str, ...]
    bytes: int
    why: str
    run_id: str | None = None


def clean(folder: str, uri: str, *, days: float = 30.0, remove: bool = False) -> Row:
    """List what is older than some days and could go, with sizes; remove it where told to."""
    listed = runs.listed(folder)
    kept = _kept(listed, uri, days)
    kept |= _kept_sweeps(folder, kept, days)
    finds = [
        *_old_runs(listed, kept, uri),
        *_old_sweeps(folder, kept, uri),
        *_leftovers(listed, kept),
        *_caches(listed, days),
    ]
    if remove:
        for find in finds:
            _remove(find, uri)
    return {
        "runs": [asdict(find) for find in finds if find.kind == "run"],
        "sweeps": [asdict(find) for find in finds if find.kind == "sweep"],
        "caches": [asdict(find) for find in finds if find.kind == "cache"],
        "leftovers": [asdict(find) for find in finds if find.kind == "leftover"],
        "kept": [{"name": name, "why": why} for name, why in kept.items()],
        "bytes": sum(find.bytes for find in finds),
        "removed": remove,
    }


def _kept(listed: list[Row], uri: str, days: float) -> dict[str, str]:
    """The runs that stay, by name, with the reason."""
    registered = track.registered_runs(uri) if track.is_there(uri) else set()
    kept = {}
    for run in listed:
        if run["state"] in runs.GOING_ON:
            kept[run["name"]] = "it is going on"
        elif run["run_id"] in registered:
            kept[run["name"]] = "a version in the registry came of it"
        elif run.get("tracked") is False:
            kept[run["name"]] = "MLflow has not heard all of it; `clipmill resume` tells it"
        elif _days_since(run["changed"]) < days:
            kept[run["name"]] = f"it is {_days_since(run['changed']):.0f} days old"
    return kept


def _kept_sweeps(folder: str, kept: Mapping[str, str], days: float) -> dict[str, str]:
    """The sweeps that stay, by name: as long as any of their trials does."""
    found = {}
    for file in sorted(Path(folder).glob(f"*/{SWEEP}")):
        told: Row = storage.read_json(str(file))
        stays = [row["name"] for row in told["trials"] if row["name"] in kept]
        age = _days_since(file.stat().st_mtime)
        if runs.is_held(str(file.parent)):
            found[file.parent.name] = "it is going on"
        elif _is_over(told) and not told["tracked"]:
            found[file.parent.name] = "MLflow has not heard all of it; the same command tells it"
        elif stays:
            found[file.parent.name] = f"its trial {stays[0]} stays"
        elif age < days:
            found[file.parent.name] = f"it is {age:.0f} days old"
    return found


def _is_over(told: Row) -> bool:
    return not any(row["state"] in ("waiting", "going") for row in told["trials"])


def _old_sweeps(folder: str, kept: Mapping[str, str], uri: str) -> Iterator[Find]:
    for file in sorted(Path(folder).glob(f"*/{SWEEP}")):
        if file.parent.name not in kept:
            told: Row = storage.read_json(str(file))
            artifacts = _artifacts(uri, told["run_id"])
            paths = (str(file.parent), *([artifacts] if artifacts else []))
            why = f"{_days_since(file.stat().st_mtime):.0f} days old, none of its trials stays"
            yield Find(
                "sweep", file.parent.name, paths, sum(map(size_of, paths)), why, told["run_id"]
            )


def _days_since(when: float) -> float:
    return (time.time() - when) / DAY_SECONDS


def _old_runs(listed: list[Row], kept: dict[str, str], uri: str) -> Iterator[Find]:
    for run in listed:
        if run["name"] in kept:
            continue
        artifacts = _artifacts(uri, run["run_id"])
        paths = (run["folder"], *([artifacts] if artifacts else []))
        why = f"{run['state']}, {_days_since(run['changed']):.0f} days old, no version came of it"
        yield Find("run", run["name"], paths, sum(map(size_of, paths)), why, run["run_id"])


def _artifacts(uri: str, run_id: str | None) -> str | None:
    if run_id is None or not track.is_there(uri):
        return None
    found = track.local_artifacts(uri, run_id)
    return found if found and os.path.isdir(found) else None


def _leftovers(listed: list[Row], kept: dict[str, str]) -> Iterator[Find]:
    """What crashes left: in runs that stay and nobody works on, and among temporary files."""
    for run in listed:
        if run["state"] == "living" or run["name"] not in kept:
            continue
        half = uncommitted(run["folder"])
        for path in (*half, *Path(run["folder"]).glob(".ray")):
            yield Find("leftover", path.name, (str(path),), size_of(str(path)), "half-written")
    for path in Path(tempfile.gettempdir()).glob(TEMPORARY):
        if path.stat().st_uid == os.getuid() and _days_since(path.stat().st_mtime) > LEFTOVER_DAYS:
            yield Find("leftover", path.name, (str(path),), size_of(str(path)), "of a crash")


def _caches(listed: list[Row], days: float) -> Iterator[Find]:
    """Decoded clips: in the folder of this user, and those that the recipes of runs name."""
    if any(run["state"] == "living" for run in listed):
        return
    named = [_recipe(run)["feed"].get("cache_folder") for run in listed]
    for folder in dict.fromkeys([str(own_folder()), *(each for each in named if each)]):
        blocks = [path for path in Path(folder).glob("*.npz") if _is_old(path, days)]
        if blocks:
            size = sum(path.stat().st_size for path in blocks)
            why = f"{len(blocks)} blocks of decoded clips, made again when they are needed"
            yield Find("cache", folder, tuple(map(str, blocks)), size, why)


def _recipe(run: Row) -> Row:
    told: Row = storage.read_json(storage.join(run["folder"], "recipe.json"))
    recipe: Row = told["recipe"]
    return recipe


def _is_old(path: Path, days: float) -> bool:
    return _days_since(path.stat().st_mtime) >= days


def size_of(path: str) -> int:
    """The bytes of all files below a path."""
    root = Path(path)
    return sum(each.lstat().st_size for each in root.rglob("*") if not each.is_dir())


def _remove(find: Find, uri: str) -> None:
    if find.kind in ("run", "sweep"):
        with storage.holding(find.paths[0], "clipmill clean"):  # nobody may begin it meanwhile
            _remove_paths(find)
        if find.run_id and track.is_there(uri):
            track.mark(uri, find.run_id, {"clipmill.cleaned": time.strftime("%Y-%m-%d")})
    else:
        _remove_paths(find)


def _remove_paths(find: Find) -> None:
    for path in find.paths:
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)
