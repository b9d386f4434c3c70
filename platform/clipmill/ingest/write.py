"""Shards written on the cluster: one Ray Data row a shard, pieces of it as tasks of their own.

A shard task holds next to no CPU; it asks for its pieces ahead of writing, a few at a time, so
that its memory is that of a few records. A finished shard leaves a receipt with its rows, by
which an interrupted ingest goes on.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from clipmill import shards, storage, video
from clipmill.errors import ClipmillError, StorageError
from clipmill.ingest.prepare import Examined, key_of, revived

PIECE_BYTES = 4 << 20  # about a second or two of encoding: a task's cost does not show
LOOK_AHEAD = 4  # pieces asked for beyond the one being written, for each CPU

RECEIPTS = ".ingest"  # folder of receipts; gone once the catalog is there

Made = tuple[dict[str, Any], dict[str, bytes]]


def make_record(each: Examined, profile: video.Profile) -> Made:
    """Transcode one source; the row tells a fault instead of raising it."""
    source, key = each.source, key_of(each)
    row: dict[str, Any] = {"key": key, "source": source.path, "source_sha256": each.sha256}
    try:
        data = storage.read(source.path)
        if hashlib.sha256(data).hexdigest() != each.sha256:
            return {**row, "stage": "read", "reason": "the file changed while it was read"}, {}
        rotation, rate = _of_source(data)
        encoded, made = video.transcode(data, profile)
    except ClipmillError as error:
        return {**row, "stage": "decode", "reason": str(error)}, {}
    if made.corrupt_frames:
        reason = f"{made.corrupt_frames} damaged frames; {'; '.join(made.faults)}"
        return {**row, "stage": "decode", "reason": reason}, {}
    row |= {
        "sha256": hashlib.sha256(encoded).hexdigest(), "split": source.split,
        "label": source.label, "attributes": source.attributes,
        "duration_seconds": made.duration_seconds, "frames": made.frames,
        "frames_from": "decode", "fps": made.fps, "variable_rate": rate,
        "width": made.width, "height": made.height, "rotation": rotation,
        "has_audio": made.has_audio, "licence": source.licence,
    }  # fmt: skip
    told = {name: row[name] for name in ("label", "split", "source", "source_sha256", "licence")}
    about = {**told, "attributes": source.attributes}
    index = video.index_of(encoded, made.source_times_seconds)
    members = {"idx": index.packed()} if index else {}
    return row, {**members, "mp4": encoded, "json": json.dumps(about, sort_keys=True).encode()}


def _of_source(data: bytes) -> tuple[int, bool]:
    info = video.probe(data)
    return info.rotation, info.variable_rate


def make_piece(piece: list[dict[str, Any]], profile: video.Profile) -> list[Made]:
    """Make the records of a piece."""
    return [make_record(revived(each), profile) for each in piece]


def pieces(sources: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Cut a shard's sources into pieces of about equal work."""
    piece: list[dict[str, Any]] = []
    size = 0
    for each in sources:
        piece.append(each)
        size += each["estimated_bytes"]
        if size >= PIECE_BYTES or len(piece) >= 16:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def write_shard(row: dict[str, Any]) -> dict[str, str]:
    """Write one shard and its receipt, unless both are there; a store's fault travels as data."""
    try:
        _write_shard(row["folder"], row["name"], row)
    except StorageError as error:
        return {"fault": json.dumps(error.args)}
    return {"fault": ""}


def _write_shard(folder: str, name: str, row: dict[str, Any]) -> None:
    receipt = receipt_path(folder, name)
    if storage.exists(receipt) and storage.exists(storage.join(folder, name)):
        row["counter"].add.remote(len(row["sources"]))
        return
    rows: list[dict[str, Any]] = []
    placed = shards.write(storage.join(folder, name), _records(row, rows))
    where = {each.key: each.members for each in placed}
    done = [{**each, "shard": name, "members": where.get(each["key"], [])} for each in rows]
    storage.put_json(receipt, {"rows": done})


def _records(row: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[shards.Record]:
    for made in _made_ahead(row):
        row["counter"].add.remote(len(made))
        for told, members in made:
            rows.append(told)
            if members:
                yield shards.Record(told["key"], members)


def _made_ahead(row: dict[str, Any]) -> Iterator[list[Made]]:
    """Ask for pieces a bounded number ahead, and give them in order."""
    import ray

    profile = video.Profile(**row["profile"])
    task = ray.remote(make_piece).options(num_cpus=1, max_retries=3)
    waiting: deque[Any] = deque()
    for piece in pieces(row["sources"]):
        waiting.append(task.remote(piece, profile))
        if len(waiting) > row["look_ahead"]:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def receipt_path(folder: str, shard: str) -> str:
    """Where a shard's rows wait for the catalog."""
    return storage.join(folder, RECEIPTS, f"{shard}.json")
