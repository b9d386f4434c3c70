"""The plan as a table: epoch, position, rank, keys, spans, seed; and as a Parquet file.

Made some ten thousand takes at a time, so that plans of any length can be written.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipmill import storage
from clipmill.errors import UsageError
from clipmill.plan.epochs import Plan
from clipmill.takes import Numbers, Takes

PIECE_TAKES = 1 << 16
SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()),
        ("position", pa.int64()),
        ("rank", pa.int64()),
        ("keys", pa.list_(pa.string())),  # one a span
        ("spans", pa.list_(pa.list_(pa.int64()))),  # first and last frame
        ("seed", pa.uint64()),
    ],
    metadata={"clipmill": "plan"},
)


def rank_slice(batch: int, rank: int, world: int) -> tuple[int, int]:
    """The part of a global batch that a rank takes."""
    return batch * rank // world, batch * (rank + 1) // world


def ranks(positions: Numbers, batch: int, world: int) -> NDArray[np.int64]:
    """The rank that trains on each position."""
    edges = np.array([rank_slice(batch, rank, world)[1] for rank in range(world)])
    return np.searchsorted(edges, positions % batch, side="right")


def tables(plan: Plan, epochs: int, world: int) -> Iterator[pa.Table]:
    """The plan as columns, piece by piece."""
    total = epochs * plan.takes_per_epoch
    for first in range(0, total, PIECE_TAKES):
        last = min(first + PIECE_TAKES, total)
        takes, positions = plan.at(first, last), np.arange(first, last)
        columns = {
            "epoch": positions // plan.takes_per_epoch,
            "position": positions,
            "rank": ranks(positions, plan.batch, world),
            "keys": _keys(plan, takes),
            "spans": _spans(takes),
            "seed": takes.seed,
        }
        yield pa.table(columns, schema=SCHEMA)


def _keys(plan: Plan, takes: Takes) -> list[list[str]]:
    pairs = zip(plan.key_lists(takes), (takes.record >= 0).tolist(), strict=True)
    return [[key for key, is_there in zip(*pair, strict=True) if is_there] for pair in pairs]


def _spans(takes: Takes) -> list[list[tuple[int, int]]]:
    columns = (takes.first.tolist(), takes.last.tolist(), (takes.record >= 0).tolist())
    spans = (zip(*take, strict=True) for take in zip(*columns, strict=True))
    return [[(first, last) for first, last, is_there in take if is_there] for take in spans]


def dump(plan: Plan, epochs: int, world: int, path: str) -> None:
    """Write the plan as Parquet, whole or not at all, over nothing but an older one."""
    path = storage.absolute(path)
    if storage.exists(path) and not _is_dump(path):
        raise UsageError(
            f"{path} is there and is no plan", "a new file, or an older dump", "choose another name"
        )
    with storage.writing(path) as file, pq.ParquetWriter(file, SCHEMA) as writer:
        for table in tables(plan, epochs, world):
            writer.write_table(table)


def _is_dump(path: str) -> bool:
    store, inner = storage.store_of(path)
    try:
        told = pq.read_schema(inner, filesystem=store).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return told.get(b"clipmill") == b"plan"
