"""Rows stored for rows, such as the hard negatives of each record: a Parquet file beside a catalog.

It has two columns: `key`, and `keys`, a list. Keys of no record are passed over.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipmill import storage
from clipmill.errors import DataError

# Where those of each row begin, and one more; and the rows themselves.
Links = tuple[NDArray[np.int64], NDArray[np.int64]]
Picks = NDArray[np.integer[Any]]
Lists = tuple[NDArray[np.int64], NDArray[Any]]  # the same with values of any kind


def read_links(path: str, keys: pa.ChunkedArray) -> Links:
    """Read what is stored for each row, as rows; `keys` are those of the rows."""
    table = _read(path)
    lists = table["keys"].combine_chunks()
    owner = _places(table["key"], keys)[np.asarray(pc.list_parent_indices(lists))]
    linked = _places(pc.list_flatten(lists), keys)
    kept = (owner >= 0) & (linked >= 0) & (owner != linked)
    return grouped(owner[kept], linked[kept], len(keys))


def grouped(owner: NDArray[np.int64], linked: NDArray[np.int64], rows: int) -> Links:
    """Put rows linked to rows together by owner."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=rows)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), linked[order]


def picked(lists: Lists, rows: Picks) -> Lists:
    """What is stored for some rows, in their order, any of them several times."""
    starts, values = lists
    counts = np.diff(starts)[rows]
    ends = np.cumsum(counts)
    inside = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    moved = np.concatenate([[0], ends]).astype(np.int64)
    return moved, values[np.repeat(starts[:-1][rows], counts) + inside]


def links_digest(path: str) -> str:
    """Hash the file's content."""
    return hashlib.sha256(storage.read(path)).hexdigest()


def _places(values: Any, keys: pa.ChunkedArray) -> NDArray[np.int64]:
    found = pc.index_in(values.cast(pa.string()), value_set=keys)
    return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


def _read(path: str) -> pa.Table:
    store, inner = storage.store_of(path)
    try:
        table = pq.read_table(inner, filesystem=store, columns=["key", "keys"])
        return table.cast(pa.schema([("key", pa.string()), ("keys", pa.list_(pa.string()))]))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            "a Parquet file with the columns key (text) and keys (lists of text)",
        ) from error
