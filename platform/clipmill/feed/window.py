"""How many blocks a rank has asked for at a time, and how much memory they take.

Arithmetic on a plan's views; whoever starts a run asks it before anything is decoded.
"""

from typing import NamedTuple

from clipmill.feed.block import decoded_size
from clipmill.feed.share import BLOCK_TAKES
from clipmill.plan import Plan

LOOK_AHEAD = 4  # blocks asked for beyond those under way, for each CPU


class Window(NamedTuple):
    """The window of one rank."""

    blocks: int
    bytes: int


def window_of(plan: Plan, ahead_mb: int, cpus: int) -> Window:
    """Enough that all CPUs are busy, within the bytes allowed; two at the least."""
    first, views = plan.at(0, 1), plan.plugin.views()
    seen = [views[first.views[number]] for number in first.view[0].tolist()]
    take = sum(view.frames * decoded_size(view, plan.stage) ** 2 * 3 for view in seen)
    block = BLOCK_TAKES * take
    blocks = max(2, min((ahead_mb << 20) // block, (1 + LOOK_AHEAD) * cpus))
    return Window(blocks, blocks * block)
