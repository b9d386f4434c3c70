"""Temporal coherence: what is planned, the losses by hand, and a run that says how it went."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipmill import api, catalog
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, PluginError
from clipmill.plan import Plan
from clipmill.plugin import Decoded
from clipmill_pretext.disguise import disguised
from clipmill_pretext.temporal_coherence import TemporalCoherence
from clipmill_pretext.temporal_coherence_network import Contrast, Slow, nearer
from tiny import catalog_of, rows

ANCHOR, NEAR, OTHER = range(3)
SMALL: dict[str, Any] = {
    "plugin": "temporal_coherence", "width": 0.125, "size": 32, "resize": 36,
    "neighbour_seconds": 0.15, "far_seconds": 0.8, "test_clips": 2,
}  # fmt: skip


def plan(stage: Any, made_of: Catalog, **fields: Any) -> Plan:
    return Plan(made_of, TemporalCoherence(**fields), stage, seed=0, batch=4)


@pytest.mark.parametrize("stage", ["train", "test"])
def test_neighbours_are_near_and_the_others_far_or_foreign(stage: Any) -> None:
    made_of = catalog_of(rows(40))  # 96 frames, 30 a second
    made = plan(stage, made_of, neighbour_seconds=0.2, far_seconds=1.0, far_share=0.5)
    takes = made.epoch(0)
    assert len(takes) == (40 if stage == "train" else 40 * 4)
    assert (takes.record[:, ANCHOR] == takes.record[:, NEAR]).all()
    away = np.abs(takes.first[:, NEAR] - takes.first[:, ANCHOR])
    assert away.min() >= 1 and away.max() <= 6
    far = takes.record[:, OTHER] == takes.record[:, ANCHOR]
    assert 0.2 < far.mean() < 0.8
    assert (np.abs(takes.first[:, OTHER] - takes.first[:, ANCHOR])[far] >= 30).all()
    assert (takes.first == takes.last).all()


def test_takes_are_the_same_wherever_they_are_asked_for() -> None:
    made_of = catalog_of(rows(10))
    made = plan("train", made_of)
    whole = made.digests(made.at(0, 24))
    parts = [made.digests(plan("train", made_of).at(at, at + 4)) for at in range(0, 24, 4)]
    assert whole == [digest for part in parts for digest in part]
    assert made.digests(made.at(0, 8)) != made.digests(made.at(8, 16))


def test_a_single_frame_is_unfit_and_a_short_single_video_refused() -> None:
    made_of = [*rows(3)]
    made_of[1]["frames"] = 1
    ((reason, mask),) = TemporalCoherence().unfit(catalog_of(made_of)).items()
    assert "no neighbour" in reason and mask.tolist() == [False, True, False]
    single = rows(1)
    single[0]["frames"] = 12
    with pytest.raises(PlanError, match="one single video of 0.4 s"):
        plan("train", catalog_of(single)).epoch(0)
    assert len(plan("test", catalog_of(single)).epoch(0)) == 4  # it can still be asked about


# --- losses by hand


def test_the_slow_loss_draws_together_and_pushes_apart() -> None:
    anchor, near = torch.zeros(1, 2), torch.tensor([[0.6, 0.8]])  # at distance 1
    other = torch.tensor([[0.3, 0.4]])  # at distance 0.5, within the margin
    video = torch.zeros(1)
    assert float(Slow(1.0)(anchor, near, other, video)) == pytest.approx(0.5 * (1 + 0.25))
    assert float(Slow(0.4)(anchor, near, other, video)) == pytest.approx(0.5)  # beyond: not pushed
    assert nearer(anchor, near, other).tolist() == [0.0]
    assert nearer(anchor, other, near).tolist() == [1.0]
    assert nearer(anchor, near, near).tolist() == [0.5]  # a collapsed network is at chance


def test_the_slow_loss_has_a_gradient_where_all_are_one() -> None:
    same = torch.zeros(2, 3, requires_grad=True)
    Slow(1.0)(same, same + 0, same + 0, torch.arange(2)).backward()
    assert same.grad is not None and same.grad.isfinite().all()


def test_the_contrastive_loss_tells_the_neighbour_from_all_others() -> None:
    eye = torch.eye(2)
    other = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    loss = Contrast(1.0)(eye, eye, other, torch.tensor([1, 2, 3, 4]))
    first = -math.log(math.e / (math.e + 1 + 1 + 1))  # own 1, all others of the batch 0
    second = -math.log(math.e / (math.e + 1 + 2 * math.e))  # both planned ones are just as near
    assert float(loss) == pytest.approx((first + second) / 2)
    sharp = Contrast(0.1)(eye, eye, -eye, torch.tensor([1, 2, 3, 4]))
    wanted = math.log(1 + 2 * math.exp(-10) + math.exp(-20))
    assert float(sharp) == pytest.approx(wanted, abs=1e-6)
    turned = Contrast(1.0)(eye, other, -eye, torch.tensor([1, 2, 3, 4]))
    assert float(Contrast(1.0)(other, eye, -eye, torch.tensor([1, 2, 3, 4]))) == float(turned)


def test_frames_of_the_same_video_do_not_stand_against_each_other() -> None:
    eye, other = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = Contrast(1.0)(eye, eye, other, torch.tensor([7, 7, 7, 7]))
    assert float(loss) == pytest.approx(-math.log(math.e / (math.e + 1)))  # but the planned one


# --- a run


def test_the_backbone_fits_the_classifier_it_names() -> None:
    from clipmill import plugin
    from clipmill.launch.begin import matched
    from clipmill.plugin import Info

    for fits in ("single_frame", "cnn_rnn"):
        made = TemporalCoherence(width=0.125, size=32, resize=36, fits=fits)
        name, fields = made.downstream()
        assert name == fits
        with torch.device("meta"):
            wanted = plugin.make(name, fields).build(Info(("a", "b"))).state_dict()
            given = made.build(Info()).state_dict()
        pairs = matched(wanted, given)
        backbone = {name for name in wanted if name.startswith("encoder.")}
        assert backbone and set(pairs) == backbone


def test_a_run_and_an_evaluation_tell_their_health(dataset: str, tmp_path: Path) -> None:
    recipe = {
        "run": {"name": "near", "folder": str(tmp_path)}, "data": {"path": dataset},
        "model": {**SMALL, "loss": "slow"},
        "train": {"steps": 2, "batch": 4, "workers": 0, "checkpoint_every": 2},
    }  # fmt: skip
    done = api.train(recipe)
    assert "own task" in done["health"]
    assert json.loads((tmp_path / "near" / "result.json").read_text())["health"] == done["health"]
    assert {"val_own_accuracy", "val_own_chance", "val_embedding_spread"} <= done["metrics"].keys()
    tested = api.evaluate("near", folder=str(tmp_path))
    assert tested["videos"] == 6 and "directions" in tested["health"]
    named = {"far_accuracy", "foreign_accuracy", "far_pixel_accuracy", "foreign_pixel_accuracy"}
    assert named | {"embedding_room"} <= tested["metrics"].keys()


def test_a_test_needs_no_classes(dataset: str) -> None:
    given = recipes.parse({"run": {"name": "x"}, "data": {"path": dataset}, "model": SMALL})
    made = plans.make(given, "test")
    assert made.takes_in_catalog == 2 * len(catalog.load(dataset).part(split="test"))


def test_a_backbone_that_is_none_is_refused() -> None:
    from clipmill.plugin import Info

    with pytest.raises(PluginError, match="no backbone 'resnet17'"):
        TemporalCoherence(backbone="resnet17").build(Info())


# --- disguises of a test


def test_test_frames_are_disguised_as_training_would_have_it() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(40, 200, (1, 24, 32, 3)).astype(np.uint8)
    assert (disguised(frames, (), np.random.default_rng(1)) == frames).all()
    turned = {
        (disguised(frames, ("flip",), np.random.default_rng(seed)) == frames).all().item()
        for seed in range(9)
    }
    assert turned == {True, False}
    window = disguised(np.arange(32, dtype=np.uint8)[None, None, :, None] * np.ones(
        (1, 24, 1, 3), np.uint8), ("resized_crop",), np.random.default_rng(1))  # fmt: skip
    seen = np.unique(window)
    assert window.shape == frames.shape and 19 <= len(seen) < 32  # a part, as large as the whole
    assert (np.diff(window[0, 0, :, 0].astype(int)) >= 0).all()
    colours = [
        disguised(frames, ("color",), np.random.default_rng(seed)).mean() for seed in range(20)
    ]
    assert min(colours) < frames.mean() - 10 and max(colours) > frames.mean() + 10


def test_only_what_is_compared_is_disguised_and_always_alike() -> None:
    made = TemporalCoherence(width=0.125, size=32, resize=36)
    rng = np.random.default_rng(0)
    frames = [{"rgb": rng.integers(0, 255, (1, 32, 32, 3), np.uint8)} for _ in range(3)]
    keys = ({"key": "a"}, {"key": "a"}, {"key": "b"})
    test, again, train = (
        made.sample(Decoded(stage, ("train",) * 3, tuple(frames), keys), np.random.default_rng(5))
        for stage in ("test", "test", "train")
    )
    assert all((test[name] == again[name]).all() for name in test)
    assert (test["rgb_anchor"] == frames[ANCHOR]["rgb"]).all()
    assert (test["rgb_near"] != frames[NEAR]["rgb"]).any()
    assert (train["rgb_near"] == frames[NEAR]["rgb"]).all()  # the device augments them


def test_what_pixels_tell_as_well_is_not_learnt() -> None:
    figures = {"own_accuracy": 0.86, "pixel_accuracy": 0.85, "own_videos": 400.0}
    line = TemporalCoherence().verdict(figures)
    assert line == (
        "hardly better than in pixels: own task 0.86, in pixels 0.85; train longer, or on more videos"
    )
    assert TemporalCoherence().verdict({**figures, "own_accuracy": 0.97}) == (
        "learnt: own task 0.97, in pixels 0.85"
    )


def test_figures_of_both_kinds_are_told_in_features_and_in_pixels() -> None:
    meter = TemporalCoherence().meter()
    told = {"right": [1.0, 0.0, 1.0], "right_in_pixels": [1.0, 1.0, 0.0], "is_far": [1.0, 0.0, 0.0]}
    meter.update({**told, "embedding": np.ones(2)}, {"key": "a"})
    figures = meter.compute()
    assert (figures["far_accuracy"], figures["foreign_accuracy"]) == (1.0, 0.5)
    assert (figures["far_pixel_accuracy"], figures["foreign_pixel_accuracy"]) == (1.0, 0.5)
    assert figures["pixel_accuracy"] == pytest.approx(2 / 3)


def test_blurred_and_hidden_frames_are_of_the_same_shape_and_light() -> None:
    frames = np.random.default_rng(0).integers(40, 200, (1, 224, 32, 3)).astype(np.uint8)
    blurs = [disguised(frames, ("blur",), np.random.default_rng(seed)) for seed in range(12)]
    changed = [each for each in blurs if (each != frames).any()]
    assert 1 < len(changed) < 12
    assert min(each.std() for each in changed) < 0.8 * frames.std()
    assert all(abs(each.mean() - frames.mean()) < 2 for each in blurs)
    hidden = [
        (disguised(frames, ("erase",), np.random.default_rng(seed)) != frames).any(3).mean()
        for seed in range(40)
    ]
    assert 2 < sum(share > 0 for share in hidden) < 25 and max(hidden) < 0.4


def test_a_test_asks_the_same_whatever_is_tested_before() -> None:
    made = TemporalCoherence(width=0.125, size=32, resize=36)
    rng = np.random.default_rng(0)
    streams = tuple({"rgb": rng.integers(0, 255, (1, 32, 32, 3), np.uint8)} for _ in range(3))
    keys = ({"key": "a"}, {"key": "a"}, {"key": "b"})

    def near(first: int, seed: int) -> Any:
        frames = tuple(np.array([at]) for at in (first, 9, 20))
        given = Decoded("test", ("test",) * 3, streams, keys, frames)
        return made.sample(given, np.random.default_rng(seed))["rgb_near"]

    assert (near(8, 1) == near(8, 2)).all() and (near(8, 1) != near(10, 1)).any()
