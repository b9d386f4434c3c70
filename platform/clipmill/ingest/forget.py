"""Removes records for good: from shards and catalog, with a tombstone so that they stay away.

Datasets that were made of this one are told, not changed. Knows nothing of runs and models; who
asks may look for those trained on what is forgotten.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from clipmill import catalog as catalogs
from clipmill import shards, storage
from clipmill.catalog import Catalog
from clipmill.errors import DataError
from clipmill.ingest import derived, place, state
from clipmill.ingest.arrange import digest
from clipmill.ingest.state import FORGOTTEN_REASON, Row, State
from clipmill.ingest.write import RECEIPTS


def forget(folder: str, keys: Sequence[str]) -> dict[str, Any]:
    """Forget records by key; gives what they were, in which catalogs they stood and still stand."""
    folder = storage.absolute(folder)
    with storage.holding(folder, "clipmill forget"):
        found = state.read(folder)
        place.remove_strays(
            folder, _shards(found.rows.values())
        )  # a forget or ingest that was broken off may have left bytes
        gone = [_row(found, key) for key in dict.fromkeys(keys)]
        since = min(_since(found, row) for row in gone)
        _put_tombstones(found, gone)
        rows = _rewritten(found, {row["key"] for row in gone})
        _save(found, rows, {row["source"] for row in gone})
        place.remove_strays(folder, _shards(rows))
    return {
        "data": folder,
        "forgotten": [{name: row[name] for name in ("key", "source", "split", "label")} for row in gone],
        "records": len(rows),
        "features": list(derived.with_records(folder, keys)),
        "digests": found.meta["history"][since:],
    }  # fmt: skip


def _shards(rows: Iterable[Row]) -> set[str]:
    return {row["shard"] for row in rows}


def _row(found: State, key: str) -> Row:
    if key not in found.rows:
        raise DataError(
            f"{found.folder} has no record {key!r}",
            "the key of a record in its catalog",
            "`clipmill browse` shows keys; it may be forgotten already",
        )
    return found.rows[key]


def _since(found: State, row: Row) -> int:
    source = found.sources.get(row["source"])
    return int(source["since"]) if source else 0


def _put_tombstones(found: State, gone: Sequence[Row]) -> None:
    new = [
        {
            "source_sha256": row["source_sha256"],
            "start_seconds": row["start_seconds"],
            "end_seconds": row["end_seconds"] if row["parent"] else None,
        }
        for row in gone
    ]
    path = storage.join(found.folder, state.FORGOTTEN)
    storage.put_json(path, {"forgotten": [*found.forgotten, *new]})


def _rewritten(found: State, gone: set[str]) -> list[Row]:
    """Write each shard that held one of them anew without it; gives all rows that are left."""
    broken = {found.rows[key]["shard"] for key in gone}
    rows = [row for row in found.rows.values() if row["key"] not in gone]
    place = max(int(row["shard"].split("-")[1]) for row in found.rows.values())
    done = [row for row in rows if row["shard"] not in broken]
    for number, name in enumerate(sorted(broken), start=place + 1):
        left = [row for row in rows if row["shard"] == name]
        if left:
            done += _moved(found, left, _name(name, number, left))
    return done


def _name(old: str, number: int, left: Sequence[Row]) -> str:
    told = digest(["forget", [[row["key"], row["sha256"]] for row in left]])
    return f"{old.split('-')[0]}-{number:05d}-{told[:8]}.tar"


def _moved(found: State, left: Sequence[Row], name: str) -> list[Row]:
    catalog = Catalog(found.folder, catalogs.SCHEMA.empty_table(), {"classes": []})

    def records() -> Iterator[shards.Record]:
        for row in left:
            members = {m["suffix"]: catalog.read(row, m["suffix"]) for m in row["members"]}
            yield shards.Record(row["key"], members)

    placed = shards.write(storage.join(found.folder, name), records())
    where = {each.key: each.members for each in placed}
    return [{**row, "shard": name, "members": where[row["key"]]} for row in left]


def _save(found: State, rows: list[Row], names: set[str]) -> None:
    keys = {row["key"] for row in rows}
    memory, lost = [], []
    for source in found.sources.values():
        contents = json.loads(source["contents"])
        kept = {key: told for key, told in contents.items() if key in keys}
        if source["source"] in names and not kept:
            source = {**source, "side": "quarantined"}
            lost.append(source)
        memory.append({**source, "contents": json.dumps(kept)})
    rows = sorted(rows, key=lambda row: (row["shard"], row["members"][0]["offset"]))
    table = catalogs.with_digests(pa.Table.from_pylist(rows, schema=catalogs.SCHEMA))
    told = pa.Table.from_pylist(memory, schema=state.SOURCES_SCHEMA)
    meta = {**found.meta, "counts": _counts(found, rows, len(lost))}
    state.commit(found, _ledger(found, lost), told, table, meta)
    storage.remove_folder(storage.join(found.folder, RECEIPTS))


def _ledger(found: State, lost: Sequence[Row]) -> pa.Table:
    new = [
        {name: source[name] for name in ("source", "source_sha256")}
        | {"stage": "forgotten", "reason": FORGOTTEN_REASON}
        for source in lost
    ]
    old = catalogs.quarantine(found.folder).to_pylist()
    ledger = sorted([*old, *new], key=lambda row: str(row["source"]))
    return state.ledger_table(ledger)


def _counts(found: State, rows: Sequence[Row], lost: int) -> dict[str, Any]:
    counts = found.meta["counts"]
    return {
        **counts,
        "taken": counts["taken"] - lost,
        "quarantined": counts["quarantined"] + lost,
        "records": len(rows),
        "shards": len(_shards(rows)),
        "bytes": sum(m["length"] for row in rows for m in row["members"]),
    }
