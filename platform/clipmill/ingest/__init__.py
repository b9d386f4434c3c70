"""Ingest: a heap of video in; verified shards, a catalog and a ledger of what was not taken out.

Ray Data carries the work: `from_items(...).map(...)`, each row a few sources or one shard. The
catalog comes after all shards, `dataset.json` last: it is the mark of a whole dataset.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import catalog as catalogs
from clipmill import cluster, shards, storage, video
from clipmill.catalog import Catalog
from clipmill.errors import DataError, SourceError, StorageError, UsageError, VideoError
from clipmill.ingest import layouts
from clipmill.ingest.layouts import Source
from clipmill.ingest.prepare import (
    SHARD_NAME,
    Examined,
    Sorted,
    content_of,
    digest,
    examine,
    printable,
    revived,
    shard_plan,
    sort_out,
    with_splits,
)
from clipmill.ingest.write import LOOK_AHEAD, RECEIPTS, receipt_path, write_shard

Progress = Callable[[str, int, int], None]  # what, done, total
PROFILES = {"training": video.Profile("training")}
EXAMINE_ROWS = 32


def run(
    source: str,
    out: str,
    *,
    layout: str = "auto",
    profile: str = "training",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a dataset of all videos of a source into `out`, and tell what became of each."""
    started = time.monotonic()
    if profile not in PROFILES:
        raise UsageError(f"profile {profile!r}", f"one of {', '.join(PROFILES)}")
    out, sources = storage.absolute(out), layouts.read(source, layout)
    _check_out(out)
    tell = progress or (lambda what, done, total: None)
    with _holding(out), cluster.session():  # Ray ends first: then nobody writes any more
        cluster.quiet_data()
        sides = sort_out(_examined(sources, PROFILES[profile], tell))
        if not sides.taken:
            raise _none_taken(len(sources), sides.quarantined[0].reason)
        request = _request(sides, profile)
        if (known := _finished(out, request)) is not None:
            storage.remove_folder(storage.join(out, RECEIPTS))  # all that a late crash leaves
            return {**known, "seconds": time.monotonic() - started, "nothing_to_do": True}
        counts = _written(out, sources, sides, profile, request, tell)
    return {**counts, "seconds": time.monotonic() - started, "nothing_to_do": False}


def _check_out(out: str) -> None:
    """Refuse a folder of something else: only what an ingest leaves may be there."""
    if storage.is_remote(out) or not os.path.lexists(out):
        return
    if not os.path.isdir(out):
        raise DataError(f"{out} is a file", "a folder to write to", "choose another --out")
    names = set(os.listdir(out))
    ours = {RECEIPTS, ".held", "catalog.parquet", "dataset.json", "quarantine.parquet"}
    if names & {RECEIPTS, "dataset.json"}:
        ours |= {n for n in names if SHARD_NAME.fullmatch(n) or re.fullmatch(r"\..+\.part", n)}
    if strange := names - ours:
        raise DataError(
            f"{out} holds {min(strange)!r}, which is none of ours",
            "an empty folder or a dataset",
            "choose another --out",
        )


@contextlib.contextmanager
def _holding(out: str) -> Iterator[None]:
    """Hold the folder; leave nothing half-written in it, and none that was made for nothing."""
    fresh = not storage.exists(out)
    with storage.holding(out, "clipmill ingest"):
        storage.remove_parts(out)
        try:
            yield
        finally:
            storage.remove_parts(out)
            if fresh and not storage.is_remote(out) and os.listdir(out) == [".held"]:
                storage.remove_folder(out)


def _none_taken(count: int, reason: str) -> SourceError:
    return SourceError(f"none of {count} videos could be taken: {reason}", "at least one that can")


