"""How a test plan is cut: pieces that share no video, batches of pieces, shares of workers.

A function of the plan alone. Batches are the same whoever computes them, and so is every bit of
what a network answers; workers are given whole pieces.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from clipmill.feed import decoded_size
from clipmill.plan import Plan
from clipmill.takes import Numbers

PIECE_TAKES = 16  # at least; a piece is the least that a worker is given
MOST_TAKES, MOST_BYTES = 32, 64 << 20  # of a batch, decoded


def pieces(record: Numbers) -> list[range]:
    """Cut positions, of which the video of each is told, so that no video is in two pieces."""
    places = np.arange(len(record))
    last = np.zeros(int(record.max(initial=0)) + 1, np.int64)
    last[record] = places  # the last of several assignments stays
    ends = np.flatnonzero(np.maximum.accumulate(last[record]) == places) + 1
    cuts = [0]
    for end in ends.tolist():
        if end - cuts[-1] >= PIECE_TAKES or end == len(record):
            cuts.append(end)
    return [range(low, high) for low, high in pairwise(cuts)]


def batches(piece: range, most: int) -> list[range]:
    """Cut a piece into batches for the network."""
    return [piece[at : at + most] for at in range(0, len(piece), most)]


def batch_takes(plan: Plan) -> int:
    """How many takes of a plan are in a batch at most."""
    sizes = (v.frames * decoded_size(v, plan.stage) ** 2 * 3 for v in plan.plugin.views().values())
    return max(1, min(MOST_TAKES, MOST_BYTES // max(sizes)))


def shares(parts: Sequence[range], workers: int) -> list[list[range]]:
    """Give each of at most so many workers neighbouring pieces of about equal work; none is idle."""
    edges = np.cumsum([0, *map(len, parts)])
    limits = np.linspace(0, edges[-1], max(1, workers) + 1)
    cuts = sorted({int(np.argmin(np.abs(edges - limit))) for limit in limits})
    return [list(parts[low:high]) for low, high in pairwise(cuts)]
