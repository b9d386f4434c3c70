"""clipmill's own feed, beside its rivals: a recipe's training batches, by Ray or by threads."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from clipmill import feed, recipe
from clipmill import plan as plans
from clipmill.feed import Share
from clipmill.plan import Plan
from rivals.clips import BATCH

BATCHES = 10**6  # more than are ever taken


def plan_of(data: str, batch: int = BATCH) -> Plan:
    """The plan of a recipe whose clips are those that all systems are asked for."""
    told = {
        "run": {"name": "bench"},
        "data": {"path": data, "aligned": True},  # starts on the ladder, as other figures have them
        "model": {"plugin": "c3d"},
        "train": {"batch": batch},
    }
    return plans.make(recipe.parse(told), "train")


def start_step(data: str) -> int:
    """The number of frames that the starts of the plan's clips are multiples of."""
    plan = plan_of(data)
    starts = np.concatenate([plan.epoch(number).first[:, 0] for number in range(4)])
    return max(1, int(np.gcd.reduce(starts)))


def batches(plan: Plan, transport: Literal["ray", "thread"]) -> Iterator[Any]:
    """The feed as a training loop holds it."""
    with feed.batches(plan, Share(0, BATCHES), transport=transport) as made:
        for batch in made:
            yield batch["rgb"]
