"""Bytes of a record by its plain row alone: the row names its dataset's folder, shard and members.

What a decode worker needs of a catalog. Knows no Parquet.
"""

from collections.abc import Mapping
from typing import Any

from clipmill import storage
from clipmill.catalog.schema import VIDEO_SUFFIX
from clipmill.errors import DataError, StorageError

HEADER_BYTES = 512  # of a tar, before each member; it begins with the member's name


def member(row: Mapping[str, Any], suffix: str | None = None) -> bytes:
    """The bytes of a record's member (None: its video), by one range read.

    The name before them is read along: bytes of another record are none.
    """
    found = _found(row, suffix)
    before = min(HEADER_BYTES, found["offset"])
    data = _read(row, found["offset"] - before, before + found["length"])
    if before == HEADER_BYTES:
        _check_name(row, found["suffix"], data[:HEADER_BYTES])
    return data[before:]


def member_part(row: Mapping[str, Any], suffix: str | None, offset: int, length: int | None) -> bytes:  # fmt: skip
    """Some bytes of a record's member (None: its video); without a length all from there on."""
    found = _found(row, suffix)
    left = found["length"] - offset
    count = left if length is None else length
    if not 0 <= count <= left:
        raise DataError(f"{count} bytes at {offset} of {row['key']}", f"at most {left}")
    return _read(row, found["offset"] + offset, count)


def _found(row: Mapping[str, Any], suffix: str | None) -> dict[str, Any]:
    wanted = suffix or row.get("suffix") or VIDEO_SUFFIX
    for each in row["members"]:
        if each["suffix"] == wanted:
            return each  # type: ignore[no-any-return]
    raise DataError(f"record {row['key']} has no member .{wanted}", "a dataset that has it")


def _read(row: Mapping[str, Any], offset: int, length: int) -> bytes:
    if "/" in row["shard"] or "\\" in row["shard"]:
        raise DataError(f"a shard named {row['shard']!r}", "a file of the dataset's own folder")
    try:
        return storage.read_range(storage.join(row["folder"], row["shard"]), offset, length)
    except StorageError as error:
        got, wanted, _ = error.args
        todo = f"if it is gone or was changed: run `clipmill verify {row['folder']}`"
        raise StorageError(f"record {row['key']}: {got}", wanted, todo) from error


def _check_name(row: Mapping[str, Any], suffix: str, header: bytes) -> None:
    if not header.startswith(f"{row['key']}.{suffix}".encode()[:100]):
        raise DataError(
            f"the shard {storage.join(row['folder'], row['shard'])} was changed: "
            f"{row['key']}.{suffix} is not where the catalog has it",
            "the shard that `clipmill ingest` wrote",
            f"run `clipmill verify {row['folder']}`",
        )
