"""The feed: the plan's takes in the plan's order, alike by thread and by Ray, checked by digest."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipmill import feed, recipe, shards, storage
from clipmill import plan as plans
from clipmill.errors import DataError
from clipmill.feed import Share
from clipmill.plan import Plan
from clipmill.plugin import Sample
from tiny import recipe_of

STEPS = 9  # more than an epoch of 24 takes in batches of 4


def plan_of(data: str, stage: str = "train") -> tuple[Plan, dict[str, object]]:
    made = recipe.load(recipe_of(data={"path": data}))
    return plans.make(made, stage), made.plain()  # type: ignore[arg-type]


def got(data: str, share: Share, transport: str = "thread") -> list[Sample]:
    plan, plain = plan_of(data)
    return list(feed.batches(plan, share, plain, transport))  # type: ignore[arg-type]


def same(one: list[Sample], other: list[Sample]) -> bool:
    assert len(one) == len(other)
    return all(
        set(a) == set(b) and all((a[name] == b[name]).all() for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_batches_are_the_plans_takes_in_order(dataset: str) -> None:
    plan, _ = plan_of(dataset)
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


def test_evaluation_gives_every_clip_once_and_nothing_twice(dataset: str) -> None:
    plan, plain = plan_of(dataset, "test")
    count = -(-plan.takes_per_epoch // plan.batch)
    batches = [b for rank in range(2) for b in feed.batches(plan, Share(0, count, rank, 2), plain)]
    positions = np.concatenate([batch["position"] for batch in batches])
    assert sorted(positions.tolist()) == list(range(plan.takes_per_epoch))


def test_decode_workers_never_import_torch(dataset: str) -> None:
    import ray

    def modules(data: str) -> list[str]:
        import sys

        plan, _ = plan_of(data)
        next(feed.samples(plan, [0]))
        return [name for name in ("torch", "torchvision", "mlflow") if name in sys.modules]

    # A worker of its own: others may have been given torch by other tests.
    alone = ray.remote(modules).options(runtime_env={"env_vars": {"CLIPMILL_ALONE": "1"}})
    assert ray.get(alone.remote(dataset)) == []


def test_a_shard_that_was_changed_stops_the_feed_and_is_named(dataset: str, tmp_path: Path) -> None:
    for path in storage.list_files(dataset):
        storage.put(str(tmp_path / Path(path).name), storage.read(path))
    plan, plain = plan_of(str(tmp_path))
    shard = str(tmp_path / plan.catalog.row(0)["shard"])
    storage.put(shard, storage.read(shard)[:20_000])
    with pytest.raises(ValueError, match="clipmill verify"):
        list(feed.batches(plan, Share(0, 6), plain))


def test_takes_that_are_not_the_plans_are_refused(dataset: str) -> None:
    plan, _ = plan_of(dataset)
    batch = next(iter(got(dataset, Share(0, 1))))
    swapped = {name: array[::-1].copy() for name, array in batch.items()}
    with pytest.raises(DataError, match="those of the plan at 0 to 3"):
        feed._check(plan, range(0, 4), swapped)
    feed._check(plan, range(0, 4), batch)


def test_an_abandoned_feed_ends_its_thread(dataset: str) -> None:
    import threading

    plan, plain = plan_of(dataset)
    batches = feed.batches(plan, Share(0, STEPS), plain)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert "clipmill-feed" not in [thread.name for thread in threading.enumerate()]


def test_the_recipe_goes_to_workers_as_json(dataset: str) -> None:
    _, plain = plan_of(dataset)
    assert feed._plan(json.dumps(plain), "train").digest == plan_of(dataset)[0].digest
    assert isinstance(next(shards.read(storage.list_files(dataset)[-1])), shards.Record)


@pytest.mark.parametrize("transport", ["thread", "ray"])
def test_nothing_left_to_do_is_no_batch(dataset: str, transport: str) -> None:
    assert got(dataset, Share(5, 5), transport) == []
