"""Features computed once: a dataset whose records hold what a network makes of their frames.

Keys, splits and labels are those of the dataset it is made of, so plans give the same takes; in
place of a video each record holds an array, and `dataset.json` tells which weights made it. Shards
that are whole stay when it is broken off: the same command goes on from there.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipmill import catalog as catalogs
from clipmill import checkpoint, shards, storage
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, DataError
from clipmill.features.rows import Described, Describer, kind_of
from clipmill.infer import Model
from clipmill.ingest import derived, place, state
from clipmill.ingest.arrange import SHARD_NAME, digest
from clipmill.ingest.write import RECEIPTS

__all__ = ["Precision", "run"]

Precision = Literal["float32", "float16"]
Progress = Callable[[str, int, int], None]
Row = dict[str, Any]

MOST_RECORDS, MOST_FRAMES = 512, 1 << 21  # of a shard: what is lost at most if it is broken off


def run(
    model: Model,
    data: str,
    out: str,
    *,
    every: int | None = None,
    precision: Precision = "float32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Describe all records of a dataset into another one, and tell what became of them.

    `every` is from which frame to which there is a row; without it, as far apart as the model looks.
    """
    started, out = time.monotonic(), storage.absolute(out)
    catalog = catalogs.load(data)
    if out == catalog.folder:
        raise DataError(f"{out} is what is described", "another folder", "choose another --out")
    place.check(out)
    with place.holding(out, "clipmill features"):
        known = _known(out)
        kind = known["kind"] if known else kind_of(model, catalog)
        made = _told(model, catalog, kind, every, precision)
        if known is not None:
            _check_same(out, known, made)
        else:
            describer = Describer(model, catalog, kind, every)
            _Writing(out, describer, made, progress or (lambda what, done, total: None)).run()
        meta: dict[str, Any] = storage.read_json(storage.join(out, "dataset.json"))
    noted = derived.note(catalog.folder, out)  # so that `forget` can tell of it
    counts = {name: meta["counts"][name] for name in ("sources", "quarantined", "records", "bytes")}
    told = {
        **counts,
        **meta["features"],
        "noted_in_data": noted,
        "nothing_to_do": known is not None,
    }
    return {"out": out, **told, "seconds": time.monotonic() - started}


def _told(
    model: Model, catalog: Catalog, kind: str, every: int | None, precision: str
) -> dict[str, Any]:
    """What decides the features, as `dataset.json` tells it."""
    plain = model.recipe.plain()["model"]
    return {
        "kind": kind,
        "every": every,
        "precision": precision,
        "plugin": plain.pop("plugin"),
        "fields": plain,
        "weights_sha256": checkpoint.weights_sha256(model.module.state_dict()),
        "data": catalog.folder,
        "data_digest": catalog.digest,
    }


def _known(out: str) -> dict[str, Any] | None:
    """What the features that are there came of; none where there is no dataset yet."""
    path = storage.join(out, "dataset.json")
    if not storage.exists(path):
        return None
    meta: dict[str, Any] = storage.read_json(path)
    if "features" not in meta:
        raise DataError(f"{out} is a dataset of videos", "one of features", "choose another --out")
    known: dict[str, Any] = meta["features"]
    return known


def _check_same(out: str, known: dict[str, Any], asked: dict[str, Any]) -> None:
    asked = json.loads(json.dumps(asked))  # as it was written
    other = [name for name, value in asked.items() if name != "data" and known[name] != value]
    if other:
        raise DataError(
            f"{out} holds features of another {', '.join(other)}",
            "a new folder",
            "choose another --out",
        )


@dataclass(frozen=True)
class _Shard:
    """A shard to be, and the records that go into it."""

    name: str
    records: NDArray[np.int64]