def _examined(sources: Sequence[Source], profile: video.Profile, tell: Progress) -> list[Examined]:
    import ray.data

    rows = [
        {"part": json.dumps([asdict(each) for each in sources[at : at + EXAMINE_ROWS]])}
        for at in range(0, len(sources), EXAMINE_ROWS)
    ]

    def look(row: dict[str, Any]) -> dict[str, Any]:
        found = [examine(Source(**each), profile) for each in json.loads(row["part"])]
        return {"found": json.dumps([asdict(each) for each in found])}

    done: list[Examined] = []
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(look)
    for row in dataset.iter_rows():
        done += [revived(each) for each in json.loads(row["found"])]
        tell("looking at videos", len(done), len(sources))
    return sorted(done, key=lambda each: each.source.path)


def _request(sides: Sorted, profile: str) -> str:
    """Hash of what is to be in the dataset, by content: equal requests need no work."""
    taken = sorted(map(content_of, sides.taken), key=json.dumps)
    others = sorted([e.source.path, e.stage] for e in sides.quarantined)
    return digest([taken, others, len(sides.duplicates), asdict(PROFILES[profile])])


def _finished(out: str, request: str) -> dict[str, Any] | None:
    if not storage.exists(storage.join(out, "dataset.json")):
        return None
    meta = catalogs.load(out).meta
    if meta["request"] != request:
        raise DataError(
            f"{out} is a dataset of other videos or another profile",
            "the same sources, or an empty folder",
            "choose another --out",
        )
    return dict(meta["counts"])


def _written(
    out: str,
    sources: Sequence[Source],
    sides: Sorted,
    profile: str,
    request: str,
    tell: Progress,
) -> dict[str, Any]:
    storage.put_json(storage.join(out, RECEIPTS, "begun.json"), {"request": request})
    plan = shard_plan(with_splits(sides.taken), PROFILES[profile])
    rows = _write_shards(out, plan, PROFILES[profile], tell)
    good = [row for row in rows if row["members"]]
    bad = [row for row in rows if not row["members"]]
    _remove_all_shards_but(out, {row["shard"] for row in good})
    if not good:
        storage.remove_folder(storage.join(out, RECEIPTS))
        raise _none_taken(len(sources), bad[0]["reason"])
    ledger = [*map(_ledger_row, sides.quarantined), *bad]
    counts = {
        "sources": len(sources),
        "taken": len(good),
        "quarantined": len(ledger),
        "duplicates": len(sides.duplicates),
        "filtered": 0,
        "records": len(good),
        "shards": len({row["shard"] for row in good}),
        "bytes": sum(m["length"] for row in good for m in row["members"]),
        "warnings": _warnings(sides, len(ledger)),
    }
    _save(out, good, ledger, {"profile": asdict(PROFILES[profile]), "request": request, "counts": counts})  # fmt: skip
    storage.remove_folder(storage.join(out, RECEIPTS))
    return counts


def _warnings(sides: Sorted, quarantined: int) -> list[str]:
    unsplit = sum(each.source.split is None for each in sides.taken)
    crossed = sum(out.source.split != kept.source.split for out, kept in sides.duplicates)
    told = [
        (unsplit, f"{unsplit} videos state no split: 80/10/10 by content within each class"),
        (crossed, f"{crossed} videos are in another split too: kept in test, val, train in turn"),
        (quarantined, f"{quarantined} videos were not taken: quarantine.parquet tells why"),
    ]
    return [text for count, text in told if count]


def _remove_all_shards_but(out: str, names: set[str]) -> None:
    """Remove shards without a record, and those of an interrupted ingest of other videos."""
    for path in storage.list_files(out):
        name = path.rsplit("/", 1)[-1]
        if SHARD_NAME.fullmatch(name) and name not in names:
            storage.remove(path)


