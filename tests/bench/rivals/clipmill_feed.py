"""clipmill's own feed, beside its rivals: a recipe's training batches, by Ray or by threads.

And the same blocks through Ray Data instead of tasks of Ray itself: why the feed is as it is.
"""

import functools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from clipmill import feed, recipe
from clipmill import plan as plans
from clipmill.feed import Share
from clipmill.feed.block import Request, make
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


# --- the same blocks through Ray Data, which was the other way to build the feed

TASK_BLOCKS, TASKS = 4, 1000  # tasks of some seconds, as many as Ray Data takes well


def batches_by_ray_data(data: str, batch: int) -> Iterator[Any]:
    """Blocks of the same takes out of Ray Data tasks, in the plan's order."""
    import ray.data

    from clipmill import cluster

    cluster.quiet_data()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 32 << 20
    work = functools.partial(blocks, data=data, batch=batch)
    rows = [{"task": number} for number in range(TASKS)]
    dataset = ray.data.from_items(rows, override_num_blocks=TASKS).map_batches(
        work, batch_size=1, num_cpus=1, zero_copy_batch=True
    )
    for made in dataset.iter_batches(batch_size=batch, prefetch_batches=4):
        yield made["rgb"]


def blocks(row: dict[str, Any], *, data: str, batch: int) -> Iterator[dict[str, Any]]:
    """The blocks of one task."""
    plan = known_plan(data, batch)
    first = int(row["task"][0]) * TASK_BLOCKS
    for number in range(first, first + TASK_BLOCKS):
        places = range(number * batch, (number + 1) * batch)
        lot = plan.lot(plan.at(places.start, places.stop))
        yield make(Request(plan.plugin, lot, tuple(places))).columns


@functools.cache
def known_plan(data: str, batch: int) -> Plan:
    """The plan, made once a worker."""
    return plan_of(data, batch)
