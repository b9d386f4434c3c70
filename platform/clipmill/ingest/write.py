"""Shards written on the cluster: one Ray Data row a shard, pieces of it as tasks of their own.

A shard task holds next to no CPU; it asks for its pieces ahead of writing, a few at a time, so
that its memory is that of a few records. A finished shard leaves a receipt with its rows, by
which an interrupted ingest goes on.
"""

import functools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clipmill import shards, storage
from clipmill.errors import ClipmillError, StorageError
from clipmill.ingest.arrange import Part, revived
from clipmill.ingest.make import Made, copied, fault, make_piece
from clipmill.ingest.options import Options, revived_options

PIECE_BYTES = 1 << 20  # about a second or two of work: the cost of a task does not show
LOOK_AHEAD = 4  # pieces asked for beyond the one being written, for each CPU

RECEIPTS = ".ingest"  # folder of receipts; gone once the catalog is there

Olds = dict[str, dict[str, Any]]  # rows of records that are there already, by key


def pieces(parts: Iterable[Part], olds: Olds) -> Iterator[list[Part]]:
    """Cut a shard's parts into pieces of about equal work, each all old or all new."""
    piece: list[Part] = []
    size = 0
    for part in parts:
        if piece and (
            size >= PIECE_BYTES or len(piece) >= 16 or (part.key in olds) != (piece[0].key in olds)
        ):
            yield piece
            piece, size = [], 0
        piece.append(part)
        size += part.estimated_bytes
    if piece:
        yield piece


def write_shard(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Write one shard and its receipt, unless both are there; tells how many parts are done.

    A store's fault travels as data. Equal rows tell equally often: Ray may ask twice.
    """
    try:
        for count in _write_shard(row["folder"], row["name"], row):
            yield {"done": count, "fault": ""}
    except ClipmillError as error:
        kind = "store" if isinstance(error, StorageError) else "data"
        yield {"done": 0, "fault": json.dumps([kind, *error.args])}


def _write_shard(folder: str, name: str, row: dict[str, Any]) -> Iterator[int]:
    receipt = receipt_path(folder, name)
    if storage.exists(receipt) and storage.exists(storage.join(folder, name)):
        yield from (len(piece) for piece in _pieces_of(row))
        return
    rows: list[str] = []  # as text they are small
    with shards.writing(storage.join(folder, name)) as add:
        for piece, made in _made_ahead(row):
            both = zip(piece, made, strict=True)
            rows += [json.dumps(_placed(part, each, add, name)) for part, each in both]
            yield len(piece)
    storage.put(receipt, "\n".join(rows).encode())


def _placed(
    part: Part, made: Made, add: Callable[[shards.Record], shards.Placed], shard: str
) -> dict[str, Any]:
    """The row of a part with its place in the shard; without one it is the ledger's."""
    told, record = made
    placed = add(record) if record else None
    if placed and placed.fault:
        told = fault(part, "read", placed.fault)
    return {**told, "shard": shard, "members": placed.members if placed else []}


def _pieces_of(row: dict[str, Any]) -> Iterator[list[Part]]:
    return pieces((revived(json.loads(part)) for part in row["parts"]), row["olds"])


def _made_ahead(row: dict[str, Any]) -> Iterator[tuple[list[Part], list[Made]]]:
    """Ask for pieces a bounded number ahead, and give them in order."""
    olds: Olds = row["olds"]
    waiting: deque[tuple[list[Part], Callable[[], list[Made]]]] = deque()
    for piece in _pieces_of(row):
        make = _copy(piece, olds, row) if piece[0].key in olds else _asked_for(piece, row)
        waiting.append((piece, make))
        if len(waiting) > row["look_ahead"]:
            first, made = waiting.popleft()
            yield first, made()
    for first, made in waiting:
        yield first, made()


def _copy(piece: list[Part], olds: Olds, row: dict[str, Any]) -> Callable[[], list[Made]]:
    return lambda: [copied(part, olds[part.key], row["folder"]) for part in piece]


def _asked_for(piece: list[Part], row: dict[str, Any]) -> Callable[[], list[Made]]:
    import ray

    asked = _making().remote([part.plain() for part in piece], row["options"])
    return functools.partial(ray.get, asked)


@functools.cache
def _making() -> Any:
    import ray

    return ray.remote(_make).options(num_cpus=1, max_retries=3)


def _make(piece: list[dict[str, Any]], options: dict[str, Any]) -> list[Made]:
    return list(make_piece([revived(part) for part in piece], revived_options(options)))


def receipt_path(folder: str, shard: str) -> str:
    """Where a shard's rows wait for the catalog."""
    return storage.join(folder, RECEIPTS, f"{shard}.jsonl")


def receipt_rows(folder: str, shard: str) -> Iterator[dict[str, Any]]:
    """Rows of a shard that is written: of the catalog, and without members of the ledger."""
    for line in storage.read(receipt_path(folder, shard)).splitlines():
        yield json.loads(line)


def shared(folder: str, options: Options, cpus: int) -> dict[str, Any]:
    """What every shard's row carries."""
    return {"folder": folder, "options": options.travelling(), "look_ahead": LOOK_AHEAD * cpus}
