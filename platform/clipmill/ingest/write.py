"""Shards written on the cluster: one Ray Data row a shard, pieces of it as tasks of their own.

A shard task holds next to no CPU; it asks for its pieces ahead of writing, a few at a time, so
that its memory is that of a few records. A finished shard leaves a receipt with its rows, by
which an interrupted ingest goes on.
"""

import contextlib
import functools
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clipmill import shards, storage
from clipmill.errors import ClipmillError, StorageError
from clipmill.ingest.arrange import Part, revived
from clipmill.ingest.make import Made, copied, make_piece
from clipmill.ingest.options import Options, revived_options

PIECE_BYTES = 1 << 20  # about a second or two of work: the cost of a task does not show
LOOK_AHEAD = 4  # pieces asked for beyond the one being written, for each CPU

Progress = Callable[[str, int, int], None]  # what, done, total

RECEIPTS = ".ingest"  # folder of receipts; gone once the catalog is there

Olds = dict[str, dict[str, Any]]  # rows of records that are there already, by key


def pieces(parts: Sequence[Part], olds: Olds) -> Iterator[list[Part]]:
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


def write_shard(row: dict[str, Any]) -> dict[str, str]:
    """Write one shard and its receipt, unless both are there; a store's fault travels as data."""
    try:
        _write_shard(row["folder"], row["name"], row)
    except ClipmillError as error:
        kind = "store" if isinstance(error, StorageError) else "data"
        return {"fault": json.dumps([kind, *error.args])}
    return {"fault": ""}


def _write_shard(folder: str, name: str, row: dict[str, Any]) -> None:
    receipt = receipt_path(folder, name)
    if storage.exists(receipt) and storage.exists(storage.join(folder, name)):
        row["counter"].add.remote(len(row["parts"]))
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
    olds: Olds = row["olds"]
    waiting: deque[Callable[[], list[Made]]] = deque()
    for piece in pieces([revived(part) for part in row["parts"]], olds):
        waiting.append(_copy(piece, olds, row) if piece[0].key in olds else _asked_for(piece, row))
        if len(waiting) > row["look_ahead"]:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _copy(piece: list[Part], olds: Olds, row: dict[str, Any]) -> Callable[[], list[Made]]:
    return lambda: [copied(part, olds[part.key], row["folder"]) for part in piece]


def _asked_for(piece: list[Part], row: dict[str, Any]) -> Callable[[], list[Made]]:
    import ray

    task = ray.remote(_make).options(num_cpus=1, max_retries=3)
    return functools.partial(ray.get, task.remote([part.plain() for part in piece], row["options"]))


def _make(piece: list[dict[str, Any]], options: dict[str, Any]) -> list[Made]:
    return list(make_piece([revived(part) for part in piece], revived_options(options)))


def receipt_path(folder: str, shard: str) -> str:
    """Where a shard's rows wait for the catalog."""
    return storage.join(folder, RECEIPTS, f"{shard}.json")


def shared(folder: str, options: Options, cpus: int) -> dict[str, Any]:
    """What every shard's row carries."""
    return {"folder": folder, "options": options.travelling(), "look_ahead": LOOK_AHEAD * cpus}


@contextlib.contextmanager
def counting(total: int, tell: Progress) -> Iterator[Any]:
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
