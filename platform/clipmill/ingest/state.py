"""What a dataset remembers of its sources: how each was found, and what became of it.

`sources.parquet` spares a later ingest all that has not changed; `forgotten.json` holds what
must never come back. Knows files and rows, not how records are made.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import catalog as catalogs
from clipmill import storage
from clipmill.errors import ClipmillError, DataError
from clipmill.ingest.arrange import Part, Sorted, digest
from clipmill.ingest.examine import Examined, printable, revived
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
PASSING_STAGES = {"read"}  # faults that may be gone when it is tried again

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

    @property
    def faults(self) -> dict[str, Row]:
        """Ledger rows of the parts that could not be made, by key."""
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
            fresh = told.stage not in PASSING_STAGES and storage.stamp(source.path) == told.stamp
        except ClipmillError:
            return None
        return replace(told, source=source) if fresh else None

    def is_forgotten(self, part: Part) -> bool:
        """Tell whether any of its content was forgotten."""
        end = part.start_seconds + part.duration_seconds
        return any(
            row["source_sha256"] == part.sha256
            and part.start_seconds < (row["end_seconds"] or float("inf"))
            and row["start_seconds"] < end
            for row in self.forgotten
        )


def read(folder: str) -> State:
    """The state of a dataset folder, or an empty one."""
    forgotten = _forgotten(folder)
    if not storage.exists(storage.join(folder, "dataset.json")):
        return State(folder, forgotten=forgotten)
    catalog = catalogs.load(folder)
    rows = {row["key"]: row for row in catalog.table.to_pylist()}
    path = storage.join(folder, SOURCES)
    if not storage.exists(path):
        raise DataError(
            f"{folder} was written by an older clipmill and has no {SOURCES}",
            "a dataset that remembers its sources",
            "ingest into another folder",
        )
    store, inner = storage.store_of(path)
    sources = {row["source"]: row for row in pq.read_table(inner, filesystem=store).to_pylist()}
    return State(folder, catalog.meta, rows, sources, forgotten)


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


def sources_table(outcome: Outcome, state: State, look: str) -> pa.Table:
    """One row a source: what it was when looked at, and what became of it."""
    sides = outcome.sides
    rows = [
        *(_row(each, outcome.side(each.source.name), outcome, look) for each in sides.taken),
        *(_row(each, "quarantined", outcome, look) for each in sides.quarantined),
        *(_row(each, "filtered", outcome, look) for each in sides.filtered),
        *(_row(each, "duplicate", outcome, look, kept.source.name) for each, kept in sides.duplicates),
    ]  # fmt: skip
    for row in rows:
        old = state.sources.get(row["source"])
        same = old and old["side"] == row["side"] and old["source_sha256"] == row["source_sha256"]
        row["since"] = old["since"] if old and same else state.generation
    rows.sort(key=lambda row: str(row["source"]))
    return pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA)


def _row(
    each: Examined, side: str, outcome: Outcome, look: str, duplicate_of: str | None = None
) -> Row:
    name = each.source.name
    parts = outcome.good.get(name, ()) if duplicate_of is None else ()
    faults = outcome.faults.get(name, {}) if duplicate_of is None else {}
    return {
        "source": printable(name), "side": side, "source_sha256": each.sha256 or None,
        "duplicate_of": duplicate_of, "size": each.stamp[0], "changed_ns": each.stamp[1],
        "look": look, "examined": json.dumps(each.plain()) if printable(name) == name else "",
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
