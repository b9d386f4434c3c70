"""The nearest neighbours of every row of a table, by the cosine of their embeddings.

Exact: all pairs are compared, a block of rows at a time. Knows no models and no files.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipmill.errors import DataError

BLOCK_BYTES = 64 << 20  # of cosines at a time
KIND = pa.list_(pa.struct([("key", pa.string()), ("cosine", pa.float32())]))

Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Found:
    """A column of neighbours, the nearest first, and the share of them that are of the row's class."""

    column: pa.ChunkedArray
    same_class: float | None  # None: no class is known


def found(tables: Iterable[pa.Table], count: int, progress: Progress | None = None) -> Found:
    """Find as many neighbours of each row, among all others; a row without embedding has none."""
    keys, labels, parts = list[str](), list[str | None](), list[NDArray[np.float32]]()
    places, at = list[int](), 0
    for table in tables:
        there = np.flatnonzero(table["answered"].to_numpy())
        places += (there + at).tolist()
        at += len(table)
        if len(there):
            table = table.take(there)
            keys += table["key"].to_pylist()
            labels += table["target"].to_pylist()
            parts.append(np.stack(table["embedding"].to_numpy()).astype(np.float32))
    if len(keys) < 2:
        raise DataError(f"{len(keys)} embeddings", "two at the least, to be neighbours")
    near, cosine = nearest(unit(np.concatenate(parts)), count, progress)
    rows: list[list[dict[str, object]] | None] = [None] * at
    for place, others, cosines in zip(places, near.tolist(), cosine.tolist(), strict=True):
        pairs = zip(others, cosines, strict=True)
        rows[place] = [{"key": keys[other], "cosine": value} for other, value in pairs]
    return Found(pa.chunked_array([pa.array(rows, KIND)]), _same(labels, near))


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


def _same(labels: list[str | None], near: NDArray[np.int64]) -> float | None:
    known = [
        labels[other] == label
        for label, others in zip(labels, near.tolist(), strict=True)
        if label is not None
        for other in others
    ]
    return float(np.mean(known)) if known else None
