"""The parts of a table while it is made: cut from the plan alone, written whole, joined at the end.

A part is there when its file is. Knows neither models nor what is in a row.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import storage
from clipmill.bulk import rows
from clipmill.errors import DataError, StorageError
from clipmill.plan import Plan

LEAST_FRAMES, MOST_FRAMES = 1 << 9, 1 << 15  # of a part: what is lost at most, some ten seconds
PARTS = 32  # into which little work is cut all the same, so that several workers have some
BEGUN, TOLD = "begun.json", b"clipmill"


class Cut:
    """How a plan is cut: the pieces of each part, their records and frames."""

    def __init__(self, pieces: Sequence[Sequence[range]], records: list[int], frames: list[int]):
        self.pieces, self.records, self.frames = pieces, records, frames


def cut(plan: Plan, pieces: Sequence[range], part_frames: int | None = None) -> Cut:
    """Put neighbouring pieces into parts of about as many frames."""
    takes, views = plan.epoch(0), plan.plugin.views()
    lengths = np.array([views[name].frames for name in takes.views])
    frames = np.where(takes.record >= 0, lengths[takes.view], 0).sum(1)
    most = part_frames or int(np.clip(frames.sum() // PARTS, LEAST_FRAMES, MOST_FRAMES))
    parts: list[list[range]] = [[]]
    held = 0
    for piece in pieces:
        if parts[-1] and held >= most:
            parts.append([])
            held = 0
        parts[-1].append(piece)
        held += int(frames[piece.start : piece.stop].sum())
    spans = [slice(part[0].start, part[-1].stop) for part in parts]
    records = [len(np.unique(takes.record[span, 0])) for span in spans]
    return Cut(parts, records, [int(frames[span].sum()) for span in spans])


class Parts:
    """A table on its way: what is there of it, what is not, and the whole of it."""

    def __init__(self, out: str, given: Cut, told: dict[str, Any]) -> None:
        self.out = out
        self.folder = storage.join(storage.parent(out), f"{storage.name_of(out)}.parts")
        self.pieces, self.records, self.frames = given.pieces, given.records, given.frames
        edges = [[part[0].start, part[-1].stop] for part in self.pieces]
        digest = hashlib.sha256(json.dumps(edges).encode()).hexdigest()
        self.told = json.loads(json.dumps({**told, "parts": digest}))
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.is_joined = self._is_whole()
        if self.is_joined:
            storage.remove_folder(self.folder)  # if it was broken off just before that
            return self
        self._held.enter_context(storage.holding(self.folder, "clipmill predict"))
        try:
            self._begin()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def _is_whole(self) -> bool:
        if not storage.exists(self.out):
            return False
        known = _told(self.out)
        other = [name for name in self._named() if known.get(name) != self.told[name]]
        if other:
            raise DataError(
                f"{self.out} is there, of another {', '.join(other)}",
                "a new file",
                "choose another --out, or remove it",
            )
        return True

    def _named(self) -> list[str]:
        return [name for name in self.told if name != "parts"]

    def _begin(self) -> None:
        path = storage.join(self.folder, BEGUN)
        if storage.exists(path):
            known = storage.read_json(path)
            other = [name for name in self.told if known.get(name) != self.told[name]]
            if other:
                raise DataError(
                    f"{self.folder} holds the beginning of a table of another {', '.join(other)}",
                    "the same model, data and question as it was begun with",
                    "choose another --out, or remove that folder",
                )
        else:
            storage.put_json(path, self.told)
        storage.remove_parts(self.folder)
        names = {storage.name_of(path) for path in storage.list_files(self.folder)}
        self.done = [at for at in self._numbers if self._name(at) in names]
        there = set(self.done)
        self.todo = [at for at in self._numbers if at not in there]

    @property
    def _numbers(self) -> range:
        return range(len(self.pieces))

    def _name(self, number: int) -> str:
        part = self.pieces[number]
        return f"part-{part[0].start:012d}-{part[-1].stop:012d}.parquet"

    def _path(self, number: int) -> str:
        return storage.join(self.folder, self._name(number))

    def put(self, number: int, table: pa.Table) -> None:
        """Write a part."""
        with storage.writing(self._path(number)) as file:
            pq.write_table(table, file)

    def tables(self) -> Iterator[pa.Table]:
        """All parts, in the order of the plan."""
        for path in map(self._path, self._numbers):
            store, inner = storage.store_of(path)
            yield pq.read_table(inner, filesystem=store)

    def join(self, told: dict[str, Any], more: pa.ChunkedArray | None = None) -> None:
        """Put all parts into the table, with a column more if there is one."""
        schema = pa.unify_schemas([rows.SCHEMA, *map(_schema, map(self._path, self._numbers))])
        if more is not None:
            schema = schema.append(pa.field(rows.NEIGHBOURS, more.type))
        schema = schema.with_metadata({TOLD: json.dumps(told)})
        at = 0
        with storage.writing(self.out) as file, pq.ParquetWriter(file, schema) as writer:
            for table in self.tables():
                if more is not None:
                    table = table.append_column(rows.NEIGHBOURS, more.slice(at, len(table)))
                writer.write_table(_filled(table, schema))
                at += len(table)
        self.is_joined = True
        # While it is held: nobody may have begun there again.
        self._held.callback(storage.remove_folder, self.folder)

    def counts(self) -> dict[str, int]:
        """What became of the records of the whole table."""
        store, inner = storage.store_of(self.out)
        columns = ["answered", "bad_clips", "fault", "unfit"]
        return rows.count(pq.read_table(inner, filesystem=store, columns=columns))


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of the whole; a part in which nothing was answered has none of the answers'."""
    columns = [
        table[field.name] if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _schema(path: str) -> pa.Schema:
    store, inner = storage.store_of(path)
    return pq.read_schema(inner, filesystem=store)


def _told(path: str) -> dict[str, Any]:
    try:
        found = (_schema(path).metadata or {}).get(TOLD, b"{}")
        told: dict[str, Any] = json.loads(found)
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{path} is no table: {error}", "a new file, or one of the same command",
            "choose another --out",
        ) from error  # fmt: skip
    return told
