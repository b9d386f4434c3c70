"""Catalogs in folders: `catalog.parquet` with all that is known, `dataset.json` as a readable copy.

The Parquet file carries what `dataset.json` says, so that an update has one moment at which it
happens. Knows nothing of shards.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import storage
from clipmill.catalog.digests import digest_of, digest_of_digests, with_digests
from clipmill.catalog.schema import (
    FEW_VALUES,
    SCHEMA,
    SCHEMA_VERSION,
    SINCE_VERSION_2,
    digest_of_version_1,
    migrated,
)
from clipmill.catalog.stored import GROUP_ROWS, InFile
from clipmill.catalog.table import Catalog
from clipmill.errors import DataError

OURS = b"clipmill"  # the key of what the Parquet file tells of the dataset
COUNTED = ("split", "label", "motion", "duration_seconds")  # columns whose extremes are kept

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
    ]
)


def save(folder: str, table: pa.Table, meta: dict[str, Any]) -> Catalog:
    """Write catalog and `dataset.json`, each visible whole, the latter last."""
    return save_pieces(folder, [table], meta)


def save_pieces(folder: str, tables: Iterable[pa.Table], meta: dict[str, Any]) -> Catalog:
    """Write a catalog that comes in pieces, and is never in memory whole."""
    path = storage.join(folder, "catalog.parquet")
    digests: list[pa.Array] = []
    with (
        storage.writing(path) as file,
        pq.ParquetWriter(
            file,
            SCHEMA,
            compression="zstd",
            use_dictionary=[*FEW_VALUES, "members.list.element.suffix", "near", "identity"],
            write_statistics=list(COUNTED),
        ) as writer,
    ):
        for piece in _filled(tables):
            digests += piece["record_digest"].chunks
            writer.write_table(piece, row_group_size=GROUP_ROWS)
        records, digest = sum(map(len, digests)), digest_of_digests(digests)
        told = {**meta, "schema_version": SCHEMA_VERSION, "digest": digest, "records": records}
        writer.add_key_value_metadata({OURS: json.dumps(told).encode()})
    storage.put_json(storage.join(folder, "dataset.json"), told)
    return read(folder)


def _filled(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pieces with all digests; only full groups but for the last of each piece."""
    for table in tables:
        yield with_digests(table.cast(SCHEMA))


def load(folder: str) -> Catalog:
    """Open the catalog of a dataset folder; one that has lost records is refused."""
    catalog = read(folder)
    if len(catalog) != catalog.meta["records"]:
        raise DataError(
            f"the catalog of {catalog.folder} has {len(catalog)} rows",
            f"the {catalog.meta['records']} that dataset.json tells",
            "see `clipmill verify`, or ingest into another folder",
        )
    return catalog


def read(folder: str) -> Catalog:
    """Open the catalog of a dataset folder as it is, for those who look for what is wrong."""
    folder = storage.absolute(folder)
    meta_path = storage.join(folder, "dataset.json")
    if not storage.exists(meta_path):
        raise DataError(
            f"{folder} has no dataset.json",
            "a folder that `clipmill ingest` wrote",
            "run `clipmill ingest SOURCE --out DATA` first",
        )
    meta: dict[str, Any] = storage.read_json(meta_path)
    stored = InFile(storage.join(folder, "catalog.parquet"))
    if stored.told:  # an update may have ended between the two files: this one is what counts
        meta = json.loads(stored.told)
    version = meta.get("schema_version")
    if version == 1:
        return _migrated(folder, meta)
    if version not in (2, SCHEMA_VERSION):
        raise DataError(
            f"{folder} has schema version {version}",
            f"version {SCHEMA_VERSION}, or 1 or 2, which are brought up",
            "use the clipmill that wrote it, or ingest it again with this one",
        )
    there = {*stored.names, *SINCE_VERSION_2} if version == 2 else {*stored.names}
    if missing := [name for name in SCHEMA.names if name not in there]:
        raise DataError(
            f"{folder}/catalog.parquet has no column {missing[0]}",
            f"all columns of version {version}",
            "restore it, or ingest into another folder",
        )
    return Catalog(folder, stored, {**meta, "schema_version": SCHEMA_VERSION})


def _migrated(folder: str, meta: dict[str, Any]) -> Catalog:
    """A catalog of version 1 as it would be had it been written now; the files stay."""
    table = _table(storage.join(folder, "catalog.parquet"))
    catalog = Catalog(folder, with_digests(migrated(table)), meta)
    if digest_of_version_1(table) == meta.get("digest"):  # else verify has something to tell
        meta["digest"] = digest_of(catalog.table)
    meta["schema_version"] = SCHEMA_VERSION
    return catalog


def quarantine(folder: str) -> pa.Table:
    """The ledger of what was not taken, in the order it was written; empty where there is none."""
    path = storage.join(storage.absolute(folder), "quarantine.parquet")
    if not storage.exists(path):
        return QUARANTINE.empty_table()
    table = _table(path)
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.schema.names
        else pa.nulls(len(table), field.type)
        for field in QUARANTINE
    ]
    return pa.table(columns, schema=QUARANTINE)


def _table(path: str) -> pa.Table:
    store, inner = storage.store_of(path)
    try:
        return pq.read_table(inner, filesystem=store)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            "the file that `clipmill ingest` wrote",
            "restore it, or ingest into another folder",
        ) from error
