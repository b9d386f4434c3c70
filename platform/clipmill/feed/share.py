"""Which takes a rank sees, and in what blocks they are asked for.

Arithmetic on positions alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from clipmill import plan as plans
from clipmill.plan import Plan
from clipmill.takes import joined

BLOCK_TAKES = 16  # about a tenth of a second of decoding: the cost of a task does not show


@dataclass(frozen=True)
class Share:
    """What one rank sees: its slice of each global batch, from one batch up to another.

    Whoever splits the plan otherwise, such as by video, names the positions of its batches.
    """

    first_batch: int
    last_batch: int
    rank: int = 0
    world: int = 1
    own: tuple[range, ...] | None = None  # its batches, in place of slices of global ones


def positions(plan: Plan, share: Share) -> Iterator[range]:
    """The positions of each of the share's batches; the last of an epoch may be short."""
    if share.own is not None:
        yield from share.own
        return
    total = plan.takes_per_epoch if plan.stage != "train" else None
    for batch in range(share.first_batch, share.last_batch):
        first = batch * plan.batch
        size = plan.batch if total is None else max(0, min(plan.batch, total - first))
        low, high = plans.rank_slice(size, share.rank, share.world)
        yield range(first + low, first + high)


def in_blocks(parts: Iterator[range], takes: int = BLOCK_TAKES) -> Iterator[list[range]]:
    """Cut the parts of batches into blocks: of a large part several, of small ones one."""
    held: list[range] = []
    for part in parts:
        if len(part) >= 2 * takes:
            if held:
                yield held
            held = []
            yield from ([piece] for piece in _pieces(part, len(part) // takes))
            continue
        held.append(part)
        if sum(map(len, held)) >= takes:
            yield held
            held = []
    if held:
        yield held


def _pieces(part: range, count: int) -> Iterator[range]:
    edges = [part.start + len(part) * at // count for at in range(count + 1)]
    yield from (range(low, high) for low, high in pairwise(edges))


def lot_of(plan: Plan, block: list[range]) -> plans.Lot:
    """What is needed to make a block."""
    return plan.lot(joined([plan.at(part.start, part.stop) for part in block]))
