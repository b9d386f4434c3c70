"""Plan to batches: read, decode and sample takes anywhere, hand them over in the plan's order.

One stage (`samples`) runs in a thread or in Ray Data tasks alike; neither imports torch. Each
rank has its own pipeline over its slice of the plan, all epochs in one execution. Position and
take digest travel with the pixels.
"""

import functools
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill import video
from clipmill.catalog import Catalog
from clipmill.errors import DataError
from clipmill.plan import Plan
from clipmill.plugin import Decoded, Plugin, Sample
from clipmill.takes import Stage, Takes, View, crop_box, frame_numbers, generator

CHUNK_TAKES = 64  # of a decode task: some seconds of work, and blocks large enough to be cheap
MOST_TASKS = 1000


@dataclass(frozen=True)
class Share:
    """What one rank sees: its slice of each global batch, from one batch up to another."""

    first_batch: int
    last_batch: int
    rank: int = 0
    world: int = 1


Frames = Callable[..., NDArray[np.uint8]]  # frame numbers, short_side=, crop= -> frames


def frames_of(catalog: Catalog, row: dict[str, Any]) -> Frames:
    """How a record's frames are read: by its packet index, or else all of the video."""
    if any(member["suffix"] == "idx" for member in row["members"]):
        index = video.unpacked(catalog.read(row, "idx"))
        return functools.partial(
            video.decode_indexed, index, functools.partial(catalog.read_part, row, None)
        )
    return functools.partial(video.decode_frames, catalog.read(row))


