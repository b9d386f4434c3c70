"""The nearest neighbours of every row of a table, by the cosine of their embeddings.

Exact: all pairs are compared, a block of rows at a time, in time that grows with the square of the
rows. Holds the numbers of all embeddings, and 12 bytes for each neighbour: of 100,000 rows with
512 numbers and ten neighbours 0.2 GB. Meant for about so many. Knows no models and no files.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill.bulk.rows import NEIGHBOURS, TYPES
from clipmill.errors import DataError

BLOCK_BYTES = 64 << 20  # of cosines at a time

Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Found:
    """The neighbours of each row, the nearest first, and the share of them that are of its class."""

    keys: pa.Array  # of the rows that have an embedding, as all below
    places: NDArray[np.int64]  # where they are in the table
    near: NDArray[np.int64]
    cosine: NDArray[np.float32]
    same_class: float | None  # None: no class is known

    def column(self, first: int, stop: int) -> pa.Array:
        """The neighbours of these rows of the table; a row without embedding has none."""
        low, high = np.searchsorted(self.places, (first, stop))
        there = np.zeros(stop - first, np.bool_)
        there[self.places[low:high] - first] = True
        ends = np.cumsum(there) * self.near.shape[1]
        keys = self.keys.take(pa.array(self.near[low:high].ravel()))
        kind = TYPES[NEIGHBOURS].value_type
        pairs = pa.StructArray.from_arrays(
            [keys, pa.array(self.cosine[low:high].ravel())], fields=list(kind)
        )
        offsets = pa.array(np.append(0, ends), pa.int32())
        return pa.ListArray.from_arrays(offsets, pairs, mask=pa.array(~there))


def found(tables: Iterable[pa.Table], count: int, progress: Progress | None = None) -> Found:
    """Find as many neighbours of each row, among all others that have an embedding."""
    keys, labels, parts = list[pa.Array](), list[pa.Array](), list[NDArray[np.float32]]()
    places, at = list[NDArray[np.int64]](), 0
    for table in tables:
        there = np.flatnonzero(table["answered"].to_numpy())
        places.append(there + at)
        at += len(table)
        if len(there):
            table = table.take(there)
            keys += table["key"].chunks
            labels += table["target"].chunks
            parts.append(unit(_vectors(table["embedding"])))
    if sum(map(len, parts)) < 2:
        raise DataError(f"{sum(map(len, parts))} embeddings", "two at the least, to be neighbours")
    near, cosine = nearest(_joined(parts), count, progress)
    codes = pa.concat_arrays(labels).dictionary_encode().indices
    same = _same(codes.fill_null(-1).to_numpy(zero_copy_only=False), near)
    return Found(pa.concat_arrays(keys), np.concatenate(places), near, cosine, same)


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1:
        raise _widths(lengths)
    flat = pc.list_flatten(column).to_numpy()
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _joined(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All rows in one array; each part goes as it is copied, so that they are held once."""
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) != 1:
        raise _widths(widths)
    whole, stop = np.empty((sum(map(len, parts)), widths[0]), np.float32), None
    while parts:
        last = parts.pop()
        start = (len(whole) if stop is None else stop) - len(last)
        whole[start:stop] = last
        stop = start
    return whole


def _widths(told: list[int]) -> DataError:
    some = " and ".join(map(str, told[:3]))
    return DataError(f"embeddings of {some} numbers", "all of the same length, to be compared")


def unit(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length one."""
    lengths = np.linalg.norm(x_ND.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(x_ND / np.maximum(lengths, 1e-12), np.float32)


def nearest(
    x_ND: NDArray[np.float32], count: int, progress: Progress | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each row the places of those nearest, and their cosines; equal ones of them in their order."""
    total = len(x_ND)
    count = min(count, total - 1)
    block = max(1, BLOCK_BYTES // (4 * total))
    near, cosine = np.empty((total, count), np.int64), np.empty((total, count), np.float32)
    for low in range(0, total, block):
        high = min(total, low + block)
        products = x_ND[low:high] @ x_ND.T
        products[np.arange(high - low), np.arange(low, high)] = -np.inf
        some = _largest(products, count)
        values = np.take_along_axis(products, some, 1)
        order = np.lexsort((some, -values), axis=1)
        near[low:high] = np.take_along_axis(some, order, 1)
        cosine[low:high] = np.take_along_axis(values, order, 1)
        if progress:
            progress("finding neighbours", high, total, {})
    return near, cosine


def _largest(products: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if count >= products.shape[1] - 1:
        return np.argsort(-products, axis=1, kind="stable")[:, :count]
    return np.argpartition(-products, count, axis=1)[:, :count]


def _same(codes: NDArray[np.integer], near: NDArray[np.int64]) -> float | None:
    """The share of neighbours of the same class, of all rows whose class is known: at 0 or above."""
    is_known = codes >= 0
    if not is_known.any():
        return None
    return float(np.mean(codes[near[is_known]] == codes[is_known, None]))
