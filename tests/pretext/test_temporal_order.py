"""Temporal order: what its plans promise, true answers, bad input, and an exact resume."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipmill import api, contract, launch, recipe, storage
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, RecipeError
from clipmill.plan import Plan
from clipmill.plugin import Decoded, Info, make
from clipmill.takes import Stage, generator
from clipmill_pretext.temporal_order import TemporalOrder
from tiny import catalog_of, recipe_of, rows

SMALL: dict[str, Any] = {
    "plugin": "temporal_order", "width": 0.125, "size": 32, "resize": 36, "hidden": 16,
    "tuple_seconds": 0.6, "gap_seconds": 0.2, "test_clips": 2,
}  # fmt: skip


# What of the contract goes another way than in the small network that is checked whole.
SHAPES = [
    promise
    for promise in contract.CHECKS
    if promise[0] not in {"light import", "overfits", "checkpoint", "meter", "scores"}
]


def plan(stage: Stage, made_of: Catalog, **fields: Any) -> Plan:
    return Plan(made_of, TemporalOrder(**fields), stage, seed=0, batch=4)


def decoded(first: NDArray[Any], stage: Stage = "train", side: int = 40) -> Decoded:
    """A take of spans that begin at these frames, one frame each."""
    picture = np.zeros((1, side, side, 3), np.uint8)
    numbers = tuple(np.array([at]) for at in first.tolist())
    views = ("train",) * len(numbers)
    return Decoded(stage, views, ({"rgb": picture},) * len(numbers), ({},) * len(numbers), numbers)


def in_order(first: NDArray[Any]) -> NDArray[np.bool_]:
    """Which tuples rise or fall."""
    steps = np.diff(first, axis=1)
    return np.asarray((steps > 0).all(1) | (steps < 0).all(1))


# --- frames


@given(
    st.sampled_from(["train", "test"]),
    st.floats(0.2, 2.0),
    st.floats(0.05, 1.0),
    st.sampled_from([10.0, 25.0, 30.0]),
    st.integers(0, 5),
)
@settings(max_examples=30)
def test_tuples_keep_their_promises(
    stage: Stage, tuple_seconds: float, gap_seconds: float, fps: float, epoch: int
) -> None:
    made_of = catalog_of([{**row, "fps": fps} for row in rows(20)])
    fields = {"tuple_seconds": tuple_seconds, "gap_seconds": gap_seconds}
    made = plan(stage, made_of, **fields)
    takes = made.epoch(epoch)
    first = takes.first.astype(np.int64)
    assert (takes.record == takes.record[:, :1]).all() and (takes.last == takes.first).all()
    assert (first >= 0).all() and (first < 96).all()
    most, gap = max(2, round(tuple_seconds * fps)), max(1, round(gap_seconds * fps))
    if most + gap + 1 > 96:
        return  # they are drawn together: it is for answers alone, and left out of plans
    reach = np.abs(first[:, 2] - first[:, 0])
    assert (reach <= most).all() and (reach >= most - most // 2).all()
    ordered = in_order(first)
    beyond = np.abs(first[:, 1:2] - first[:, [0, 2]]).min(1)
    assert (beyond[~ordered] >= gap).all()
    if stage == "test":
        assert ordered.reshape(20, -1).mean(1).tolist() == [0.5] * 20


def test_tuples_run_both_ways_and_lack_either_end() -> None:
    first = plan("train", catalog_of(rows(2000)), positives=0.25).epoch(0).first.astype(np.int64)
    ordered = in_order(first)
    assert abs(ordered.mean() - 0.25) < 0.03
    backward = first[:, 2] < first[:, 0]
    wrong, low = first[~ordered], first[~ordered].min(1)
    early = wrong[:, 1] == low
    for share in (backward[ordered], backward[~ordered], early):
        assert abs(share.mean() - 0.5) < 0.08
    asked = plan("test", catalog_of(rows(1)), test_clips=8).epoch(0).first.astype(np.int64)
    told = {(bool(o), bool(f[2] < f[0])) for o, f in zip(in_order(asked), asked, strict=True)}
    assert len(told) == 4


def test_tuples_lie_where_much_moves() -> None:
    curve = [0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 0.0]  # frames 75 to 89
    made_of = catalog_of([{**row, "motion_curve": curve} for row in rows(200)])
    fields = {"tuple_seconds": 0.4, "gap_seconds": 0.1}
    for stage in ("train", "test"):
        first = plan(stage, made_of, **fields).epoch(0).first  # type: ignore[arg-type]
        assert (first.max(1) > 60).all()
    assert plans.warnings(plan("train", made_of, **fields)) == [
        "200 of 200 videos are smaller than 128 pixels: they are scaled up"
    ]
    unmeasured = plan("train", catalog_of(rows(200)), **fields)
    assert (unmeasured.epoch(0).first.max(1) < 60).any()
    assert any("motion was never measured" in each for each in plans.warnings(unmeasured))


@pytest.mark.parametrize("fields", [{}, {"task": "clips", "frames": 8}])
def test_a_test_asks_the_same_of_a_video_whatever_is_beside_it(fields: dict[str, Any]) -> None:
    made_of = catalog_of([{**r, "frames": 100 + 7 * at} for at, r in enumerate(rows(6))])
    whole = plan("test", made_of, **fields).epoch(0)
    one = plan("test", made_of.picked(np.array([4])), **fields).epoch(0)
    own = whole.record[:, 0] == 4
    assert np.array_equal(whole.first[own], one.first)
    assert np.array_equal(whole.last[own], one.last)


def test_the_true_answer_is_that_of_the_frames() -> None:
    plugin = TemporalOrder(size=32, resize=40)
    first = plan("train", catalog_of(rows(60))).epoch(0).first.astype(np.int64)
    told = [int(plugin.sample(decoded(each), generator(0))["truth"]) for each in first]
    assert told == in_order(first).astype(int).tolist()
    made = plugin.sample(decoded(first[0]), generator(0))
    assert made["rgb"].shape == (3, 32, 32, 3)


# --- clips


def test_clips_follow_one_another_in_every_order() -> None:
    fields = {"task": "clips", "frames": 8, "rate": 15, "gap_seconds": 0.2}  # 15 frames, and 6
    made_of = catalog_of(rows(600))
    plugin = TemporalOrder(**fields)  # type: ignore[arg-type]
    takes = plan("train", made_of, **fields).epoch(0)
    assert (np.sort(takes.first, 1) >= 0).all() and takes.last.max() < 96
    gaps = np.diff(np.sort(takes.first, 1), axis=1)
    assert (gaps == 15 + 6).all() and (takes.last - takes.first == 14).all()
    counts = np.bincount([plugin._truth(each) for each in takes.first.tolist()], minlength=6)
    assert len(counts) == 6 and counts.min() > 60
    asked = plan("test", made_of, **fields, test_clips=6).epoch(0)
    turns = [plugin._truth(each) for each in asked.first[:6].tolist()]
    assert turns == list(range(6)) and plugin.chance == pytest.approx(1 / 6)


def test_the_answer_names_the_permutation() -> None:
    plugin = TemporalOrder(task="clips", clips=4)
    for place, order in enumerate(permutations(range(4))):
        assert plugin._truth([10 * each + 3 for each in order]) == place
    assert (plugin.kinds, plugin.chance) == (24, pytest.approx(1 / 6))  # of six questions


@pytest.mark.parametrize("clip_network", ["c3d", "stacked"])
def test_networks_of_clips_keep_the_contract(clip_network: str) -> None:
    fields = {"task": "clips", "clip_network": clip_network, "frames": 4, "rate": 10}
    report = contract.check("temporal_order", fields, SHAPES)
    assert report.ok, f"\n{report}"


@pytest.mark.parametrize(
    "fields", [{}, {"task": "clips", "frames": 4}, {"task": "clips", "clip_network": "stacked", "frames": 4}]
)  # fmt: skip
def test_the_classifier_downstream_has_the_same_tensors(fields: dict[str, Any]) -> None:
    plugin = make("temporal_order", {"width": 0.125, "size": 32, "resize": 36, **fields})
    own = plugin.build(Info()).state_dict()
    name, told = plugin.downstream()  # type: ignore[attr-defined]
    theirs = make(name, told).build(Info(("a", "b"))).state_dict()
    backbone = {n: w.shape for n, w in own.items() if not n.startswith("head.")}
    assert backbone == {n: theirs[n].shape for n in backbone}
    assert len(backbone) > 20


# --- bad input


def test_short_and_still_videos_are_left_out_and_counted() -> None:
    made_of = rows(6)
    made_of[0]["frames"] = 60
    made_of[1]["motion"] = 0.0
    made_of[2] |= {"frames": 10, "motion": 0.0}
    given_ = recipe.load(
        recipe_of(model={**SMALL, "tuple_seconds": 2.0, "gap_seconds": 0.5}, train={"batch": 3})
    )
    made = plans.make(given_, "train", catalog_of(made_of))
    assert made.left_out == (("shorter than 2.5 s", 2), ("without any motion", 1))
    assert made.takes_in_catalog == 3


def test_nothing_but_short_videos_is_refused_in_a_line() -> None:
    given_ = recipe.load(recipe_of(model={**SMALL, "tuple_seconds": 9.0}))
    with pytest.raises(PlanError, match=r"can use none of the 5 .* 5 shorter than 9\.2 s"):
        plans.make(given_, "train", catalog_of(rows(5)))


def test_one_single_video_makes_a_plan() -> None:
    single = plan("train", catalog_of(rows(1)), **{k: v for k, v in SMALL.items() if k != "plugin"})
    tuples = np.concatenate([single.epoch(epoch).first for epoch in range(20)])
    assert len(np.unique(tuples, axis=0)) > 10


def test_a_video_shorter_than_a_tuple_is_still_answered() -> None:
    for fields in ({}, {"task": "clips"}):
        for frames in (1, 2, 7):
            short = catalog_of([{**rows(1)[0], "frames": frames}])
            takes = plan("test", short, **fields).epoch(0)
            assert takes.first.min() >= 0 and takes.first.max() < frames


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"augment": ["reverse"]}, "without reverse"),
        ({"augment": ["crop", "mixup"]}, "without mixup"),
        ({"task": "clips", "weights": "x.pt"}, "train.init_from"),
        ({"task": "sort"}, "'verify' or 'clips'"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make("temporal_order", fields)


# --- a run


def run_recipe(data: str, folder: Path, name: str, steps: int) -> dict[str, Any]:
    return recipe_of(
        run={"name": name, "folder": str(folder)},
        data={"path": data},
        model=SMALL,
        train={"steps": steps, "batch": 6, "checkpoint_every": 3, "threads": 1},
    )


def test_a_run_of_takes_of_several_spans_resumes_exactly(dataset: str, tmp_path: Path) -> None:
    whole = api.train(run_recipe(dataset, tmp_path, "whole", steps=5))
    made = recipe.load(run_recipe(dataset, tmp_path, "broken", steps=4))
    home = launch.folder_of(made)
    storage.put_json(home.recipe, {"recipe": made.plain(), "identity": made.identity()})
    launch.work({"recipe": made.plain(), "folder": home.path, "transport": "thread"})
    again = api.train(run_recipe(dataset, tmp_path, "broken", steps=5))
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert again["takes_sha256"] == whole["takes_sha256"]
    tested = api.evaluate("whole", folder=str(tmp_path))
    assert 0 <= tested["metrics"]["own_accuracy"] <= 1
    assert tested["protocol"]["task"] == "verify" and tested["unfit"] == {}
    assert tested["metrics"]["own_chance"] == 0.5


def test_frames_are_seen_each_for_itself() -> None:
    plugin = TemporalOrder(width=0.125, size=32, resize=36, hidden=8)
    torch.manual_seed(0)
    model = plugin.build(Info()).eval()
    batch = {"rgb": torch.randn(2, 3, 3, 32, 32)}
    with torch.no_grad():
        parts = model.parts(batch)  # type: ignore[operator]
        turned = model.parts({"rgb": batch["rgb"].flip(2)})  # type: ignore[operator]
        alone = model.describe({"rgb": batch["rgb"][:, :, :1]})  # type: ignore[operator]
    assert torch.allclose(parts.flip(1), turned, atol=1e-5)
    assert torch.allclose(parts[:, 0], alone, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"task": "clips", "frames": 8}])
def test_answers_do_not_follow_the_order_of_an_epoch(fields: dict[str, Any]) -> None:
    made = plan("train", catalog_of(rows(600)), **fields)
    takes, plugin = made.epoch(0), TemporalOrder(**fields)
    truths = np.array([plugin._truth(each) for each in takes.first.tolist()])
    halves = [truths[:300], truths[300:]]
    for answer in range(plugin.kinds):
        early, late = ((half == answer).mean() for half in halves)
        assert abs(early - late) < 0.15, "a batch would be of one answer"
