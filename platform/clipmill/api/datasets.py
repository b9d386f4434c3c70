"""Verbs about videos and datasets: made, looked into, brought in, removed, shown."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmill.api.shared import Progress, bare, named
from clipmill.errors import UsageError

if TYPE_CHECKING:
    import webdataset as wds

    from clipmill import video


def worlds_make(
    name: str,
    out: str,
    *,
    videos: int = 1000,
    size: int = 64,
    seed: int = 0,
    difficulty: str = "default",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a controlled video set: N videos in all, 70/15/15 for training, validation and test."""
    from clipmill import worlds

    tell = (lambda done, total: progress("making videos", done, total, {})) if progress else None
    return worlds.make(
        name, out, videos=videos, size=size, seed=seed, difficulty=difficulty, progress=tell
    )


def inspect(file: str) -> dict[str, Any]:
    """Tell what is really in a video; every frame is decoded."""
    from dataclasses import asdict

    from clipmill import storage, video

    with named(file):
        info = asdict(video.probe(storage.read(file), decode=True))
    return {"file": file, **info, **{name: list(info[name]) for name in ("streams", "faults")}}


def ingest(
    source: str,
    out: str,
    *,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
    fold: int = 1,
    profile: str | Mapping[str, Any] = "training",
    where: str | None = None,
    measure: Sequence[str] = (),
    split_seconds: float | None = None,
    split_shots: bool = False,
    max_corrupt_frames: int = 0,
    check: bool = False,
    flow: bool = False,
    background: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bring a dataset to hold all videos of a source; only what is new or changed is worked on.

    `profile` is a name, or fields such as {"name": "training", "short_side": 128}; `measure`
    names columns to measure, or "all"; `background` is the class of frames that no span covers.
    """
    from clipmill import ingest as ingests

    measures = ingests.MEASURES if "all" in measure else tuple(measure)
    options = ingests.Options(
        layout, dict(columns or {}), fold, _profile(profile), where, measures,
        split_seconds, split_shots, max_corrupt_frames, check, flow=flow, background=background,
    )  # fmt: skip
    return ingests.run(source, out, options, progress=bare(progress))


def _profile(told: str | Mapping[str, Any]) -> "video.Profile":
    """A profile by its name, with the fields that are told changed."""
    from dataclasses import fields, replace

    from clipmill import video

    name, changes = (told, {}) if isinstance(told, str) else (told.get("name", "training"), told)
    if name not in video.PROFILES:
        raise UsageError(f"profile {name!r}", f"one of {', '.join(video.PROFILES)}")
    known = {field.name for field in fields(video.Profile)}
    if unknown := set(changes) - known:
        raise UsageError(f"profile fields {sorted(unknown)}", f"of {', '.join(sorted(known))}")
    return replace(video.PROFILES[name], **changes)


def forget(data: str, keys: Sequence[str], *, folder: str = "runs", tracking: str | None = None) -> dict[str, Any]:  # fmt: skip
    """Remove records for good; list the runs and versions trained on them, and features of them."""
    from clipmill import ingest as ingests
    from clipmill import track

    uri = track.uri_of(tracking, folder)
    is_there = not uri.startswith("sqlite:///") or os.path.exists(uri.removeprefix("sqlite:///"))
    if is_there:
        track.trained_on(uri, ())  # what cannot be asked is told before anything is removed
    done = ingests.forget(data, keys)
    digests = done.pop("digests")
    trained = track.trained_on(uri, digests) if is_there else {"runs": [], "versions": []}
    return {**done, **trained}


def stats(data: str, *, where: str | None = None, plot: str | None = None) -> dict[str, Any]:
    """What is in a dataset: durations, classes, sizes, rates; as a picture too, if asked."""
    from clipmill import stats as statistics

    told = statistics.stats(data, where=where)
    return {**told, "plot": statistics.plot(data, plot, where=where)["file"]} if plot else told


def browse(
    data: str,
    out: str,
    *,
    limit: int = 500,
    where: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one page that shows a dataset, to be opened in any browser, offline."""
    from clipmill import browse as pages

    return pages.browse(data, out, limit=limit, where=where, progress=bare(progress))


def verify(data: str, *, deep: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Read a dataset back and name each fault."""
    from clipmill import ingest as ingests

    faults = ingests.verify(data, deep=deep, progress=bare(progress))
    return {"data": data, "faults": faults}


def webdataset(data: str) -> "wds.WebDataset":
    """Hand a dataset's shards to the webdataset library, for a loop of one's own."""
    import webdataset as wds

    from clipmill import catalog as catalogs
    from clipmill import storage

    catalog = catalogs.load(data)
    names = sorted(set(catalog.table["shard"].to_pylist()))
    return wds.WebDataset(
        [storage.join(catalog.folder, name) for name in names], shardshuffle=False
    )
