"""The catalog: one Parquet row a record, where it lies and what it is, beside `dataset.json`.

Opening, filtering and counting never open a video. Knows how rows are stored and filtered, not
how records are made or read.
"""

import ast
import functools
import hashlib
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipmill import storage
from clipmill.errors import DataError, UsageError

SCHEMA_VERSION = 1
MEMBER = pa.struct([("suffix", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("members", pa.list_(MEMBER)),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("source_sha256", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("duration_seconds", pa.float64()),
        ("frames", pa.int64()),
        ("frames_from", pa.string()),
        ("fps", pa.float64()),
        ("variable_rate", pa.bool_()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("rotation", pa.int64()),
        ("has_audio", pa.bool_()),
        ("licence", pa.string()),
    ]
)
IDENTITY = ("key", "sha256", "split", "label", "frames", "fps", "width", "height")


@dataclass(frozen=True)
class Catalog:
    """Records of a dataset, or a part of them; rows are addressed by their place here."""

    folder: str
    table: pa.Table
    meta: dict[str, Any]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted: the place of a name is its label in training."""
        return tuple(self.meta["classes"])

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the records as a set; where they lie does not matter."""
        return digest_of(self.table)

    @functools.cached_property
    def keys(self) -> list[str]:
        """Keys in row order."""
        return self.table["key"].to_pylist()  # type: ignore[no-any-return]

    def column(self, name: str) -> NDArray[Any]:
        """One column as an array."""
        return np.asarray(self.table[name].to_numpy(zero_copy_only=False))

    @functools.cached_property
    def labels(self) -> NDArray[np.int64]:
        """The place of each record's class among `classes`; -1 where it has none."""
        places = pc.index_in(self.table["label"], pa.array(self.classes, pa.string()))
        return np.asarray(pc.fill_null(places, -1).to_numpy()).astype(np.int64)

    def row(self, place: int) -> dict[str, Any]:
        """One record as a plain dict, with `target`: its class as a number."""
        row: dict[str, Any] = self.table.slice(place, 1).to_pylist()[0]
        return {**row, "target": int(self.labels[place])}

    def read(self, row: dict[str, Any], suffix: str = "mp4") -> bytes:
        """The bytes of a record's member, by one range read."""
        return self.read_part(row, suffix, 0, None)

    def read_part(self, row: dict[str, Any], suffix: str, offset: int, length: int | None) -> bytes:
        """Some bytes of a record's member; without a length all from the offset on."""
        for member in row["members"]:
            if member["suffix"] == suffix:
                shard = storage.join(self.folder, row["shard"])
                count = member["length"] - offset if length is None else length
                return storage.read_range(shard, member["offset"] + offset, count)
        raise DataError(f"record {row['key']} has no member .{suffix}", "a dataset that has it")

    def part(self, *, split: str | None = None, where: str | None = None) -> "Catalog":
        """The records of a split that fulfil an expression such as `duration_seconds > 2`."""
        table = self.table
        if split is not None:
            table = table.filter(pc.field("split") == split)
        if where:
            table = _filtered(table, where)
        return replace(self, table=table)


def digest_of(table: pa.Table) -> str:
    """Hash the identity of all records, whatever their order and place."""
    columns = [pc.fill_null(pc.cast(table[name], pa.string()), "-") for name in IDENTITY]
    lines = pc.binary_join_element_wise(*columns, "|")
    ordered = pc.take(lines, pc.sort_indices(lines)).combine_chunks()
    digest = hashlib.sha256()
    for line in ordered.to_pylist():
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def save(folder: str, table: pa.Table, meta: dict[str, Any]) -> Catalog:
    """Write catalog and `dataset.json`, each visible whole, the latter last."""
    digest = digest_of(table)
    meta = {**meta, "schema_version": SCHEMA_VERSION, "digest": digest, "records": len(table)}
    with storage.writing(storage.join(folder, "catalog.parquet")) as file:
        pq.write_table(table, file, compression="zstd")
    storage.put_json(storage.join(folder, "dataset.json"), meta)
    return Catalog(folder, table, meta)


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
    meta = storage.read_json(meta_path)
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{folder} has schema version {meta.get('schema_version')}",
            f"version {SCHEMA_VERSION}",
            "ingest it again with this clipmill",
        )
    store, inner = storage.store_of(storage.join(folder, "catalog.parquet"))
    try:
        return Catalog(folder, pq.read_table(inner, filesystem=store), meta)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{folder}/catalog.parquet cannot be read: {error}",
            "the catalog that `clipmill ingest` wrote",
            "restore it, or ingest into another folder",
        ) from error


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left.isin(right),
    ast.NotIn: lambda left, right: ~left.isin(right),
}


def _filtered(table: pa.Table, where: str) -> pa.Table:
    try:
        return table.filter(expression(where))
    except pa.ArrowException as error:  # such as a comparison of a text with a number
        raise _no_filter(where, error) from error


def expression(text: str) -> pc.Expression:
    """Turn `label in ['a', 'b'] and fps > 10` into a filter, without evaluating code."""
    try:
        return _expression(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, _UnknownForm) as error:
        raise _no_filter(text, error) from error


def _no_filter(text: str, error: Exception) -> UsageError:
    return UsageError(
        f"the filter {text!r} is not understood ({error})",
        "comparisons of columns joined by and, or, not",
        f"columns are {', '.join(SCHEMA.names)}",
    )


class _UnknownForm(Exception):
    pass


def _expression(node: ast.expr) -> Any:
    match node:
        case ast.BoolOp(op=ast.And()):
            return functools.reduce(operator.and_, map(_expression, node.values))
        case ast.BoolOp(op=ast.Or()):
            return functools.reduce(operator.or_, map(_expression, node.values))
        case ast.UnaryOp(op=ast.Not()):
            return ~_expression(node.operand)
        case ast.Compare(ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_operand(node.left), _operand(right))
    raise _UnknownForm(ast.unparse(node))


def _operand(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        if node.id not in SCHEMA.names:
            raise _UnknownForm(f"no column {node.id}")
        return pc.field(node.id)
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        raise _UnknownForm(ast.unparse(node)) from error
    return list(value) if isinstance(value, tuple) else value
