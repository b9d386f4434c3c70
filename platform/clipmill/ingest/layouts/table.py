"""Tables of videos: CSV, TSV, Parquet or JSONL, with columns chosen by name.

Paths in a table are URIs, or lie below its folder. Whether a video is there is found out later.
"""

import csv
import io
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipmill import storage, video
from clipmill.errors import SourceError, UsageError
from clipmill.ingest.layouts.fields import NAMES, NO_CLASSES, Row
from clipmill.ingest.layouts.listing import Listing, Options
from clipmill.ingest.sources import Source

JSON = ".json"  # what masks in COCO's JSON end with
TODO = "save it as CSV, TSV or JSONL in UTF-8, or as Parquet"

CELL_BYTES = 16 << 20  # spans and boxes of a long video are one cell


@dataclass(frozen=True)
class Table:
    """The rows of a table, each with its place, and the names of its columns."""

    columns: list[str]
    rows: list[tuple[str, dict[str, Any]]]


def read(source: str, options: Options) -> Listing:
    """A row a video: `path`, and any of our other fields; what else it has are attributes."""
    table = load(source)
    _check_columns(source, table.columns, options.columns)
    root = storage.parent(source)
    rows = (Row(f"{source}, {where}", values, options.columns) for where, values in table.rows)
    return Listing([_source(root, row) for row in rows])


def _source(root: str, row: Row) -> Source:
    named, (classes, colours) = row.take("masks"), row.mask_classes()
    masks = None if named is None else _path(root, row, "masks", named)
    if masks and not 1 <= len(classes) <= video.MOST_CLASSES:
        wanted = f"those of 1, 2, ... in the masks, 1 to {video.MOST_CLASSES} as a|b"
        row.fault("mask_classes", f"names {len(classes)} classes", wanted)
    if masks and masks.lower().endswith(JSON):
        if colours:
            row.fault("mask_classes", "are painted", "names alone, as those of categories in JSON")
        colours = {**NO_CLASSES, **{name: at for at, name in enumerate(classes, 1)}}
    source = row.source(_path(root, row, "path", row.take("path")))
    if masks is None:
        return source
    return replace(source, masks=masks, mask_classes=classes, mask_colours=colours)


def _check_columns(source: str, has: list[str], columns: Mapping[str, str]) -> None:
    if strange := columns.keys() - set(NAMES):
        raise UsageError(f"columns for {min(strange)!r}", f"names among {', '.join(NAMES)}")
    wanted = {"path": "path", **columns}
    if repeated := {name for name in has if has.count(name) > 1}:
        raise SourceError(f"{source} has two columns {min(repeated)!r}", "one of each name")
    for name, column in wanted.items():
        if column not in has:
            raise SourceError(
                f"{source} has the columns {', '.join(has or ['none'])}",
                f"a column `{column}`",
                f"name the column of the videos' {name} as such, or say how it is called",
            )


def _path(root: str, row: Row, field: str, value: Any) -> str:
    name = value or ""
    path = _below(root, name) if isinstance(name, str) and "\0" not in name else None
    if path is None:
        row.fault(field, f"{name!r} leads outside of {root}", "URIs, or paths below its folder")
    return path


def _below(root: str, name: str) -> str | None:
    if storage.is_remote(name):
        return storage.absolute(name)
    if storage.is_remote(root):
        inner = posixpath.normpath(name)
        outside = not name or inner == "." or inner.startswith("/") or inner.split("/")[0] == ".."
        return None if outside else storage.join(root, inner)
    path = os.path.normpath(os.path.join(root, name.removeprefix("file://")))
    return path if name and os.path.commonpath([root, path]) == root else None


def load(path: str) -> Table:
    """Read a table whole; its suffix tells what it is."""
    suffix = PurePosixPath(storage.name_of(path)).suffix.lower()
    try:
        return FORMATS.get(suffix, _csv)(storage.read(path))
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, _NotRow) as error:
        raise SourceError(
            f"{path} is no table: {error}", f"{KINDS.get(suffix, 'CSV in UTF-8')}", TODO
        ) from error


class _NotRow(ValueError):
    """A line that is not a row of its table."""


def _csv(data: bytes, delimiter: str = ",") -> Table:
    csv.field_size_limit(CELL_BYTES)
    text = data.decode("utf-8-sig")  # spreadsheets put a mark before it
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    for row in table:
        if None in row:
            raise _NotRow(f"line {table.line_num} has more cells than there are columns")
        rows.append((f"line {table.line_num}", dict(row)))
    return Table(list(table.fieldnames or []), rows)


def _tsv(data: bytes) -> Table:
    return _csv(data, "\t")


def _jsonl(data: bytes) -> Table:
    rows = []
    columns: dict[str, None] = {}
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            rows.append((f"line {number}", _object(number, line)))
            columns |= dict.fromkeys(rows[-1][1])
    return Table(list(columns), rows)


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _NotRow(f"line {number} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise _NotRow(f"line {number} holds a {type(value).__name__}, not an object")
    return value


def _parquet(data: bytes) -> Table:
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return Table(list(file.schema_arrow.names), list(_parquet_rows(file)))


def _parquet_rows(file: pq.ParquetFile) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist(maps_as_pydicts="lossy"):
            number += 1
            yield f"row {number}", row


FORMATS: Mapping[str, Callable[[bytes], Table]] = MappingProxyType(
    {".csv": _csv, ".tsv": _tsv, ".parquet": _parquet, ".jsonl": _jsonl}
)
KINDS = {".csv": "CSV in UTF-8", ".tsv": "TSV in UTF-8", ".parquet": "Parquet", ".jsonl": "JSONL"}
