"""Removes records for good: from shards and catalog, with a tombstone so that they stay away.

Knows nothing of runs and models; who asks may look for those trained on what is forgotten.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from clipmill import catalog as catalogs
from clipmill import shards, storage
from clipmill.catalog import Catalog
from clipmill.errors import DataError
from clipmill.ingest import state
from clipmill.ingest.arrange import SHARD_NAME
from clipmill.ingest.arrange import digest as digest_of_plain
from clipmill.ingest.state import FORGOTTEN_REASON, Row, State
from clipmill.ingest.write import RECEIPTS


def forget(folder: str, keys: Sequence[str]) -> dict[str, Any]:
    """Forget records by key; gives what they were and in which catalogs they stood."""
    folder = storage.absolute(folder)
    with storage.holding(folder, "clipmill forget"):
        found = state.read(folder)
        _remove_strays(found)  # a forget or ingest that was broken off may have left bytes
        gone = [_row(found, key) for key in dict.fromkeys(keys)]
        since = min(_since(found, row) for row in gone)
        _put_tombstones(found, gone)
        rows = _rewritten(found, {row["key"] for row in gone})
        _save(found, rows, {row["source"] for row in gone})
        _remove_strays(state.read(folder))
    return {
        "data": folder,
        "forgotten": [{name: row[name] for name in ("key", "source", "split", "label")} for row in gone],
        "records": len(rows),
        "digests": found.meta["history"][since:],
    }  # fmt: skip


def _remove_strays(found: State) -> None:
    """Remove shards that no record of the catalog is in."""
    known = {row["shard"] for row in found.rows.values()}
    for path in storage.list_files(found.folder):
        name = storage.name_of(path)
        ours = SHARD_NAME.fullmatch(name) and path == storage.join(found.folder, name)
        if ours and name not in known:
            storage.remove(path)


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
    told = digest_of_plain(["forget", [[row["key"], row["sha256"]] for row in left]])
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
    _put_ledger(found, lost)
    rows = sorted(rows, key=lambda row: (row["shard"], row["members"][0]["offset"]))
    table = catalogs.with_digests(pa.Table.from_pylist(rows, schema=catalogs.SCHEMA))
    digest = catalogs.digest_of(table)
    meta = {**found.meta, "history": [*found.meta["history"], digest],
            "counts": _counts(found, rows, len(lost))}  # fmt: skip
    told = state.tagged(pa.Table.from_pylist(memory, schema=state.SOURCES_SCHEMA), digest)
    state.put_table(storage.join(found.folder, RECEIPTS, state.SOURCES), told)
    catalogs.save(found.folder, table, meta)
    state.put_table(storage.join(found.folder, state.SOURCES), told)
    storage.remove_folder(storage.join(found.folder, RECEIPTS))


def _put_ledger(found: State, lost: Sequence[Row]) -> None:
    new = [
        {name: source[name] for name in ("source", "source_sha256")}
        | {"stage": "forgotten", "reason": FORGOTTEN_REASON}
        for source in lost
    ]
    old = catalogs.quarantine(found.folder).to_pylist()
    ledger = sorted([*old, *new], key=lambda row: str(row["source"]))
    state.put_table(storage.join(found.folder, state.QUARANTINE), state.ledger_table(ledger))


def _counts(found: State, rows: Sequence[Row], lost: int) -> dict[str, Any]:
    counts = found.meta["counts"]
    return {
        **counts,
        "taken": counts["taken"] - lost,
        "quarantined": counts["quarantined"] + lost,
        "records": len(rows),
        "shards": len({row["shard"] for row in rows}),
        "bytes": sum(m["length"] for row in rows for m in row["members"]),
    }
