"""The parts of a table while it is made: neighbouring pieces of the plan, written whole, joined at the end.

They are cut by what must be decoded; one whose answers turn out large ends early. A part is there
when its file is, which tells by its name what of the plan it holds. Knows neither models nor what
is in a row.
"""

import bisect
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import storage
from clipmill.bulk import rows
from clipmill.errors import DataError, PluginError, StorageError
from clipmill.evaluate.work import Answered
from clipmill.plan import Plan

LEAST_FRAMES, MOST_FRAMES = 1 << 9, 1 << 15  # of a part: what is lost at most, some ten seconds
PARTS = 32  # into which little work is cut all the same, so that several workers have some
MOST_BYTES = 128 << 20  # of the answers of a part, which are held in memory at once
# What a table is of, in words, where its own name does not say it.
WORDS = {
    "asked": "question (answers, or embeddings)", "neighbours": "number of neighbours",
    "weights_sha256": "weights", "data_digest": "data", "plan_digest": "takes",
}  # fmt: skip
BEGUN, TOLD, NAME = "begun.json", b"clipmill", re.compile(r"part-(\d+)-(\d+)\.parquet")


@dataclass(frozen=True)
class Cut:
    """How pieces of a plan are cut: those of each part, their records and frames."""

    pieces: list[list[range]]
    records: list[int]
    frames: list[int]


def cut(plan: Plan, pieces: Sequence[range], part_frames: int | None = None) -> Cut:
    """Put pieces that lie side by side into parts of about as many frames."""
    takes, views = plan.epoch(0), plan.plugin.views()
    lengths = np.array([views[name].frames for name in takes.views])
    frames = np.where(takes.record >= 0, lengths[takes.view], 0).sum(1)
    most = part_frames or int(np.clip(frames.sum() // PARTS, LEAST_FRAMES, MOST_FRAMES))
    parts, held = list[list[range]](), 0
    for piece in pieces:
        if not parts or held >= most or parts[-1][-1].stop != piece.start:
            parts.append([])
            held = 0
        parts[-1].append(piece)
        held += int(frames[piece.start : piece.stop].sum())
    spans = [slice(part[0].start, part[-1].stop) for part in parts]
    records = [len(np.unique(takes.record[span, 0])) for span in spans]
    return Cut(parts, records, [int(frames[span].sum()) for span in spans])


def filled(
    stream: Iterable[Answered], most_bytes: int, ends: Collection[int] = ()
) -> Iterator[list[Answered]]:
    """Answers of neighbouring pieces together: up to one of the ends, or until they are so large."""
    held, size = list[Answered](), 0
    for each in stream:
        held.append(each)
        size += bytes_of(each.answers)
        if size >= most_bytes or each.piece.stop in ends:
            yield held
            held, size = [], 0
    if held:
        yield held


def bytes_of(value: Any) -> int:
    """About what a value takes as a column."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, list | tuple | np.ndarray):
        return sum(map(bytes_of, value))
    return len(value) if isinstance(value, str) else 8


class Parts:
    """A table on its way: what is there of it, what is not, and the whole of it."""

    def __init__(self, out: str, pieces: Sequence[range], told: dict[str, Any]) -> None:
        self.out, self.pieces = out, pieces
        self.folder = storage.join(storage.parent(out), f"{storage.name_of(out)}.parts")
        self.done = list[range]()  # of the plan, in its order
        edges = [[piece.start, piece.stop] for piece in pieces]
        digest = hashlib.sha256(json.dumps(edges).encode()).hexdigest()
        self.told = json.loads(json.dumps({**told, "pieces": digest}))
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
                f"{self.out} is there, of another {_words(other)}",
                "a new file",
                "choose another --out, or remove it",
            )
        return True

    def _named(self) -> list[str]:
        return [name for name in self.told if name != "pieces"]

    def _begin(self) -> None:
        path = storage.join(self.folder, BEGUN)
        if storage.exists(path):
            known = storage.read_json(path)
            other = [name for name in self.told if known.get(name) != self.told[name]]
            if other:
                raise DataError(
                    f"{self.folder} holds the beginning of a table of another {_words(other)}",
                    "the same model, data and question as it was begun with",
                    "choose another --out, or remove that folder",
                )
        else:
            storage.put_json(path, self.told)
        storage.remove_parts(self.folder)
        names = [storage.name_of(path) for path in storage.list_files(self.folder)]
        found = [range(*map(int, there.groups())) for there in map(NAME.fullmatch, names) if there]
        self.done = sorted(found, key=lambda part: part.start)

    @property
    def todo(self) -> list[range]:
        """The pieces that no part holds."""
        held = np.zeros(self.pieces[-1].stop if self.pieces else 0, np.bool_)
        for part in self.done:
            held[part.start : part.stop] = True
        return [piece for piece in self.pieces if not held[piece.start]]

    def _path(self, part: range) -> str:
        return storage.join(self.folder, f"part-{part.start:012d}-{part.stop:012d}.parquet")

    def put(self, part: range, table: pa.Table) -> None:
        """Write what was answered of a stretch of the plan."""
        with storage.writing(self._path(part)) as file:
            pq.write_table(table, file)
        bisect.insort(self.done, part, key=lambda part: part.start)

    def tables(self) -> Iterator[pa.Table]:
        """All parts, in the order of the plan."""
        for path in map(self._path, self.done):
            store, inner = storage.store_of(path)
            yield pq.read_table(inner, filesystem=store)

    def join(
        self, told: dict[str, Any], neighbours: Callable[[int, int], pa.Array] | None = None
    ) -> None:
        """Put all parts into the table, with the neighbours of its rows if they were looked for."""
        schema = self._joined_schema()
        if neighbours is not None:
            schema = schema.append(pa.field(rows.NEIGHBOURS, rows.TYPES[rows.NEIGHBOURS]))
        schema = schema.with_metadata({TOLD: json.dumps(told)})
        at = 0
        with storage.writing(self.out) as file, pq.ParquetWriter(file, schema) as writer:
            for table in self.tables():
                stop = at + len(table)
                if neighbours is not None:
                    table = table.append_column(rows.NEIGHBOURS, neighbours(at, stop))
                writer.write_table(_filled(table, schema))
                at = stop
        self.is_joined = True
        # While it is held: nobody may have begun there again.
        self._held.callback(storage.remove_folder, self.folder)

    def _joined_schema(self) -> pa.Schema:
        """Of each column the type that holds what all parts have."""
        schemas = [rows.SCHEMA, *map(_schema, map(self._path, self.done))]
        try:
            return pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise PluginError(
                f"answers to some videos are of another kind than those to others: {error}",
                "of all videos a number, a text, an array, or dictionaries with the same kinds of values",
            ) from error

    def counts(self) -> dict[str, int]:
        """What became of the records of the whole table."""
        store, inner = storage.store_of(self.out)
        columns = ["answered", "bad_clips", "fault", "unfit"]
        return rows.count(pq.read_table(inner, filesystem=store, columns=columns))


def _filled(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of the whole; a part in which nothing was answered has none of the answers'."""
    columns = [
        table[field.name].cast(field.type, safe=False)  # of whole numbers beside others, too
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _schema(path: str) -> pa.Schema:
    store, inner = storage.store_of(path)
    return pq.read_schema(inner, filesystem=store)


def _words(names: Sequence[str]) -> str:
    return ", ".join(WORDS.get(name, name) for name in names)


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
