"""The plan's laws: order, ranks, parts, seeds; and what it refuses."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import plan as plans
from clipmill import recipe
from clipmill.errors import PlanError
from clipmill.plan import Plan
from tiny import catalog_of, recipe_of, rows

PLUGIN = recipe.load(recipe_of()).plugin()


def plan_of(records: int, batch: int, *, seed: int = 0, window: int = 0, shards: int = 1) -> Plan:
    catalog = catalog_of(rows(records, shards=shards))
    return Plan(catalog, PLUGIN, "train", seed, batch, window)


sizes = st.tuples(st.integers(1, 60), st.integers(1, 60)).filter(lambda s: s[1] <= s[0])


@given(sizes, st.integers(0, 3), st.sampled_from([0, 1, 5, 1000]), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_an_epoch_is_a_permutation(
    size: tuple[int, int], epoch: int, window: int, shards: int
) -> None:
    plan = plan_of(*size, window=window, shards=shards)
    assert sorted(plan.epoch(epoch).record[:, 0].tolist()) == list(range(size[0]))


@given(sizes, st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_ranks_join_to_the_global_order(size: tuple[int, int], world: int) -> None:
    plan = plan_of(*size)
    digests = plan.digests(plan.at(0, plan.takes_per_epoch * 2))
    joined = []
    for batch in range(2 * plan.takes_per_epoch // plan.batch):
        for rank in range(world):
            low, high = plans.rank_slice(plan.batch, rank, world)
            start = batch * plan.batch
            joined += plan.digests(plan.at(start + low, start + high))
    assert joined == digests


@given(sizes, st.data())
@settings(deadline=None, max_examples=60)
def test_parts_of_any_cut_join_up(size: tuple[int, int], data: st.DataObject) -> None:
    plan = plan_of(*size)
    total = plan.takes_per_epoch * 3
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=5)))
    edges = [0, *cuts, total]
    parts = [plan.digests(plan.at(a, b)) for a, b in pairwise(edges)]
    assert [digest for part in parts for digest in part] == plan.digests(plan.at(0, total))


def test_seed_and_epoch_change_order_and_spans() -> None:
    takes = [plan_of(200, 10, seed=seed).epoch(epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (takes[one].record != takes[other].record).mean() > 0.9
        assert len(set(takes[one].seed) & set(takes[other].seed)) == 0


def test_seeds_are_given_by_position_not_by_record() -> None:
    assert (plan_of(50, 5).epoch(0).seed == plan_of(50, 10, window=7).epoch(0).seed).all()


def test_the_incomplete_batch_is_dropped_in_training_only() -> None:
    plan = plan_of(23, 5)
    assert (plan.takes_in_catalog, plan.takes_per_epoch) == (23, 20)
    dropped = [set(range(23)) - set(plan.epoch(e)[:20].record[:, 0].tolist()) for e in range(5)]
    assert len(set(map(frozenset, dropped))) > 1, "every epoch drops the same records"
    test = Plan(plan.catalog, PLUGIN, "test", 0, 5)
    assert Counter(test.at(0, test.takes_per_epoch).record[:, 0].tolist()) == {
        record: PLUGIN.test_clips for record in range(23)
    }


def test_a_window_keeps_to_few_shards() -> None:
    plan = plan_of(1000, 10, window=100, shards=10)
    shard = plan.epoch(0).record[:, 0] // 100
    assert all(len(set(shard[at : at + 100].tolist())) <= 2 for at in range(0, 1000, 100))
    assert len(set(plan_of(1000, 10, shards=10).epoch(0).record[:100, 0] // 100)) == 10


def test_the_digest_holds_all_that_decides_the_takes() -> None:
    digests = {
        plan_of(20, 5).digest, plan_of(21, 5).digest, plan_of(20, 4).digest,
        plan_of(20, 5, seed=1).digest, plan_of(20, 5, window=3).digest,
    }  # fmt: skip
    assert len(digests) == 5
    assert plan_of(20, 5).digest == plan_of(20, 5).digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"train": "nosuch"}}, "split 'nosuch' .* has no records.*splits {'train': 10}"),
        ({"data": {"where": "fps > 99"}}, "no records where fps > 99"),
        ({"train": {"batch": 11}}, "set train.batch=10 or less"),
        ({"train": {"batch": 2, "workers": 3}}, "at least one take of every batch"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, dict[str, object]], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        plans.make(recipe.load(recipe_of(**changes)), "train", catalog_of(rows(10)))


def test_the_dump_tells_the_rank_of_each_take() -> None:
    table = plans.table(plan_of(20, 5), epochs=2, world=2)
    assert np.asarray(table["rank"]).tolist() == [0, 0, 1, 1, 1] * 8
    assert table["epoch"] == [0] * 20 + [1] * 20
    assert len({tuple(map(str, keys)) for keys in table["keys"][:20]}) == 20  # type: ignore[attr-defined]


def test_threads_at_different_epochs_find_theirs() -> None:
    plan = plan_of(12, 12)
    wanted = [plan_of(12, 12).epoch(epoch).seed.tolist() for epoch in range(60)]

    def walk(start: int) -> bool:
        return all(plan.epoch(epoch).seed.tolist() == wanted[epoch] for epoch in range(start, 60))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(walk, (0, 3, 5, 9)))
