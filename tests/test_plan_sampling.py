"""What a recipe asks of an epoch: weights, balance, clips, curriculum, aligned spans, negatives.

The oracle is short and independent: the takes of many epochs in their order, cut by group into
pieces as long as the group, must be permutations of it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import catalog, recipe
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, DataError, PlanError, UsageError
from clipmill.plan import Plan, Sampling
from clipmill.plan.sorting import in_order
from clipmill.plugin import Plugin, beside, random_spans, triplets
from clipmill.takes import Draw, Stage, Takes, View
from tiny import catalog_of, recipe_of, rows

PLUGIN = recipe.load(recipe_of()).plugin()

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)
weights = st.lists(st.sampled_from([0.2, 1.0, 2.0, 3.5]), min_size=4, max_size=4)


def dataset(count: int, name: str, *, classes: int = 2, **changes: Any) -> Catalog:
    """A catalog in memory; shards are called the same in all."""
    some = rows(count, classes=classes, shards=2 if count > 1 else 1)
    made = catalog_of([{**row, **changes, "key": f"{name}{row['key']}"} for row in some])
    return Catalog(name, made.table, {**made.meta, "profile": {"name": "training", "k": len(name)}})


def several(sizes: list[int], **changes: Any) -> Catalog:
    return catalog.joined([dataset(n, "abcd"[at], **changes) for at, n in enumerate(sizes)])


def plan_of(
    data: Catalog, sampling: Sampling, *, batch: int = 1, seed: int = 0, window: int = 0
) -> Plan:
    return Plan(data, PLUGIN, "train", seed, batch, window, sampling)


def check_cycles(plan: Plan, group: list[int], shares: list[float], epochs: int) -> None:
    """Each group comes in its share, as one permutation after another."""
    count, size = len(group), Counter(group)
    stream: dict[int, list[int]] = defaultdict(list)
    for epoch in range(epochs):
        records = plan.epoch(epoch).record[:, 0].tolist()
        assert len(records) == count
        found = Counter(group[record] for record in records)
        if all(share * count >= 1 for share in shares):
            assert all(abs(found[g] - share * count) < 1 for g, share in enumerate(shares))
        for record in records:
            stream[group[record]].append(record)
    for number, seen in stream.items():
        members = {record for record in range(count) if group[record] == number}
        pieces = [seen[at : at + len(members)] for at in range(0, len(seen), len(members))]
        assert all(set(piece) == members for piece in pieces if len(piece) == size[number])
        assert all(len(set(piece)) == len(piece) for piece in pieces)


@given(sizes, weights, st.sampled_from([0, 3, 1000]))
@settings(deadline=None, max_examples=40)
def test_weighted_datasets_cycle_in_their_shares(
    sizes: list[int], weights: list[float], window: int
) -> None:
    told = weights[: len(sizes)]
    plan = plan_of(several(sizes), Sampling(weights=tuple(told)), window=window)
    group = np.repeat(np.arange(len(sizes)), sizes).tolist()
    check_cycles(plan, group, [weight / sum(told) for weight in told], 4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_balanced_classes_have_equal_shares_and_cycle(labels: list[int]) -> None:
    some = [
        {**row, "label": f"class {n}"} for row, n in zip(rows(len(labels)), labels, strict=True)
    ]
    plan = plan_of(catalog_of(some), Sampling(balance="class"))
    there = sorted(set(labels))
    check_cycles(plan, [there.index(n) for n in labels], [1 / len(there)] * len(there), 4)


def test_balance_and_weights_go_together() -> None:
    data = several([60, 20], classes=3)
    found: Counter[tuple[int, int]] = Counter()
    plan = plan_of(data, Sampling(weights=(1.0, 3.0), balance="class"))
    for epoch in range(3):
        record = plan.epoch(epoch).record[:, 0]
        found.update(zip(data.datasets[record].tolist(), data.labels[record].tolist(), strict=True))
    assert all(abs(found[0, label] - 20) <= 3 for label in range(3))
    assert all(abs(found[1, label] - 60) <= 3 for label in range(3))


@given(st.integers(1, 20), st.integers(2, 4), st.integers(0, 5), st.sampled_from([0, 4]))
@settings(deadline=None, max_examples=30)
def test_clips_of_a_video_follow_one_another(
    count: int, clips: int, epoch: int, window: int
) -> None:
    plan = plan_of(catalog_of(rows(count)), Sampling(clips=clips), window=window)
    takes = plan.epoch(epoch)
    visits = takes.record[:, 0].reshape(-1, clips)
    assert (visits == visits[:, :1]).all()
    assert sorted(visits[:, 0].tolist()) == list(range(count))
    assert len(set(takes.seed.tolist())) == count * clips


def test_clips_of_a_video_are_at_other_places() -> None:
    takes = plan_of(catalog_of(rows(200)), Sampling(clips=2)).epoch(0)
    first = takes.first.reshape(-1, 2)
    assert (first[:, 0] != first[:, 1]).mean() > 0.9


@pytest.mark.parametrize("descending", [False, True])
def test_a_curriculum_begins_with_the_easy_and_ends_with_all(descending: bool) -> None:
    motion = np.random.default_rng(0).permutation(40) / 40
    some = [{**row, "motion": m} for row, m in zip(rows(40), motion.tolist(), strict=True)]
    some[7]["motion"] = None  # what has no value comes last
    easy = Sampling(easy_by="motion", easy_until=3, easy_descending=descending)
    plan, twin = plan_of(catalog_of(some), easy), plan_of(catalog_of(some), Sampling())
    hardness = [(-m if descending else m) if i != 7 else 9 for i, m in enumerate(motion)]
    easiest = sorted(range(40), key=lambda row: hardness[row])
    for epoch, count in enumerate((10, 20, 30)):
        found = Counter(plan.epoch(epoch).record[:, 0].tolist())
        assert set(found) == set(easiest[:count])
        assert sum(found.values()) == 40 and max(found.values()) - min(found.values()) <= 1
    assert plan.digests(plan.epoch(3)) == twin.digests(twin.epoch(3))


def test_a_curriculum_leaves_out_no_group() -> None:
    some = [{**row, "motion": i / 40} for i, row in enumerate(rows(40, classes=1))]
    for row in some[20:]:
        row["label"] = "late"
    easy = Sampling(balance="class", easy_by="motion", easy_until=3)
    record = plan_of(catalog_of(some), easy).epoch(0).record[:, 0]
    assert Counter((record // 20).tolist()) == {0: 20, 1: 20}
    assert {*range(20, 25)} <= set(record.tolist()) <= {*range(25)}


def test_a_curriculum_by_an_attribute_and_by_nothing() -> None:
    some = [{**row, "attributes": {"level": str(i)}} for i, row in enumerate(rows(10))]
    easy = Sampling(easy_by="attributes.level", easy_until=1)
    assert set(plan_of(catalog_of(some), easy).epoch(0).record[:, 0].tolist()) == set(range(5))
    with pytest.raises(PlanError, match=r"motion, of which no record.*--curate"):
        plan_of(catalog_of(some), Sampling(easy_by="motion", easy_until=1)).epoch(0)
    with pytest.raises(UsageError, match=r"'label' is no column of numbers"):
        plan_of(catalog_of(some), Sampling(easy_by="label", easy_until=1)).epoch(0)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(weights=(1.0, 4.0)),
        Sampling(balance="class"),
        Sampling(clips=2),
        Sampling(easy_by="frames", easy_until=3),
        Sampling(weights=(1.0, 2.0), balance="class", clips=3),
    ],
)
@pytest.mark.parametrize("window", [0, 5])
def test_the_laws_hold_for_every_sampling(sampling: Sampling, window: int) -> None:
    data = several([9, 5])
    plan = plan_of(data, sampling, batch=3, window=window)
    total = 3 * plan.takes_per_epoch
    whole = plan.digests(plan.at(0, total))
    other = plan_of(data, sampling, batch=3, window=window)
    cuts = [0, 1, 7, total // 2, total]
    parts = [other.at(a, b) for a, b in reversed(list(pairwise(cuts)))]
    assert [d for part in reversed(parts) for d in other.digests(part)] == whole
    first, second = (plan.digests(plan.epoch(epoch)) for epoch in (0, 1))
    assert first != second and not set(first) & set(second)
    reseeded = plan_of(data, sampling, batch=3, window=window, seed=1)
    assert not set(reseeded.digests(reseeded.epoch(0))) & set(first)
    assert len({plan.digest, reseeded.digest, plan_of(data, Sampling(), batch=3).digest}) == 3


def test_a_window_keeps_to_few_shards_of_each_dataset() -> None:
    data = several([400, 400])
    record = plan_of(data, Sampling(weights=(1.0, 1.0)), window=100).epoch(0).record[:, 0]
    shard = record // 200  # of two in each dataset, called the same
    for at in range(0, 800, 200):
        assert len(set(shard[at + 20 : at + 180].tolist())) <= 3
    plain = plan_of(data, Sampling(), window=200).epoch(0).record[:, 0] // 200
    assert all(len(set(plain[at : at + 200].tolist())) == 1 for at in range(0, 800, 200))


def test_aligned_spans_begin_at_reference_frames_in_training_alone() -> None:
    data = catalog.joined([dataset(30, "abc"), dataset(30, "abcdefg")])  # k of 3 and of 7
    plain, aligned = (plan_of(data, Sampling(aligned=is_so)) for is_so in (False, True))
    before, after = plain.epoch(0), aligned.epoch(0)
    step = np.where(before.record < 30, 3, 7)
    assert (after.record == before.record).all() and (after.seed == before.seed).all()
    assert (after.first == before.first // step * step).all() and (before.first % step).any()
    assert (after.last - after.first == before.last - before.first).all()
    tests = [
        Plan(data, PLUGIN, "test", 0, 4, 0, Sampling(aligned=a)).epoch(0) for a in (True, False)
    ]
    assert (tests[0].first == tests[1].first).all()
    keep = Catalog("x", data.table, {"classes": data.classes, "profile": {"name": "keep", "k": 6}})
    assert (plan_of(keep, Sampling(aligned=True)).epoch(0).first == before.first).all()


# --- plugins that need several records


class Triple(Plugin):
    """Anchor, positive and negative, whatever the epoch repeats."""

    name: ClassVar[str] = "triple"
    family: ClassVar[str] = "similar"

    def views(self) -> Mapping[str, View]:
        return {"train": View(), "test": View()}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        found = triplets(catalog.labels, draw, negatives=catalog.negatives, records=catalog.records)
        columns = catalog.column("frames"), catalog.column("fps"), View()
        spans = [
            random_spans(*columns, draw.apart(name))[chosen]
            for name, chosen in (("a", found.anchor), ("p", found.positive), ("n", found.negative))
        ]
        return beside(spans)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(balance="class"), Sampling(clips=2), Sampling(weights=(1, 2))]
)
def test_triplets_stay_valid_where_an_epoch_repeats_records(sampling: Sampling) -> None:
    data = several([30, 6], classes=3)
    for epoch in range(3):
        takes = Plan(data, Triple(), "train", 0, 2, 0, sampling).epoch(epoch)
        anchor, positive, negative = takes.record.T
        assert len(takes) == 36 * sampling.clips
        assert (anchor != positive).all()
        assert (data.labels[anchor] == data.labels[positive]).all()
        assert (data.labels[anchor] != data.labels[negative]).all()


@pytest.mark.parametrize("seed", range(4))
def test_small_classes_in_balance_give_every_epoch_as_many_triplets(seed: int) -> None:
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 5]  # some without a partner, some turns twice
    data = catalog_of([{**row, "label": f"c{labels[at]}"} for at, row in enumerate(rows(12))])
    plan = Plan(data, Triple(), "train", seed, 2, 0, Sampling(balance="class"))
    for epoch in range(20):
        takes = plan.epoch(epoch)
        anchor, positive, negative = takes.record.T
        assert len(takes) == plan.takes_in_catalog
        assert (data.labels[anchor] == data.labels[positive]).all() and (anchor != positive).all()
        assert (data.labels[anchor] != data.labels[negative]).all()


def test_the_digest_knows_the_order_of_records_and_under_a_window_their_shards() -> None:
    table, meta = catalog_of(rows(12)).table, {"classes": ["class 0", "class 1"]}
    one = Catalog("x", table, meta)
    turned = Catalog("x", table.take(list(range(11, -1, -1))), meta)
    resharded = catalog_of([{**row, "shard": f"s{at % 4}"} for at, row in enumerate(rows(12))])
    assert one.digest == turned.digest == resharded.digest
    for window, alike in ((0, True), (4, False)):
        plan, other, third = (
            plan_of(c, Sampling(), window=window) for c in (one, turned, resharded)
        )
        assert plan.digest != other.digest
        assert (plan.digest == third.digest) == alike


def negatives_file(folder: Path, told: Mapping[str, list[str]]) -> str:
    path = str(folder / "negatives.parquet")
    lists = pa.array(list(told.values()), pa.list_(pa.string()))
    pq.write_table(pa.table({"key": list(told), "keys": lists}), path)
    return path


def test_stored_negatives_are_taken_also_where_records_repeat(tmp_path: Path) -> None:
    plain = rows(12, classes=3)
    key = [row["key"] for row in plain]
    path = negatives_file(tmp_path, {key[0]: [key[4], key[3], "nobody"], "none": [key[1]]})
    data = catalog_of(plain).with_negatives(path)
    for sampling in (Sampling(), Sampling(clips=3), Sampling(balance="class")):
        takes = Plan(data, Triple(), "train", 0, 2, 0, sampling).epoch(1)
        hard = takes.record[takes.record[:, 0] == 0, 2]
        assert len(hard) >= 1 and set(hard.tolist()) == {4}, "3 is of its own class"


def test_negatives_enter_the_plans_digest(tmp_path: Path) -> None:
    folder, key = tmp_path / "data", [row["key"] for row in rows(12)]
    made = catalog_of(rows(12))
    catalog.save(str(folder), made.table, dict(made.meta))
    given = recipe.load(recipe_of(data={"path": str(folder), "negatives": "negatives.parquet"}))
    found = set()
    for each in (key[1], key[3]):
        negatives_file(folder, {key[0]: [each]})
        plan = plans.make(given, "train")
        found.add(plan.digest)
        assert plan.catalog.negatives is not None and len(plan.catalog.negatives[1]) == 1
    assert len(found) == 2
    (folder / "negatives.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"negatives\.parquet cannot be read.*columns key"):
        assert plans.make(given, "train").catalog.negatives
    with pytest.raises(ClipmillError, match="is not there"):
        plans.make(recipe.load(given.model_dump(by_alias=True), ["data.negatives=nosuch"]), "train")


# --- recipes of several datasets


def test_a_recipe_mixes_datasets(tmp_path: Path) -> None:
    for name, count in (("one", 10), ("two", 30)):
        made = dataset(count, name)
        catalog.save(str(tmp_path / name), made.table, dict(made.meta))
    told = [
        {"path": str(tmp_path / "one"), "weight": 3},
        {"path": str(tmp_path / "two"), "weight": 1, "where": "label == 'class 0'"},
    ]
    plan = plans.make(recipe.load(recipe_of(data={"path": told})), "train")
    assert len(plan.catalog) == 25 and plan.catalog.classes == ("class 0", "class 1")
    takes = plan.epoch(0)
    assert Counter(plan.catalog.datasets[takes.record[:, 0]].tolist()) == {0: 19, 1: 6}
    lot = plan.lot(takes[:20])
    assert {row["folder"] for row in lot.rows} == {str(tmp_path / "one"), str(tmp_path / "two")}
    told[0]["where"] = "fps > 99"
    with pytest.raises(PlanError, match=r"one has no records to take.*leave it out of data\.path"):
        plans.make(recipe.load(recipe_of(data={"path": told})), "train")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.integers(0, 3), st.booleans())
@settings(deadline=None)
def test_sorting_is_that_of_numpy(keys: list[int], seed: int, wide: bool) -> None:
    chance = Draw(seed).bits("x", np.arange(len(keys)))
    first = np.array(keys) * (1 << 45 if wide else 1)  # wide ones leave no room for chance
    second = np.arange(len(keys))[::-1] % 3
    wanted = np.lexsort((chance, second, first)).tolist()
    assert in_order(len(keys), [first, second], chance).tolist() == wanted
    assert in_order(len(keys), [first]).tolist() == np.argsort(first, kind="stable").tolist()
