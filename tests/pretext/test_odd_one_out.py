"""Odd one out: where sub-clips lie, what is out of order, what is seen of it, and bad input."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import contract, recipe
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, RecipeError
from clipmill.plan import Plan
from clipmill.plugin import Decoded, Info, make
from clipmill.takes import Stage, generator
from clipmill_pretext.odd_one_out import ODD, OddOneOut
from tiny import catalog_of, recipe_of, rows

SMALL: dict[str, Any] = {"width": 0.125, "size": 32, "resize": 36, "hidden": 16, "clips": 3}


# What of the contract goes another way than in the small network that is checked whole.
SHAPES = [
    promise
    for promise in contract.CHECKS
    if promise[0] not in {"light import", "overfits", "checkpoint", "meter", "scores"}
]


def plan(stage: Stage, made_of: Catalog, **fields: Any) -> Plan:
    return Plan(made_of, OddOneOut(**fields), stage, seed=0, batch=4)


def odd_places(made: Plan, epoch: int = 0) -> list[int]:
    """Which span of each take is odd; there is exactly one."""
    takes = made.epoch(epoch)
    is_odd = np.array(takes.views)[takes.view] == ODD
    assert (is_odd.sum(1) == 1).all()
    return is_odd.argmax(1).tolist()


@given(st.sampled_from(["train", "test"]), st.integers(2, 8), st.integers(3, 9), st.integers(0, 3))
@settings(max_examples=30)
def test_sub_clips_lie_in_their_record_in_the_order_of_time(
    stage: Stage, clips: int, frames: int, epoch: int
) -> None:
    made = plan(stage, catalog_of(rows(12)), clips=clips, frames=frames)
    takes = made.epoch(epoch)
    assert takes.record.shape[1] == clips and (takes.record == takes.record[:, :1]).all()
    assert takes.first.min() >= 0 and takes.last.max() < 96
    assert (takes.last - takes.first == (frames - 1) * 3).all()
    assert (np.diff(takes.first, axis=1) >= 0).all()
    assert set(odd_places(made, epoch)) <= set(range(clips))


def test_any_of_them_may_be_the_odd_one() -> None:
    counts = np.bincount(odd_places(plan("train", catalog_of(rows(800)), clips=4)))
    assert len(counts) == 4 and counts.min() > 150
    asked = plan("test", catalog_of(rows(5)), clips=4, test_clips=4)
    assert odd_places(asked) == [0, 1, 2, 3] * 5
    assert asked.plugin.chance == 0.25  # type: ignore[attr-defined]
    assert OddOneOut(clips=4, test_clips=6).chance == pytest.approx(1 / 3)


def test_sub_clips_lie_where_much_moves() -> None:
    curve = [0.0] * 5 + [0.6, 0.6]
    made_of = catalog_of([{**row, "motion_curve": curve} for row in rows(50)])
    assert (plan("train", made_of, frames=4).epoch(0).last >= 75).all()


def clip_of(first: int, frames: int, side: int = 40) -> Any:
    """A clip whose pictures tell their numbers."""
    numbers = np.arange(first, first + frames, dtype=np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (frames, side, side, 3)).copy()


def sampled(odd: int, seed: int, **fields: Any) -> dict[str, Any]:
    plugin = OddOneOut(size=32, resize=40, clips=3, **fields)
    views = tuple(ODD if at == odd else "train" for at in range(3))
    streams = tuple({"rgb": clip_of(20 * at, plugin.frames)} for at in range(3))
    decoded = Decoded("train", views, streams, ({},) * 3)
    return plugin.sample(decoded, generator(seed))


@pytest.mark.parametrize("frames", [3, 6])
def test_only_the_odd_one_is_out_of_order_and_never_merely_reversed(frames: int) -> None:
    orders = set()
    for seed in range(40):
        made = sampled(seed % 3, seed, frames=frames)
        assert made["rgb"].shape == (3 * frames, 32, 32, 3) and made["truth"] == seed % 3
        for at, clip in enumerate(np.split(made["rgb"][:, 0, 0, 0].astype(int), 3)):
            steps = np.diff(clip)
            rises, falls = (steps > 0).all(), (steps < 0).all()
            assert sorted(clip) == list(range(20 * at, 20 * at + frames))
            assert rises if at != seed % 3 else not (rises or falls)
            orders.add(tuple(clip - 20 * at))
    assert len(orders) == (5 if frames == 3 else len(orders)) and len(orders) > 4


def test_differences_see_what_changes_and_nothing_else() -> None:
    plugin = OddOneOut(**SMALL)
    torch.manual_seed(0)
    model = plugin.build(Info()).eval()
    rgb = torch.randn(2, 3, 3 * 6, 32, 32)
    brighter = {"rgb": rgb + torch.randn(2, 3, 1, 32, 32)}
    with torch.no_grad():
        parts = model.parts({"rgb": rgb})  # type: ignore[operator]
        assert torch.allclose(model.parts(brighter), parts, atol=1e-4)  # type: ignore[operator]
    assert parts.shape[:2] == (2, 3)
    whole = OddOneOut(**SMALL, encoding="frames").build(Info()).eval()
    with torch.no_grad():
        same = torch.allclose(whole.parts(brighter), whole.parts({"rgb": rgb}), atol=1e-2)  # type: ignore[operator]
    assert not same


def test_what_is_compared_does_not_depend_on_the_place() -> None:
    torch.manual_seed(0)
    model = OddOneOut(**SMALL).build(Info()).eval()
    x_BND = torch.randn(4, 3, model.encoder.features)  # type: ignore[union-attr, arg-type]
    turn = torch.tensor([2, 0, 1])
    with torch.no_grad():
        scores, turned = model.head(x_BND), model.head(x_BND[:, turn])  # type: ignore[operator]
    assert torch.allclose(scores[:, turn], turned, atol=1e-6)
    assert scores.std(1).min() > 0


@pytest.mark.parametrize("encoding", ["differences", "frames"])
def test_the_classifier_downstream_has_the_same_tensors(encoding: str) -> None:
    plugin = make("odd_one_out", {**SMALL, "encoding": encoding})
    own = plugin.build(Info()).state_dict()
    name, told = plugin.downstream()  # type: ignore[attr-defined]
    theirs = make(name, told).build(Info(("a", "b"))).state_dict()
    backbone = {n: w.shape for n, w in own.items() if not n.startswith("head.")}
    assert backbone == {n: theirs[n].shape for n in backbone} and len(backbone) > 20


def test_all_side_by_side_keep_the_contract() -> None:
    fields = {"fusion": "concatenate", "encoding": "frames"}
    report = contract.check("odd_one_out", fields, SHAPES)
    assert report.ok, f"\n{report}"


def test_short_and_still_videos_are_left_out_or_refused() -> None:
    made_of = rows(5)
    made_of[0]["frames"] = 12
    made_of[1]["motion"] = 0.0
    given_ = recipe.load(recipe_of(model={"plugin": "odd_one_out"}, train={"batch": 3}))
    made = plans.make(given_, "train", catalog_of(made_of))
    assert made.left_out == (("shorter than 0.6 s", 1), ("without any motion", 1))
    with pytest.raises(PlanError, match="2 shorter than 0.6 s"):
        plans.make(given_, "train", catalog_of([{**row, "frames": 3} for row in rows(2)]))


@pytest.mark.parametrize(
    ("fields", "told"), [({"frames": 2}, "frames"), ({"augment": ["reverse"]}, "without reverse")]
)
def test_fields_that_cannot_work_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make("odd_one_out", fields)


def test_the_odd_place_does_not_follow_the_order_of_an_epoch() -> None:
    places = np.array(odd_places(plan("train", catalog_of(rows(600)), clips=4)))
    for place in range(4):
        early, late = (places[:300] == place).mean(), (places[300:] == place).mean()
        assert abs(early - late) < 0.15


def test_what_change_alone_tells_is_told_beside_it() -> None:
    plugin = OddOneOut(**SMALL)
    torch.manual_seed(0)
    model = plugin.build(Info()).eval()
    rgb = torch.zeros(2, 3, 3 * 6, 32, 32)
    rgb[:, :, 7] = 1.0  # a flash in the second sub-clip
    with torch.no_grad():
        told, _ = model.predict({"rgb": rgb, "truth": torch.tensor([1, 2])})  # type: ignore[operator]
    assert told["right_by_change"].tolist() == [1.0, 0.0]
    figures = {"own_accuracy": 0.61, "change_accuracy": 0.6, "own_videos": 400.0}
    line = plugin.verdict(figures)
    assert line is not None and line.startswith("hardly better than by change alone")
    assert str(plugin.verdict({**figures, "own_accuracy": 0.9})).startswith("learnt: own task 0.90")
