"""What a dataset remembers of its sources: how each was found, and what became of it.

`sources.parquet` spares a later ingest all that has not changed; `forgotten.json` holds what
must never come back. Knows files and rows, not how records are made.
"""

import functools
import hashlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import catalog as catalogs
from clipmill import storage
from clipmill.errors import ClipmillError, DataError
from clipmill.ingest import masks
from clipmill.ingest.arrange import Part, Sorted, digest
from clipmill.ingest.examine import Examined, Piece, printable, revived
from clipmill.ingest.options import Options
from clipmill.ingest.sources import Source
from clipmill.ingest.write import RECEIPTS

SOURCES, QUARANTINE, FORGOTTEN = "sources.parquet", "quarantine.parquet", "forgotten.json"
SOURCES_SCHEMA = pa.schema([
    ("source", pa.string()), ("side", pa.string()), ("source_sha256", pa.string()),
    ("duplicate_of", pa.string()), ("since", pa.int64()), ("size", pa.int64()),
    ("changed_ns", pa.int64()), ("look", pa.string()), ("examined", pa.string()),
    ("contents", pa.string()), ("faults", pa.string()),
])  # fmt: skip
LEDGER_SCHEMA = pa.schema([
    ("source", pa.string()), ("source_sha256", pa.string()), ("stage", pa.string()),
    ("reason", pa.string()), ("start_seconds", pa.float64()), ("end_seconds", pa.float64()),
])  # fmt: skip
FORGOTTEN_REASON = "it was forgotten: forgotten.json holds its content's hash"
SAME_SECONDS = 1e-6
ROWS_AT_ONCE = 1024
PASSING_STAGES = {"read", "limits"}  # faults that may be gone when it is tried again

Row = dict[str, Any]


@dataclass(frozen=True)
class State:
    """A dataset as an ingest finds it; empty where there is none."""

    folder: str
    meta: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)  # of the catalog, by key
    sources: dict[str, Row] = field(default_factory=dict)  # by name
    forgotten: tuple[Row, ...] = ()

    @property
    def contents(self) -> dict[str, list[str]]:
        """Content and marks of each record, by its key."""
        told: dict[str, list[str]] = {}
        for row in self.sources.values():
            told.update(json.loads(row["contents"]))
        return told

    def fault(self, part: Part) -> Row | None:
        """Ledger row of a part that could not be made, and would fail again."""
        told = self._faults.get(part.key)
        return {**told, **part.place} if told and told["marks"] == part.marks else None

    @functools.cached_property
    def _faults(self) -> dict[str, Row]:
        told: dict[str, Row] = {}
        for row in self.sources.values():
            told.update(json.loads(row["faults"]))
        return {key: fault for key, fault in told.items() if fault["stage"] not in PASSING_STAGES}

    @property
    def generation(self) -> int:
        """How many catalogs there have been."""
        return len(self.meta.get("history", ()))

    def known(self, source: Source, look: str) -> Examined | None:
        """What is known of a source that has not changed since."""
        row = self.sources.get(source.name)
        if row is None or row["look"] != look or not row["examined"]:
            return None
        told = revived(json.loads(row["examined"]))
        try:
            unchanged = masks.is_unchanged(source, told.source, told.stamp)
            fresh = unchanged and told.stage not in PASSING_STAGES
        except ClipmillError:
            return None
        return replace(told, source=source) if fresh else None

    def is_forgotten(self, sha256: str, piece: Piece) -> bool:
        """Tell whether any of a piece of this content was forgotten."""
        end = piece.start_seconds + piece.duration_seconds
        return any(
            piece.start_seconds + SAME_SECONDS < (row["end_seconds"] or float("inf"))
            and row["start_seconds"] + SAME_SECONDS < end
            for row in self._tombstones.get(sha256, ())
        )

    @functools.cached_property
    def _tombstones(self) -> dict[str, list[Row]]:
        by_content: dict[str, list[Row]] = defaultdict(list)
        for row in self.forgotten:
            by_content[row["source_sha256"]].append(row)
        return by_content

    @functools.cached_property
    def since(self) -> dict[str, int]:
        """In which catalog each content was first."""
        told: dict[str, int] = {}
        for row in self.sources.values():
            content = row["source_sha256"] or row["source"]
            told[content] = min(row["since"], told.get(content, row["since"]))
        return told


