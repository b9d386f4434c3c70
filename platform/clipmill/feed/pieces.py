"""Blocks in order, cut and joined to batches.

Whole blocks pass as they are, without a copy. Knows neither who made them nor the plan.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from clipmill.feed.block import Block, Request, not_alike
from clipmill.feed.hands import Hands, Ticket
from clipmill.plugin import Plugin, Sample

TRAVELLING = ("position", "seed", "digest")  # the feed's own columns, beside the plugin's


def in_order(
    requests: Iterable[Request], hands: Hands, window: int
) -> Iterator[tuple[Request, Block]]:
    """Ask a window of blocks ahead, and give them in the order asked.

    The oldest is always among those asked for: whatever is slow or lost, it is never held back.
    """
    waiting: deque[tuple[Request, Ticket]] = deque()
    for request in requests:
        waiting.append((request, hands.ask(request)))
        if len(waiting) >= window:
            yield _oldest(waiting)
    while waiting:
        yield _oldest(waiting)


def _oldest(waiting: deque[tuple[Request, Ticket]]) -> tuple[Request, Block]:
    request, ticket = waiting.popleft()
    return request, ticket()


def to_sizes(blocks: Iterable[Block], sizes: Iterable[int]) -> Iterator[list[Block]]:
    """Cut a stream of blocks so that each list of them holds as many takes as asked."""
    left: Block | None = None
    stream = iter(blocks)
    for size in sizes:
        parts: list[Block] = []
        while size:
            block = left if left is not None else next(stream)
            part, left = split(block, size)
            size -= len(part.positions)
            parts.append(part)
        yield parts


def split(block: Block, count: int) -> tuple[Block, Block | None]:
    """The first takes of a block, and the rest if there is one."""
    if len(block.positions) <= count:
        return block, None
    return _cut(block, slice(0, count)), _cut(block, slice(count, None))


def _cut(block: Block, where: slice) -> Block:
    return replace(
        block,
        positions=block.positions[where],
        columns={name: column[where] for name, column in block.columns.items()},
        samples=block.samples[where],
    )


def joined(plugin: Plugin, parts: Sequence[Block]) -> Sample:
    """One batch of blocks; takes without a sample are left out."""
    if not parts:
        return {}
    if all(part.columns for part in parts):
        columns = [part.columns for part in parts]
        if len(columns) == 1:
            return dict(columns[0])
        return {name: _concatenated(name, [c[name] for c in columns]) for name in columns[0]}
    rows = [row for part in parts for row in part.rows() if row is not None]
    return collated(plugin, rows) if rows else {}


def _concatenated(name: str, columns: list[np.ndarray]) -> np.ndarray:
    try:
        return np.concatenate(columns)
    except ValueError:
        raise not_alike(name, [column[0] for column in columns]) from None


def collated(plugin: Plugin, rows: Sequence[Sample]) -> Sample:
    """Let the plugin collate samples; what travels with them is stacked beside."""
    bare = [{name: row[name] for name in row if name not in TRAVELLING} for row in rows]
    told = {name: np.stack([row[name] for row in rows]) for name in TRAVELLING}
    return {**plugin.collate(bare), **told}