def decode(
    frames: Frames, row: Mapping[str, Any], view: View, span: tuple[int, int], seed: int, stage: Stage
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Decode one span as a view wants it."""
    numbers = frame_numbers(*span, view.frames, row["frames"])
    height, width = video.scaled_size(row["height"], row["width"], view.resize)
    random = stage == "train" and "crop" in view.augment
    box = crop_box(height, width, view.size, seed, random)
    return {"rgb": frames(numbers, short_side=view.resize, crop=box)}


def sample(plan: Plan, takes: Takes, place: int, *, frames: Frames | None = None) -> Sample:
    """Read and decode one take, and let the plugin make its sample.

    `frames` stands in for the record's own, where the video is no record of ours.
    """
    views, seed = plan.plugin.views(), int(takes.seed[place])
    spans = [span for span in range(takes.record.shape[1]) if takes.record[place, span] >= 0]
    rows = [plan.catalog.row(int(takes.record[place, span])) for span in spans]
    names = [takes.views[takes.view[place, span]] for span in spans]
    bounds = [(int(takes.first[place, s]), int(takes.last[place, s])) for s in spans]
    streams = [
        decode(frames or frames_of(plan.catalog, row), row, views[name], bound, seed, plan.stage)
        for row, name, bound in zip(rows, names, bounds, strict=True)
    ]
    decoded = Decoded(plan.stage, tuple(names), tuple(streams), tuple(rows))
    return plan.plugin.sample(decoded, generator(seed))


def samples(plan: Plan, positions: Iterable[int]) -> Iterator[Sample]:
    """The samples at positions of the plan, each with its position, seed and take digest."""
    for position in positions:
        takes = plan.at(position, position + 1)
        told = {
            "position": np.int64(position),
            "seed": takes.seed[0],
            "digest": np.frombuffer(plan.digests(takes)[0], np.uint8),
        }
        yield {**sample(plan, takes, 0), **told}


def positions(plan: Plan, share: Share) -> Iterator[range]:
    """The positions of each global batch that belong to the share; the last may be short."""
    total = plan.takes_per_epoch if plan.stage != "train" else None
    for batch in range(share.first_batch, share.last_batch):
        first = batch * plan.batch
        size = plan.batch if total is None else min(plan.batch, total - first)
        low, high = plans.rank_slice(size, share.rank, share.world)
        yield range(first + low, first + high)


def batches(
    plan: Plan,
    share: Share,
    recipe: Mapping[str, Any],
    transport: Literal["ray", "thread"] = "thread",
) -> Iterator[Sample]:
    """The share's batches in order, checked against the plan."""
    made = _by_ray(plan, share, recipe) if transport == "ray" else _by_thread(plan, share)
    for wanted, batch in zip(positions(plan, share), made, strict=True):
        _check(plan, wanted, batch)
        yield batch


def _check(plan: Plan, wanted: range, batch: Sample) -> None:
    due = plan.digests(plan.at(wanted.start, wanted.stop))
    came = [bytes(row) for row in np.ascontiguousarray(batch["digest"])]
    if batch["position"].tolist() != list(wanted) or came != due:
        raise DataError(
            f"the feed gave the takes {batch['position'].tolist()}",
            f"those of the plan at {wanted.start} to {wanted.stop - 1}",
            "the dataset changed while it was read: run `clipmill verify` on it",
        )


def collated(plugin: Plugin, rows: list[Sample]) -> Sample:
    """Let the plugin collate samples; what travels with them is stacked beside."""
    own = ("position", "seed", "digest")
    bare = [{name: row[name] for name in row if name not in own} for row in rows]
    return {**plugin.collate(bare), **{name: np.stack([row[name] for row in rows]) for name in own}}


def _by_thread(plan: Plan, share: Share) -> Iterator[Sample]:
    """Decode in a thread of this process, two batches ahead (the decoder frees the GIL)."""
    ready: queue.Queue[Sample | BaseException | None] = queue.Queue(maxsize=2)
    over = threading.Event()

    def put(item: Sample | BaseException | None) -> None:
        while not over.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for part in positions(plan, share):
                if over.is_set():
                    return
                put(collated(plan.plugin, list(samples(plan, part))))
            put(None)
        except BaseException as error:  # the consumer raises it
            put(error)

    producer = threading.Thread(target=produce, daemon=True, name="clipmill-feed")
    producer.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        producer.join()


def _by_ray(plan: Plan, share: Share, recipe: Mapping[str, Any]) -> Iterator[Sample]:
    """Decode in Ray Data tasks, anywhere in the cluster; rows in are ranges of batches."""
    import ray.data

    from clipmill import cluster

    cluster.quiet_data()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 32 << 20
    source = json.dumps(recipe)
    count = share.last_batch - share.first_batch
    # A long run has longer tasks: each is known to Ray before the first one starts.
    step = max(1, CHUNK_TAKES * share.world // plan.batch, count // MOST_TASKS)
    edges = range(share.first_batch, share.last_batch, step)
    rows = [{"first": at, "last": min(at + step, share.last_batch)} for at in edges]
    if not rows:
        return
    work = functools.partial(
        _task, recipe=source, stage=plan.stage, rank=share.rank, world=share.world
    )
    # One block a row: a task is a chunk. Half a CPU each: tasks wait for bytes about as often.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        work, batch_size=1, num_cpus=0.5, zero_copy_batch=True
    )
    low, high = plans.rank_slice(plan.batch, share.rank, share.world)
    iterator: Iterator[Any] = iter(dataset.iter_batches(batch_size=high - low, prefetch_batches=2))
    own_collate = type(plan.plugin).collate is not Plugin.collate
    for batch in iterator:
        yield _recollated(plan.plugin, batch) if own_collate else batch


def _task(batch: dict[str, Any], *, recipe: str, stage: Stage, rank: int, world: int) -> Iterator[Sample]:  # fmt: skip
    plan = _plan(recipe, stage)
    share = Share(int(batch["first"][0]), int(batch["last"][0]), rank, world)
    for part in positions(plan, share):
        rows = list(samples(plan, part))
        if rows:
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@functools.lru_cache(maxsize=4)
def _plan(recipe: str, stage: Stage) -> Plan:
    """The plan in a decode worker: made again from the recipe, once a process."""
    return plans.make(recipes.parse(json.loads(recipe)), stage)


def _recollated(plugin: Plugin, batch: Sample) -> Sample:
    count = len(batch["position"])
    rows: list[Sample] = [{name: column[i] for name, column in batch.items()} for i in range(count)]
    return collated(plugin, rows)
