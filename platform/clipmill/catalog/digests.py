"""Digests: of a record, by all that it is wherever it lies, and of records as a set.

The digest of a set is made of those of its records, with no Python a row. Knows no files.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill.catalog.schema import IDENTITY, SCHEMA, SINCE_VERSION_2
from clipmill.errors import DataError

HEX_DIGITS = 32
PIECE_ROWS = 1 << 14

_VALUE = np.full(256, 255, np.uint8)  # of a hexadecimal digit
_VALUE[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class MissingDigestError(Exception):
    """A row has no digest: it is computed when a catalog is written."""


def with_digests(table: pa.Table) -> pa.Table:
    """The table with `record_digest` wherever a row has none."""
    place = SCHEMA.get_field_index("record_digest")
    missing = pc.is_null(table["record_digest"].combine_chunks())
    if not pc.any(missing).as_py():
        return table
    fresh = pa.array(_digests(table.filter(missing)), pa.string())
    filled = pc.replace_with_mask(table["record_digest"].combine_chunks(), missing, fresh)
    return table.set_column(place, SCHEMA.field(place), filled)


def stale_digests(table: pa.Table) -> list[str]:
    """Keys of the rows that are not what their `record_digest` says."""
    pairs = zip(table["record_digest"].to_pylist(), _digests(table), strict=True)
    stale = [place for place, (told, fresh) in enumerate(pairs) if told != fresh]
    return table["key"].take(pa.array(stale, pa.int64())).to_pylist()  # type: ignore[no-any-return]


def _digests(table: pa.Table) -> Iterator[str]:
    for piece in table.select([*IDENTITY, *SINCE_VERSION_2]).to_batches(max_chunksize=PIECE_ROWS):
        yield from map(_digest, piece.to_pylist())


def _digest(row: Mapping[str, Any]) -> str:
    told = [_canonical(name, value) for name, value in row.items() if _counts(name, value)]
    text = json.dumps(told, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HEX_DIGITS]


def _counts(name: str, value: Any) -> bool:
    return name not in SINCE_VERSION_2 or bool(value)


def _canonical(name: str, value: Any) -> Any:
    """One form for what means the same: an empty list is none, attributes have no order."""
    if value == []:
        return None
    return sorted(value) if name == "attributes" and value else value


def digest_of(table: pa.Table) -> str:
    """Hash records as a set: whatever their order and place."""
    return digest_of_digests(with_digests(table)["record_digest"].chunks)


def digest_of_digests(pieces: Iterable[pa.Array]) -> str:
    """Hash the sorted digests of records."""
    numbers = [_numbers(piece) for piece in pieces if len(piece)]
    both = np.concatenate(numbers) if numbers else np.empty((0, 2), np.uint64)
    order = np.argsort(both[:, 0], kind="stable")
    both = both[order]
    if (both[1:, 0] == both[:-1, 0]).any():  # next to never: then the other half decides
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
    return hashlib.sha256(both.astype(">u8").data).hexdigest()


def _numbers(digests: pa.Array) -> NDArray[np.uint64]:
    """Digests as two numbers each, the upper half first."""
    if digests.null_count:
        raise MissingDigestError
    length = pc.min_max(pc.binary_length(digests)).as_py()
    if length != {"min": HEX_DIGITS, "max": HEX_DIGITS}:
        raise _no_digests()
    _, offsets, data = digests.buffers()
    first = np.frombuffer(offsets, np.int32)[digests.offset]
    text = np.frombuffer(data, np.uint8)[first : first + HEX_DIGITS * len(digests)]
    digits = _VALUE[text].reshape(-1, 2)
    if digits.max() > 15:
        raise _no_digests()
    raw = (digits[:, 0] << 4 | digits[:, 1]).reshape(-1, 16)
    return raw.view(">u8").astype(np.uint64)


def _no_digests() -> DataError:
    return DataError(
        "the column record_digest holds what is none",
        f"{HEX_DIGITS} hexadecimal digits in every row",
        "restore the catalog, or ingest again",
    )
