"""The plan's laws: order, ranks, parts, seeds; and what it refuses."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import plan as plans
from clipmill import recipe
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, UsageError
from clipmill.plan import Plan
from clipmill.plugin import make
from clipmill.takes import Draw, Stage, Takes, View
from clipmill_classify.single_frame import SingleFrame
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


def test_a_new_field_at_its_default_makes_no_other_takes() -> None:
    class Newer(SingleFrame):
        later: int = 3

    given, fields = plan_of(20, 5), PLUGIN.model_dump()
    same, other = (replace(given, plugin=Newer(**fields, **more)) for more in ({}, {"later": 4}))
    assert given.digest == same.digest != other.digest
    assert given.digest_with_defaults != same.digest_with_defaults
    assert given.digest != given.digest_with_defaults


def test_masks_whose_numbers_are_named_anew_make_another_plan() -> None:
    bare = plan_of(20, 5)
    told = [
        replace(bare, catalog=replace(bare.catalog, meta={**bare.catalog.meta, "mask_classes": n}))
        for n in ([], ["a", "b"], ["b", "a"])
    ]
    assert bare.digest == told[0].digest
    assert len({each.digest for each in told}) == 3
    assert len({each.digest_with_defaults for each in told}) == 1


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


@pytest.mark.parametrize("fps", [0.0, -25.0, float("nan"), float("inf"), None])
def test_records_without_a_frame_rate_are_refused_or_left_out(fps: float | None) -> None:
    told = rows(10)
    told[3]["fps"] = fps
    words = f"1 of 10 records of nowhere have no frame rate, such as {told[3]['key']}.*fps > 0"
    with pytest.raises(PlanError, match=words):
        plans.make(recipe.load(recipe_of()), "train", catalog_of(told))
    if fps != float("inf"):
        without = recipe.load(recipe_of(data={"where": "fps > 0"}))
        assert plans.make(without, "train", catalog_of(told)).takes_in_catalog == 9


def test_substitutes_are_the_other_takes_of_the_epoch_in_a_fixed_order() -> None:
    plan, position = plan_of(23, 5), 27  # the 8th of the second epoch
    epoch = plan.epoch(1)
    found = [plan.substitute(position, attempt) for attempt in range(22)]
    records = [int(each.record[0, 0]) for each in found]
    assert sorted(records) == sorted(set(range(23)) - {int(epoch.record[7, 0])})
    spans = {
        int(r): int(first) for r, first in zip(epoch.record[:, 0], epoch.first[:, 0], strict=True)
    }
    assert [spans[record] for record in records] == [int(each.first[0, 0]) for each in found]
    assert {int(each.seed[0]) for each in found} == {int(epoch.seed[7])}
    again = [int(plan_of(23, 5).substitute(position, n).record[0, 0]) for n in range(22)]
    assert again == records
    assert [int(plan.substitute(28, n).record[0, 0]) for n in range(22)] != records


def test_substitutes_depend_on_neither_batch_nor_what_was_asked_before() -> None:
    wanted = [plan_of(40, 5).substitute(place, 3).record[0, 0] for place in range(30)]
    other = plan_of(40, 10)
    other.at(60, 80)
    assert [other.substitute(place, 3).record[0, 0] for place in range(30)] == wanted


def test_a_dataset_of_bad_clips_alone_runs_out_of_substitutes() -> None:
    with pytest.raises(PlanError, match=r"the 2 others of its epoch.*clipmill verify --deep"):
        plan_of(3, 1).substitute(0, 2)


def test_a_plugin_whose_epochs_differ_in_length_is_told() -> None:
    class Shrinking(SingleFrame):
        def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
            return super().plan(catalog, stage, draw)[: len(catalog) - draw.epoch]

    plan = Plan(catalog_of(rows(9)), Shrinking(), "train", 0, 3)
    with pytest.raises(PlanError, match="single_frame made 8 takes in epoch 1; wanted 9"):
        plan.at(9, 12)


# --- warnings and the dump


def test_what_the_records_lack_is_told() -> None:
    some = rows(10)
    some[0] |= {"frames": 20}
    some[1] |= {"fps": 4.0}
    some[2] |= {"height": 35}
    plan = Plan(catalog_of(some), Listener(), "train", 0, 4)
    assert plans.warnings(plan) == [
        "2 takes of each epoch fill no batch and are left for the next order",
        "1 of 10 videos are shorter than a clip: their last frame stands still",
        "1 of 10 videos are of fewer than 5 frames a second: frames repeat",
        "1 of 10 videos are smaller than 40 pixels: they are scaled up",
        "10 of 10 videos are without sound: it is silence",
        "1 of 10 videos are shorter than a clip: their sound ends in silence",
    ]
    sound = catalog_of([{**row, "has_audio": True} for row in rows(8)])
    assert plans.warnings(Plan(sound, Listener(), "train", 0, 4)) == []


def test_takes_that_fit_their_videos_are_told_of_no_short_ones() -> None:
    some = rows(9)
    some[0] |= {"frames": 20}
    some[1] |= {"fps": 4.0}
    some[2] |= {"frames": 7}
    small = {"width": 0.125, "size": 32, "resize": 36, "frames": 16}
    whole = make("cnn_rnn", {**small, "span": "video"})
    plan = Plan(catalog_of(some), whole, "train", 0, 3)
    assert plans.warnings(plan) == ["1 of 9 videos are of fewer than 16 frames: frames repeat"]
    seen = Plan(catalog_of(some), make("cnn_rnn", {**small, "features": 8}), "train", 0, 3)
    assert not any("scaled up" in told for told in plans.warnings(seen)), "of features no pixel is"


def test_what_learns_in_one_pass_leaves_no_takes() -> None:
    small = {"width": 0.125, "size": 32, "resize": 36}
    machine, network = (
        Plan(catalog_of(rows(10)), make(name, small), "train", 0, 4)
        for name in ("frame_descriptors", "pooled")
    )
    assert plans.warnings(machine) == []
    assert [told.split()[0] for told in plans.warnings(network)] == ["2"]


def test_rows_that_do_not_stay_in_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipmill.plan.making.ROWS_IN_MEMORY", 19)
    (told,) = plans.warnings(plan_of(20, 5))
    assert "the rows of 20 records" in told and "set data.window=100000" in told
    assert plans.warnings(plan_of(20, 5, window=8)) == []


class Listener(SingleFrame):
    """Sees and hears sixteen frames."""

    def views(self) -> Mapping[str, View]:
        view = View(streams=("rgb", "audio"), size=32, resize=40)
        return {"train": view, "test": view}


def test_the_dump_tells_the_rank_of_each_take() -> None:
    plan = plan_of(20, 5)
    (table,) = plans.tables(plan, epochs=2, world=2)
    assert table["rank"].to_pylist() == [0, 0, 1, 1, 1] * 8
    assert table["epoch"].to_pylist() == [0] * 20 + [1] * 20
    assert table["position"].to_pylist() == list(range(40))
    assert len({tuple(keys) for keys in table["keys"].to_pylist()[:20]}) == 20
    takes = plan.at(0, 40)
    assert table["seed"].to_pylist() == takes.seed.tolist()
    assert table["spans"].to_pylist() == np.stack([takes.first, takes.last], 2).tolist()


def test_a_dump_in_pieces_is_that_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "takes.parquet")
    (whole,) = plans.tables(plan_of(20, 5), epochs=2, world=2)
    monkeypatch.setattr("clipmill.plan.table.PIECE_TAKES", 7)
    plans.dump(plan_of(20, 5), 2, 2, path)
    assert pq.read_table(path).equals(whole)
    plans.dump(plan_of(20, 5), 1, 1, path)  # over an older one
    assert len(pq.read_table(path)) == 20


def test_a_dump_overwrites_nothing_else(tmp_path: Path) -> None:
    mine, notes = tmp_path / "mine.parquet", tmp_path / "notes.txt"
    pq.write_table(catalog_of(rows(3)).table, mine)
    notes.write_text("mine")
    for path in (mine, notes, tmp_path):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(UsageError, match="is there and is no plan; wanted a new file"):
            plans.dump(plan_of(20, 5), 1, 1, str(path))
        assert not path.is_file() or path.read_bytes() == before


def test_threads_at_different_epochs_find_theirs() -> None:
    plan = plan_of(12, 12)
    wanted = [plan_of(12, 12).epoch(epoch).seed.tolist() for epoch in range(60)]

    def walk(start: int) -> bool:
        return all(plan.epoch(epoch).seed.tolist() == wanted[epoch] for epoch in range(start, 60))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(walk, (0, 3, 5, 9)))
