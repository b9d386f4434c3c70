"""A share of the labels: nested, of each class, decided by seed and keys alone, training only."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill import catalog, recipe
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, RecipeError
from clipmill.plan import Plan
from tiny import catalog_of, recipe_of, rows

labels = st.lists(st.integers(0, 3), min_size=1, max_size=40)
parts = st.floats(0.001, 1)


def of_classes(numbers: list[int]) -> Catalog:
    """A catalog whose records have these classes; of class 3 there is none."""
    some = rows(len(numbers))
    named = [f"class {number}" if number < 3 else None for number in numbers]
    return catalog_of([{**row, "label": name} for row, name in zip(some, named, strict=True)])


def plan_of(
    data: Catalog, share: float, *, seed: int = 0, stage: Any = "train", **told: Any
) -> Plan:
    fields = {"plugin": "temporal_coherence", "width": 0.125, "size": 32, "resize": 36}
    plain = recipe_of(
        data={"share": share, "test": "train", **told}, train={"batch": 1, "seed": seed}
    )
    plain["model"] = fields  # a pretext takes records with and without classes
    return plans.make(recipe.load(plain), stage, data)


def kept(data: Catalog, share: float, **told: Any) -> set[str]:
    return set(plan_of(data, share, **told).catalog.keys)


@given(labels, parts, parts, st.integers(0, 5))
def test_less_is_among_more_and_each_class_has_its_part(
    numbers: list[int], one: float, other: float, seed: int
) -> None:
    data, (less, more) = of_classes(numbers), sorted((one, other))
    few, many = (kept(data, share, seed=seed) for share in (less, more))
    assert few <= many
    for share, keys in ((less, few), (more, many)):
        of_class = Counter(n for key, n in zip(data.keys, numbers, strict=True) if key in keys)
        assert of_class == {n: max(1, round(share * c)) for n, c in Counter(numbers).items()}


@given(labels, parts, st.randoms(use_true_random=False))
def test_what_is_kept_depends_on_no_order_and_on_no_rank(
    numbers: list[int], share: float, chance: Any
) -> None:
    data = of_classes(numbers)
    order = list(range(len(numbers)))
    chance.shuffle(order)
    plain = data.table.to_pylist()
    turned = catalog_of([plain[at] for at in order])
    assert kept(data, share) == kept(turned, share)


def test_another_seed_keeps_others() -> None:
    data = of_classes([0, 1] * 200)
    sets = [kept(data, 0.1, seed=seed) for seed in range(3)]
    assert all(len(each) == 40 for each in sets)
    assert all(len(sets[a] & sets[b]) < 15 for a, b in ((0, 1), (0, 2), (1, 2)))  # 4 by chance


def test_only_training_has_less() -> None:
    data = of_classes([0, 1] * 10)
    assert len(plan_of(data, 0.1).catalog) == 2
    for stage in ("val", "test"):
        assert plan_of(data, 0.1, stage=stage, validate="train").digest == (
            plan_of(data, 1.0, stage=stage, validate="train").digest
        )


def test_the_share_is_in_the_digest_and_all_of_it_is_as_without() -> None:
    data = of_classes([0, 1] * 20)
    digests = [plan_of(data, s, seed=d).digest for s, d in ((1.0, 0), (0.5, 0), (0.1, 0))]
    assert len(set(digests)) == 3
    half, whole = (recipe.load(recipe_of(data={"share": share})) for share in (0.5, 1.0))
    without = recipe.load(recipe_of())
    assert "share" not in without.data.decisive() and whole.identity() == without.identity()
    assert half.differences(without) == ["data.share"] and half.identity() != without.identity()
    assert len(plan_of(data, 1.0).catalog) == 40


def test_takes_are_of_what_is_kept() -> None:
    data = of_classes([0, 1] * 30)
    plan = plan_of(data, 0.1, clips=3)
    found = Counter(key for (key, *_) in plan.key_lists(plan.epoch(0)))
    assert found == dict.fromkeys(plan.catalog.keys, 3) and len(found) == 6
    lot = plan.lot(plan.at(0, 18))
    assert {row["key"] for row in lot.rows} >= set(found)


def test_datasets_with_weights_are_shared_apart() -> None:
    def named(name: str, count: int) -> Catalog:
        some = [{**row, "key": f"{name}{row['key']}"} for row in rows(count)]
        made = catalog_of(some)
        return Catalog(name, made.table, {**made.meta, "profile": {}})

    both = catalog.joined([named("a", 40), named("b", 4)])
    path = [{"path": "a", "weight": 1}, {"path": "b", "weight": 1}]
    weighed = Counter(key[0] for key in kept(both, 0.1, path=path))
    assert weighed == {"a": 4, "b": 2}  # of each class of each dataset one at the least
    assert Counter(key[0] for key in kept(both, 1.0, path=path)) == {"a": 40, "b": 4}
    assert sum(Counter(key[0] for key in kept(both, 0.1)).values()) == 4


def test_too_few_for_a_batch_are_told_how_to_fill_it() -> None:
    plain = recipe_of(data={"share": 0.1}, train={"batch": 16})
    data = catalog_of(rows(50))
    with pytest.raises(PlanError, match=r"batch=4 or less, or data.clips=4 for several clips"):
        plans.make(recipe.load(plain), "train", data)
    plain["data"]["clips"] = 4
    plan = plans.make(recipe.load(plain), "train", data)
    counted = defaultdict(int)
    for epoch in range(2):
        for record in plan.epoch(epoch).record[:, 0].tolist():
            counted[record] += 1
    assert set(counted.values()) == {8} and np.unique(plan.epoch(0).seed).size == 16


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_a_share_is_more_than_none_and_not_more_than_all(share: float) -> None:
    with pytest.raises(RecipeError, match="data.share"):
        recipe.load(recipe_of(data={"share": share}))