def read(folder: str) -> State:
    """The state of a dataset folder, or an empty one."""
    forgotten = _forgotten(folder)
    if not storage.exists(storage.join(folder, "dataset.json")):
        return State(folder, forgotten=forgotten)
    catalog = catalogs.load(folder)
    rows = {row["key"]: row for row in catalog.table.to_pylist()}
    path = _memory_path(folder, catalog.meta["digest"])
    if path is None:
        raise DataError(
            f"{folder} was written by an older clipmill and has no {SOURCES}",
            "a dataset that remembers its sources",
            "ingest into another folder",
        )
    memory = _read_table(path)
    if path != storage.join(folder, SOURCES):  # end the commit that was broken off
        put_table(storage.join(folder, SOURCES), memory)
    sources = {row["source"]: row for row in memory.to_pylist()}
    return State(folder, catalog.meta, rows, sources, forgotten)


def _read_table(path: str) -> pa.Table:
    store, inner = storage.store_of(path)
    return pq.read_table(inner, filesystem=store)


def _memory_path(folder: str, catalog_digest: str) -> str | None:
    """The memory that belongs to the catalog; a broken-off commit may have left the next one."""
    paths = [storage.join(folder, SOURCES), storage.join(folder, RECEIPTS, SOURCES)]
    there = [path for path in paths if storage.exists(path)]
    for path in there:
        store, inner = storage.store_of(path)
        about = pq.read_schema(inner, filesystem=store).metadata or {}
        if about.get(b"catalog") == catalog_digest.encode():
            return path
    return None


def commit(
    found: State, ledger: pa.Table, memory: pa.Table, table: pa.Table, meta: dict[str, Any]
) -> None:
    """Put a dataset's new state in place; broken off anywhere, it is the old one or the new one."""
    digest = catalogs.digest_of(table)
    memory = memory.replace_schema_metadata({b"catalog": digest.encode()})
    put_table(storage.join(found.folder, QUARANTINE), ledger)
    # The memory that fits the catalog is there whenever this is broken off.
    put_table(storage.join(found.folder, RECEIPTS, SOURCES), memory)
    history = [*found.meta.get("history", ()), digest]
    catalogs.save(found.folder, table, {**meta, "history": history})
    put_table(storage.join(found.folder, SOURCES), memory)


def _forgotten(folder: str) -> tuple[Row, ...]:
    path = storage.join(folder, FORGOTTEN)
    told: Any = storage.read_json(path) if storage.exists(path) else {"forgotten": []}
    return tuple(told["forgotten"])


def look_of(options: Options) -> str:
    """What an examination depends on, but for the source."""
    return digest(options.look)[:16]


