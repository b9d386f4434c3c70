"""The feed: the plan's takes in the plan's order, alike by thread and by Ray, checked by digest."""

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import api, feed, recipe, storage, video
from clipmill import plan as plans
from clipmill.errors import DataError, PlanError
from clipmill.feed import Share, producer
from clipmill.feed.share import in_blocks
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.takes import View, crop_box
from test_video import moving_square, with_sound
from tiny import recipe_of

STEPS = 9  # more than an epoch of 24 takes in batches of 4


def plan_of(data: str, stage: str = "train", **model: object) -> Plan:
    return plans.make(recipe.load(recipe_of(data={"path": data}, model=model)), stage)  # type: ignore[arg-type]


def got(data: str, share: Share, transport: str = "thread") -> list[Sample]:
    return list(feed.batches(plan_of(data), share, transport=transport))  # type: ignore[arg-type]


def same(one: list[Sample], other: list[Sample]) -> bool:
    assert len(one) == len(other)
    return all(
        set(a) == set(b) and all((a[name] == b[name]).all() for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_batches_are_the_plans_takes_in_order(dataset: str) -> None:
    plan = plan_of(dataset)
    batches = got(dataset, Share(0, STEPS))
    digests = [bytes(d) for batch in batches for d in batch["digest"]]
    assert digests == plan.digests(plan.at(0, STEPS * 4))
    assert np.concatenate([b["position"] for b in batches]).tolist() == list(range(STEPS * 4))
    assert batches[0]["rgb"].shape == (4, 1, 32, 32, 3)
    assert batches[0]["rgb"].dtype == np.uint8


def test_ray_gives_the_same_pixels_as_a_thread(dataset: str) -> None:
    assert same(got(dataset, Share(0, STEPS), "ray"), got(dataset, Share(0, STEPS)))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_join_to_the_same_pixels(dataset: str, world: int) -> None:
    whole = got(dataset, Share(0, STEPS))
    ranks = [got(dataset, Share(0, STEPS, rank, world)) for rank in range(world)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]
    assert same(joined, whole)


def test_a_resumed_feed_gives_the_rest(dataset: str) -> None:
    whole = got(dataset, Share(0, STEPS))
    assert same(got(dataset, Share(5, STEPS)), whole[5:])


@pytest.mark.parametrize(("before", "after", "stop"), [(1, 2, 4), (2, 3, 1), (3, 1, 7), (2, 1, 8)])
def test_a_feed_resumed_on_other_ranks_joins_up(
    dataset: str, before: int, after: int, stop: int
) -> None:
    """Takes and augmented pixels: of two epochs, stopped anywhere, on another number of ranks."""
    steps = 12
    view = View(frames=1, size=32, resize=36, augment=("crop", "flip", "color", "erase"))
    parts = [(before, 0, stop), (after, stop, steps)]
    joined = [
        {name: np.concatenate([part[name] for part in rank_parts]) for name in rank_parts[0]}
        for world, first, last in parts
        for rank_parts in zip(
            *(got(dataset, Share(first, last, rank, world)) for rank in range(world)), strict=True
        )
    ]
    whole = got(dataset, Share(0, steps))
    assert same(joined, whole)
    for one, other in zip(joined, whole, strict=True):
        assert (seen(one, view) == seen(other, view)).all()


def seen(batch: Sample, view: View) -> Any:
    """The batch as the network sees it, each half prepared alone."""
    import torch  # not above: a test sends functions of this module to workers without it

    from clipmill import augment

    halves = [{n: c[at : at + 2] for n, c in batch.items()} for at in (0, 2)]
    made = [augment.prepare(half, view, training=True)["rgb"] for half in halves]
    assert torch.equal(torch.cat(made), augment.prepare(batch, view, training=True)["rgb"])
    return torch.cat(made)


def test_evaluation_gives_every_clip_once_and_nothing_twice(dataset: str) -> None:
    plan = plan_of(dataset, "test")
    count = -(-plan.takes_per_epoch // plan.batch)
    batches = [b for rank in range(2) for b in feed.batches(plan, Share(0, count, rank, 2))]
    positions = np.concatenate([batch["position"] for batch in batches])
    assert sorted(positions.tolist()) == list(range(plan.takes_per_epoch))


def test_the_pixels_are_those_of_a_full_decode(dataset: str) -> None:
    plan = plan_of(dataset)
    batch = next(iter(got(dataset, Share(0, 1))))
    takes, view = plan.at(0, 4), plan.plugin.views()["train"]
    for place in range(4):
        row = plan.catalog.row(int(takes.record[place, 0]))
        every = video.decode_frames(
            plan.catalog.read(row), range(row["frames"]), short_side=view.resize
        )
        whole = every[[int(takes.first[place, 0])]]
        top, left, height, width = crop_box(
            view.resize, view.resize, view.size, int(takes.seed[place]), True
        )
        assert (batch["rgb"][place] == whole[:, top : top + height, left : left + width]).all()


def test_decode_workers_never_import_torch(dataset: str) -> None:
    import ray

    def modules(data: str) -> list[str]:
        import sys

        plan = plan_of(data)
        feed.sample(plan.plugin, plan.lot(plan.at(0, 1)), 0)
        return [name for name in ("torch", "torchvision", "mlflow") if name in sys.modules]

    # A worker of its own: others may have been given torch by other tests.
    alone = ray.remote(modules).options(runtime_env={"env_vars": {"CLIPMILL_ALONE": "1"}})
    assert ray.get(alone.remote(dataset)) == []


def test_a_shard_that_was_changed_stops_the_feed_and_is_named(dataset: str, tmp_path: Path) -> None:
    for path in storage.list_files(dataset):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    plan = plan_of(str(tmp_path))
    shard = str(tmp_path / plan.catalog.row(0)["shard"])
    storage.put(shard, storage.read(shard)[:20_000])
    with pytest.raises(ValueError, match="clipmill verify"):
        list(feed.batches(plan, Share(0, 6)))


def test_takes_that_are_not_the_plans_are_refused(dataset: str) -> None:
    plan = plan_of(dataset)
    batch = next(iter(got(dataset, Share(0, 1))))
    swapped = {name: array[::-1].copy() for name, array in batch.items()}
    with pytest.raises(DataError, match="those of the plan at 0 to 3"):
        producer.check(plan, range(0, 4), swapped, {})
    short = {name: array[:3] for name, array in batch.items()}
    with pytest.raises(DataError, match="those of the plan at 0 to 3"):
        producer.check(plan, range(0, 4), short, {})
    producer.check(plan, range(0, 4), batch, {})


def feeding() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("clipmill-")]


def test_a_closed_feed_leaves_no_thread(dataset: str) -> None:
    with feed.batches(plan_of(dataset), Share(0, STEPS)) as batches:
        next(batches)
    assert feeding() == []
    with pytest.raises(StopIteration):
        next(batches)


def test_an_abandoned_feed_ends_by_itself(dataset: str) -> None:
    for _ in feed.batches(plan_of(dataset), Share(0, STEPS)):
        break
    gc.collect()
    until = time.monotonic() + 20
    while feeding() and time.monotonic() < until:
        time.sleep(0.05)
    assert feeding() == []


@pytest.mark.parametrize("transport", ["thread", "ray"])
def test_nothing_left_to_do_is_no_batch(dataset: str, transport: str) -> None:
    assert got(dataset, Share(5, 5), transport) == []


def test_a_lost_decode_worker_changes_nothing(dataset: str) -> None:
    steps = 60
    whole = got(dataset, Share(0, steps))
    killed, joined = 0, []
    for number, batch in enumerate(
        feed.batches(plan_of(dataset), Share(0, steps), transport="ray")
    ):
        if number in (3, 20):
            killed += kill_decode_workers()
        joined.append({name: column.copy() for name, column in batch.items()})
    assert killed
    assert same(joined, whole)


def kill_decode_workers() -> int:
    """Kill the workers that decode just now, or did last; this process's own Ray alone."""
    names = ("ray::IDLE", "ray::Cache.make", "ray::make")
    count = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if (process.cmdline() or [""])[0].startswith(names):
                os.kill(process.pid, signal.SIGKILL)
                count += 1
        except (psutil.Error, ProcessLookupError):
            continue
    return count


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.integers(1, 20),
)
def test_blocks_hold_every_position_once_and_in_order(sizes: list[int], takes: int) -> None:
    edges = np.cumsum([0, *sizes]).tolist()
    parts = [range(low, high) for low, high in itertools.pairwise(edges)]
    blocks = list(in_blocks(iter(parts), takes))
    assert [p for block in blocks for part in block for p in part] == list(range(edges[-1]))
    assert all(sum(map(len, block)) < 3 * takes for block in blocks)


def test_a_rank_without_a_part_of_the_last_batch_goes_on(dataset: str) -> None:
    plan = replace(plan_of(dataset, "test"), batch=23)  # of 24 clips
    ranks = [list(feed.batches(plan, Share(0, 3, rank, 2))) for rank in range(2)]
    places = [p for batches in ranks for batch in batches for p in batch["position"].tolist()]
    assert sorted(places) == list(range(plan.takes_per_epoch))


def test_more_ranks_than_takes_of_a_batch_are_refused(dataset: str) -> None:
    with pytest.raises(PlanError, match="5"):
        api.feed(recipe_of(data={"path": dataset}), world=5)


def test_a_feed_closes_though_the_cluster_has_no_cpu_for_it(dataset: str) -> None:
    import ray

    @ray.remote(num_cpus=2)
    def hold(seconds: float) -> None:
        time.sleep(seconds)

    held = hold.remote(600)
    batches = feed.batches(plan_of(dataset), Share(0, STEPS), transport="ray")
    time.sleep(1)
    batches.close()
    ray.cancel(held, force=True)
    assert feeding() == []


def test_the_api_feeds_anyones_loop(dataset: str) -> None:
    mine = recipe_of(data={"path": dataset}, train={"steps": STEPS})
    assert same(list(api.feed(mine)), got(dataset, Share(0, STEPS)))
    assert same(list(api.feed(mine, start=4)), got(dataset, Share(4, STEPS)))


def test_a_feed_alone_tells_what_limits(dataset: str) -> None:
    mine = recipe_of(data={"path": dataset})
    fast = api.measure_feed(mine, steps=40, threads=True)
    slow = api.measure_feed(mine, steps=12, step_ms=100, threads=True)
    assert fast["clips"] == 160
    assert fast["wait_share"] > slow["wait_share"]
    assert "limit" in fast["verdict"]
    assert slow["verdict"].startswith("the step limits")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.parametrize(("first", "start"), [(0, 0.0), (30, 1.2), (69, 2.6), (74, 2.6)])
def test_sound_begins_with_the_first_frame_and_ends_within_its_video(
    first: int, start: float
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 48_000).astype(np.float32)
    footage = feed.OfFile(with_sound(moving_square(75), noise))  # of 3 s
    row = {"frames": 75, "fps": 25.0, "height": 48, "width": 64}
    view = View(streams=("audio",), frames=2, rate=5.0, size=32, resize=32)
    seen = feed.decode(footage, row, view, "test", 0, span=(first, first + 5)).streams
    np.testing.assert_array_equal(seen["audio"], footage.sound(start, start + 0.4, 16_000))
    assert seen["heard"] == 1 and np.abs(seen["audio"][-800:]).max() > 0.01