def _write_shards(
    out: str, plan: list[dict[str, Any]], profile: video.Profile, tell: Progress
) -> list[dict[str, Any]]:
    import ray.data

    total = sum(len(shard["sources"]) for shard in plan)
    # Each shard under way is a process, and keeps some 64 pieces busy: a few will do.
    at_once = min(len(plan), 2 + cluster.cpus() // 16)
    shared = {"folder": out, "profile": asdict(profile), "look_ahead": LOOK_AHEAD * cluster.cpus()}
    with _counting(total, tell) as counter:
        rows = [{**shard, **shared} for shard in plan]
        dataset = ray.data.from_items([{"row": json.dumps(r)} for r in rows], override_num_blocks=len(rows))  # fmt: skip
        written = dataset.map(
            lambda row: write_shard({**json.loads(row["row"]), "counter": counter}),
            num_cpus=0.01,
            compute=ray.data.TaskPoolStrategy(size=at_once),
        )
        for told in written.iter_rows():
            if told["fault"]:
                raise StorageError(*json.loads(told["fault"]))
    receipts = [storage.read_json(receipt_path(out, shard["name"])) for shard in plan]
    return [row for receipt in receipts for row in receipt["rows"]]  # type: ignore[attr-defined]


@contextlib.contextmanager
def _counting(total: int, tell: Progress) -> Iterator[Any]:
    """An actor that pieces report to, and a thread that passes its count on."""
    import ray

    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, more: int) -> int:
            self.count += more
            return self.count

    counter: Any = ray.remote(Counter).options(num_cpus=0).remote()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            tell("writing shards", ray.get(counter.add.remote(0)), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield counter
        tell("writing shards", total, total)
    finally:
        over.set()
        watcher.join()
        ray.kill(counter)


def _ledger_row(each: Examined) -> dict[str, Any]:
    source, sha256 = printable(each.source.path), each.sha256 or None
    return {"source": source, "source_sha256": sha256, "stage": each.stage, "reason": each.reason}


def _save(
    out: str, good: list[dict[str, Any]], ledger: list[dict[str, Any]], meta: dict[str, Any]
) -> None:
    good.sort(key=lambda row: (row["shard"], row["members"][0]["offset"]))
    plain = [{name: row.get(name) for name in catalogs.SCHEMA.names} for row in good]
    columns = ("source", "source_sha256", "stage", "reason")
    quarantine = {name: pa.array([row[name] for row in ledger], pa.string()) for name in columns}
    with storage.writing(storage.join(out, "quarantine.parquet")) as file:
        pq.write_table(pa.table(quarantine), file)
    classes = sorted({row["label"] for row in good if row["label"]})
    table = pa.Table.from_pylist(plain, schema=catalogs.SCHEMA)
    catalogs.save(out, table, {**meta, "classes": classes})


def verify(folder: str, *, deep: bool = False, progress: Progress | None = None) -> list[str]:
    """Read a dataset back and name each fault: tar structure, sizes, hashes, first and last frame."""
    catalog = catalogs.read(folder)
    faults = []
    if catalog.digest != catalog.meta["digest"]:
        faults.append("catalog.parquet is not the one that dataset.json tells")
    rows = catalog.table.to_pylist()
    inside: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        inside[row["shard"]].append(row)
    names = sorted(inside)
    there = {path.rsplit("/", 1)[-1] for path in storage.list_files(catalog.folder)}
    strange = sorted(name for name in there - set(names) if SHARD_NAME.fullmatch(name))
    faults += [f"{name}: none of its records is in the catalog" for name in strange]
    for place, name in enumerate(names):
        found = list(shards.faults(catalog.folder, name, inside[name]))
        faults += found
        if not found:
            faults += [fault for row in inside[name] for fault in _frame_faults(catalog, row, deep)]
        if progress:
            progress("verifying shards", place + 1, len(names))
    return faults


def _frame_faults(catalog: Catalog, row: dict[str, Any], deep: bool) -> Iterator[str]:
    numbers = range(row["frames"]) if deep else (0, row["frames"] - 1)
    try:
        data = catalog.read(row)
        video.decode_frames(data, list(numbers), short_side=32)
        if any(member["suffix"] == "idx" for member in row["members"]):
            told = catalog.read(row, "idx")
            fresh = video.index_of(data, video.unpacked(told).scan.seconds)
            if fresh is None or fresh.packed() != told:
                yield f"{row['shard']}: {row['key']}.idx is not the index of its video"
    except (DataError, VideoError) as error:
        yield f"{row['shard']}: {row['key']}: {error}"