@dataclass(frozen=True)
class Outcome:
    """What became of everything, each on its own side."""

    sides: Sorted
    good: dict[str, list[Part]]  # parts that are records, by the name of their source
    faults: dict[str, dict[str, Row]]  # ledger rows by key, by the name of their source
    marks: dict[str, str]  # of the parts that failed, by key

    def side(self, name: str) -> str:
        """The side of a source that was not sorted out before its parts were made."""
        return "taken" if name in self.good else "quarantined" if name in self.faults else "filtered"  # fmt: skip

    @property
    def ledger(self) -> list[Row]:
        """Every source and part that was not taken for a fault, with stage and reason."""
        whole = [
            {"source": printable(each.source.name), "source_sha256": each.sha256 or None,
             "stage": each.stage, "reason": each.reason}
            for each in self.sides.quarantined
        ]  # fmt: skip
        parts = [fault for faults in self.faults.values() for fault in faults.values()]
        return sorted([*whole, *parts], key=lambda row: (row["source"], row.get("start_seconds") or 0))  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Sources on each side, each counted on its own."""
        later = [self.side(each.source.name) for each in self.sides.taken]
        return {
            "taken": later.count("taken"),
            "quarantined": later.count("quarantined") + len(self.sides.quarantined),
            "duplicates": len(self.sides.duplicates),
            "filtered": later.count("filtered") + len(self.sides.filtered),
        }


def sources_table(
    outcome: Outcome, state: State, look: str, looked: Mapping[str, Examined]
) -> pa.Table:
    """One row a source: what it was when looked at, and what became of it."""
    sides = outcome.sides
    ends: list[tuple[Examined, str, str | None]] = [
        *((each, outcome.side(each.source.name), None) for each in sides.taken),
        *((each, "quarantined", None) for each in sides.quarantined),
        *((each, "filtered", None) for each in sides.filtered),
        *((each, "duplicate", kept.source.name) for each, kept in sides.duplicates),
    ]
    ends.sort(key=lambda end: printable(end[0].source.name))

    def rows() -> Iterator[Row]:
        for each, side, duplicate_of in ends:
            row = _row(each, side, outcome, look, duplicate_of)
            seen = looked.get(row["source"])  # as it was, before it was sorted out
            content = row["source_sha256"] or row["source"]
            since = state.since.get(content, state.generation)
            yield {**row, "examined": json.dumps(seen.plain()) if seen else "", "since": since}

    return table_of(rows(), SOURCES_SCHEMA)


def table_of(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """A table of rows that need not all be there at once."""
    coming, tables = iter(rows), [schema.empty_table()]
    while some := list(itertools.islice(coming, ROWS_AT_ONCE)):
        tables.append(pa.Table.from_pylist(some, schema=schema))
    return pa.concat_tables(tables).combine_chunks()


def _row(
    each: Examined, side: str, outcome: Outcome, look: str, duplicate_of: str | None = None
) -> Row:
    name = each.source.name
    parts = outcome.good.get(name, ()) if duplicate_of is None else ()
    bad = outcome.faults.get(name, {}) if duplicate_of is None else {}
    faults = {key: {**row, "marks": outcome.marks[key]} for key, row in bad.items()}
    return {
        "source": printable(name), "side": side, "source_sha256": each.sha256 or None,
        "duplicate_of": duplicate_of, "size": each.stamp[0], "changed_ns": each.stamp[1],
        "look": look,
        "contents": json.dumps({part.key: [part.content, part.marks] for part in parts}),
        "faults": json.dumps(faults),
    }  # fmt: skip


def put_table(path: str, table: pa.Table) -> None:
    """Write a table that is visible whole or not at all."""
    with storage.writing(path) as file:
        pq.write_table(table, file, compression="zstd")


def ledger_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The quarantine as a table."""
    plain = [{name: row.get(name) for name in LEDGER_SCHEMA.names} for row in rows]
    return pa.Table.from_pylist(plain, schema=LEDGER_SCHEMA)


class Notebook:
    """Examinations as they come in, so that an interrupted ingest need not repeat them."""

    def __init__(self, folder: str, look: str) -> None:
        self._path = storage.join(folder, RECEIPTS, f"examined-{look}.jsonl")
        self._is_kept = not storage.is_remote(folder)  # object stores cannot append

    def read(self) -> dict[str, Examined]:
        """What a run before has noted, but for a line that was cut off."""
        if not self._is_kept or not os.path.exists(self._path):
            return {}
        told = {}
        with open(self._path, "rb") as file:
            for line in file:
                check, _, text = line.rstrip(b"\n").partition(b" ")
                if hashlib.sha256(text).hexdigest()[:16].encode() == check:
                    each = revived(json.loads(text))
                    told[each.source.name] = each
        return told

    def note(self, examined: Iterable[Examined]) -> None:
        """Add examinations."""
        if self._is_kept:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            lines = [json.dumps(each.plain()).encode() for each in examined]
            with open(self._path, "ab") as file:
                file.writelines(
                    b"\n" + hashlib.sha256(t).hexdigest()[:16].encode() + b" " + t + b"\n"
                    for t in lines
                )