@dataclass(frozen=True)
class _Writing:
    """A dataset of features on its way."""

    out: str
    describer: Describer
    made: dict[str, Any]
    tell: Progress

    @property
    def catalog(self) -> Catalog:
        """What is described."""
        return self.describer.catalog

    def run(self) -> None:
        """Write the shards that are missing, then the catalog."""
        storage.put_json(storage.join(self.out, RECEIPTS, "begun.json"), {"features": self.made})
        plan, done = list(self._plan()), 0
        for shard in plan:
            if not self._is_there(shard):
                self._write(shard, done)
            done += len(shard.records)
            self.tell("describing videos", done, len(self.catalog))
        self._commit(plan)
        place.remove_strays(self.out, {row["shard"] for row in self._rows(plan)})
        storage.remove_folder(storage.join(self.out, RECEIPTS))

    def _plan(self) -> Iterator[_Shard]:
        """Neighbours share a shard as they did, cut where it would hold too much work."""
        names, number = self.catalog.numbered("shard")
        held, frames, count = list[int](), 0, 0
        for record, length in enumerate(self.catalog.column("frames").tolist()):
            full = len(held) >= MOST_RECORDS or frames >= MOST_FRAMES
            if held and (full or number[record] != number[held[0]]):
                yield self._shard(names[number[held[0]]], count, held)
                held, frames, count = [], 0, count + 1
            held.append(record)
            frames += length
        yield self._shard(names[number[held[0]]], count, held)

    def _shard(self, old: str, count: int, held: list[int]) -> _Shard:
        keys = self.catalog.keys.picked(np.array(held))
        told = {name: value for name, value in self.made.items() if name != "data"}
        split = old.split("-")[0] if SHARD_NAME.fullmatch(old) else "all"
        return _Shard(f"{split}-{count:05d}-{digest([told, keys])[:8]}.tar", np.array(held))

    def _is_there(self, shard: _Shard) -> bool:
        paths = (self._receipt(shard), storage.join(self.out, shard.name))
        return all(storage.exists(path) for path in paths)

    def _receipt(self, shard: _Shard) -> str:
        return storage.join(self.out, RECEIPTS, f"{shard.name}.jsonl")

    def _write(self, shard: _Shard, done: int) -> None:
        notes: list[str] = []
        with (
            shards.writing(storage.join(self.out, shard.name)) as add,
            contextlib.closing(self.describer.of(shard.records)) as made,  # type: ignore[type-var]
        ):
            for each in made:
                notes.append(json.dumps(self._added(each, add)))
                self.tell("describing videos", done + len(notes), len(self.catalog))
        storage.put(self._receipt(shard), "\n".join(notes).encode())

    def _added(
        self, each: Described, add: Callable[[shards.Record], shards.Placed]
    ) -> dict[str, Any]:
        """Put a record into its shard, and give what its row does not know yet."""
        row = self.catalog.row(each.record)
        if each.rows is None or each.frames is None:
            return {"fault": each.fault}
        data = catalogs.packed_features(each.rows.astype(self.made["precision"]))
        sidecar = json.loads(self.catalog.read(row, "json"))
        sidecar[catalogs.FEATURE_FRAMES] = each.frames.tolist()
        members = {catalogs.FEATURES: data, "json": json.dumps(sidecar, sort_keys=True).encode()}
        placed = add(shards.Record(row["key"], members))
        told = {"members": placed.members, "sha256": hashlib.sha256(data).hexdigest()}
        return {"size": each.rows.shape[1], **told}

    def _notes(self, plan: list[_Shard]) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Shard and record of all that was noted, and the note."""
        for shard in plan:
            lines = storage.read(self._receipt(shard)).splitlines()
            for record, line in zip(shard.records.tolist(), lines, strict=True):
                yield shard.name, record, json.loads(line)

    def _rows(self, plan: list[_Shard]) -> Iterator[Row]:
        """The rows of the new catalog: those of the old one, but for what they hold."""
        for name, record, note in self._notes(plan):
            if "members" not in note:
                continue
            row = self.catalog.row(record)
            own = {"shard": name, "suffix": catalogs.FEATURES, "members": note["members"]}
            held = {"sha256": note["sha256"], "has_audio": False, "masks_sha256": None}
            told = {**row, **own, **held, "record_digest": None}
            yield {column: told[column] for column in catalogs.SCHEMA.names}

    def _ledger(self, plan: list[_Shard]) -> pa.Table:
        return state.ledger_table(
            {**self.catalog.row(record), "stage": "decode", "reason": note["fault"]}
            for _, record, note in self._notes(plan)
            if "fault" in note
        )

    def _commit(self, plan: list[_Shard]) -> None:
        table = state.table_of(self._rows(plan), catalogs.SCHEMA)
        ledger = self._ledger(plan)
        if not len(table):
            raise DataError(
                f"none of {len(ledger)} videos could be described: {ledger['reason'][0]}",
                "at least one that decodes",
            )
        members = table["members"].to_pylist()
        counts = {
            "sources": len(self.catalog), "taken": len(table), "quarantined": len(ledger),
            "duplicates": 0, "filtered": 0, "records": len(table), "shards": len(plan),
            "bytes": sum(each["length"] for record in members for each in record), "warnings": [],
        }  # fmt: skip
        size = next(note["size"] for _, _, note in self._notes(plan) if "size" in note)
        kept = {name: self.catalog.meta.get(name) for name in ("profile", "classes", "source")}
        meta = {**kept, "options": {}, "counts": counts, "features": {**self.made, "size": size}}
        table = catalogs.with_digests(table)
        memory = _memory(self.catalog, set(table["key"].to_pylist()))
        state.commit(state.State(self.out), ledger, memory, table, meta)


def _memory(catalog: Catalog, keys: set[str]) -> pa.Table:
    """What the dataset remembers of the sources, so that what is forgotten there can be here."""
    try:
        before = list(state.read(catalog.folder).sources.values())
    except ClipmillError:  # a dataset of an older version, which remembers nothing
        before = []
    rows = []
    for source in before:
        contents = json.loads(source["contents"])
        kept = {key: told for key, told in contents.items() if key in keys}
        lost = contents and not kept
        side = "quarantined" if lost else source["side"]
        rows.append({**source, "side": side, "contents": json.dumps(kept), "since": 0})
    return state.table_of(rows, state.SOURCES_SCHEMA)
