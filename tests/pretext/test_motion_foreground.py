"""Motion as a proxy for the foreground: what teaches, what is left out, the meter by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tiny
from clipmill.errors import DataError, PluginError
from clipmill.plugin import Decoded, Info, Stage, make
from clipmill.takes import Takes
from clipmill_pretext.foreground_meter import ROWS, ForegroundMeter, counted, simple
from clipmill_pretext.motion_foreground import MotionForeground
from clipmill_pretext.motion_foreground_network import border, mask_loss, stages
from clipmill_pretext.votes import voted

SMALL: dict[str, Any] = dict(MotionForeground.small)


def square(low: int, high: int, side: int = 8) -> NDArray[np.bool_]:
    """A mask with a square in it."""
    mask = np.zeros((side, side), np.bool_)
    mask[low:high, low:high] = True
    return mask


def test_a_border_is_what_is_near_both() -> None:
    found = border(torch.from_numpy(square(2, 6))[None], reach=1)[0].numpy()
    assert np.array_equal(found, square(1, 7) & ~square(3, 5))
    assert not border(torch.from_numpy(square(2, 6))[None], reach=0).any()
    assert not border(
        torch.from_numpy(square(0, 8))[None], reach=2
    ).any()  # the frame ends, no more


def loss_of(scores: torch.Tensor, moves: list[float], reach: int = 1) -> torch.Tensor:
    truth = torch.from_numpy(square(2, 6)).expand(len(scores), -1, -1)
    return mask_loss(scores, truth, ~border(truth, reach), torch.tensor(moves))


def test_borders_and_frames_without_motion_teach_nothing() -> None:
    scores = torch.randn(3, 8, 8, requires_grad=True)
    loss_of(scores, [1, 0, 1]).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    taught = scores.grad.abs() > 0
    assert not taught[1].any()
    clear = torch.from_numpy(~(square(1, 7) & ~square(3, 5)))
    assert torch.equal(taught[0], clear)
    alone = loss_of(scores[:1], [1]) + loss_of(scores[2:], [1])
    torch.testing.assert_close(loss_of(scores, [1, 0, 1]), alone / 3)  # the gradient of the batch


def test_a_batch_without_any_motion_is_no_nan() -> None:
    scores = torch.randn(2, 8, 8, requires_grad=True)
    loss = loss_of(scores, [0, 0])
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


def test_the_right_mask_costs_next_to_nothing_and_the_ground_alone_does() -> None:
    truth = torch.from_numpy(square(2, 6))[None]
    right, ground = (torch.where(mask, 20.0, -20.0) for mask in (truth, torch.zeros_like(truth)))
    assert loss_of(right, [1], reach=0).item() == pytest.approx(0, abs=1e-6)
    # 16 of 64 pixels are wrong by 20, and none of what moves is told.
    assert loss_of(ground, [1], reach=0).item() == pytest.approx(20 / 4 + 1 - 1 / 17, abs=1e-4)


def decoded(motion: NDArray[Any], stage: Stage) -> Decoded:
    frames = np.arange(len(motion))[:, None, None, None]
    rgb = np.broadcast_to(frames, (*motion.shape, 3)).astype(np.uint8)  # a frame shows its number
    return Decoded(stage, (stage,), ({"rgb": rgb, "motion": motion.astype(np.uint8)},), ({},))


def test_one_frame_is_shown_with_its_own_mask() -> None:
    plugin = MotionForeground(frames=3, vote=False)
    motion = np.stack([square(1, 4 + at) for at in range(3)])
    numbers = set()
    for seed in range(12):
        made = plugin.sample(decoded(motion, "train"), np.random.default_rng(seed))
        assert made["rgb"].shape == (1, 8, 8, 3)
        number = int(made["rgb"].max())
        assert np.array_equal(made["motion"][0] > 0, motion[number])
        numbers.add(number)
    assert numbers == {0, 1, 2}
    test = plugin.sample(decoded(motion, "test"), np.random.default_rng(1))
    assert test["rgb"].max() == 0  # always the first, whose number the answer tells


@pytest.mark.parametrize(
    ("mask", "moves"), [(square(0, 0), 0), (square(0, 8), 0), (square(2, 4), 1), (square(0, 6), 1)]
)
def test_a_still_or_a_mask_of_nearly_all_tells_nothing(mask: NDArray[Any], moves: int) -> None:
    plugin = MotionForeground(vote=False)
    made = plugin.sample(decoded(np.stack([mask] * 2), "test"), np.random.default_rng(0))
    assert made["moves"] == moves


def test_like_colours_tell_together_what_moves() -> None:
    # A red square goes right; flow blurs over the ground before it, and misses it in one frame.
    rgb = np.full((4, 24, 24, 3), 60, np.uint8)
    motion, thing = np.zeros((2, 4, 24, 24), np.bool_)
    for at in range(4):
        thing[at, 4:14, at : at + 10] = True
        motion[at, 2:16, max(0, at - 1) : at + 14] = at != 2
    rgb[thing] = (220, 30, 30)
    found = voted(rgb, motion)
    assert (motion & ~thing).sum() > 150 and not (found & ~thing).any()
    assert found[2].sum() > 0.5 * thing[2].sum()
    assert not voted(rgb, np.zeros_like(motion)).any()  # a still tells nothing
    made = MotionForeground(frames=4).sample(
        Decoded("test", ("test",), ({"rgb": rgb, "motion": motion.astype(np.uint8)},), ({},)),
        np.random.default_rng(0),
    )
    assert np.array_equal(made["motion"][0], found[0])


def test_what_cannot_move_is_left_out() -> None:
    told = [{"motion": 0.0}, {"motion": 0.3}, {"motion": None}, {"frames": 1, "motion": None}]
    rows = [{**row, **more} for row, more in zip(tiny.rows(4), told, strict=True)]
    short, still = MotionForeground().unfit(tiny.catalog_of(rows)).values()
    assert still.tolist() == [True, False, False, False]  # never measured is not known to be still
    assert short.tolist() == [False, False, False, True]


# --- the meter


def test_pixels_by_hand() -> None:
    truth, told = square(2, 6), square(0, 4)
    rows = dict(
        zip(ROWS, counted(told * 0.9, truth, truth, known_HW=square(0, 8), moves=True), strict=True)
    )
    assert rows["told"].tolist() == [4, 12, 12, 36]
    assert rows["background"].tolist() == [0, 0, 16, 48]
    assert rows["foreground"].tolist() == [16, 48, 0, 0]
    assert rows["box 0.5"].tolist() == [16, 0, 0, 48]  # the middle, by chance the truth
    assert rows["box 0.25"].tolist() == [4, 0, 12, 48]
    assert rows["box 0.75"].tolist() == [16, 20, 0, 28]
    assert rows["motion"].tolist() == [16, 0, 0, 48]
    assert rows["agreement"].tolist() == rows["told"].tolist()


def test_boxes_lie_in_the_middle_of_odd_frames_too() -> None:
    box = simple(5, 7)[3]
    assert np.array_equal(box, box[::-1, ::-1]) and box.any()


def met(*frames: tuple[NDArray[Any], NDArray[Any]], moves: bool = True) -> ForegroundMeter:
    """A meter after one video of frames, told and true."""
    meter = ForegroundMeter()
    known = np.full((8, 8), moves)
    pixels = [counted(a * 1.0, b, b, known_HW=known, moves=moves) for a, b in frames]
    meter.update({"pixels": np.stack(pixels), "marked": 0, "embedding": np.ones(3)}, {"key": "one"})
    return meter


def test_overlaps_by_hand() -> None:
    figures = met((square(0, 4), square(2, 6)), (square(2, 6), square(2, 6))).compute()
    assert figures["iou_foreground"] == pytest.approx(20 / 44)
    assert figures["iou_background"] == pytest.approx(84 / 108)
    assert figures["iou"] == pytest.approx((20 / 44 + 84 / 108) / 2)
    assert figures["iou_all_background"] == pytest.approx((0 + 48 / 64) / 2)
    assert figures["iou_all_foreground"] == pytest.approx((16 / 64 + 0) / 2)
    assert figures["iou_centre_box"] == 1.0
    assert figures["frames"] == 2
    line = MotionForeground().verdict(figures)
    assert line is not None and line.startswith("not learnt: iou 0.62, chance 1.00")


def test_frames_without_motion_are_not_measured() -> None:
    still = met((square(0, 4), square(0, 0)), moves=False)
    with pytest.raises(DataError, match="no frame with a mask was measured"):
        still.compute()
    still.merge(met((square(2, 6), square(2, 6))))
    assert still.compute()["iou"] == 1.0
    assert still.compute()["frames"] == 1


def test_a_test_may_compare_with_the_masks_of_the_record() -> None:
    plugin = MotionForeground(truth="mask")
    assert plugin.views()["test"].streams == ("rgb", "motion", "mask")
    assert plugin.views()["train"].streams == ("rgb", "motion")
    output = {
        "mask": square(0, 4) * 0.8, "motion": square(2, 8) * 1.0, "truth": square(0, 4) * 3.0,
        "moves": np.float32(0), "embedding": np.ones(2),
    }  # fmt: skip
    takes = Takes(("test",), *np.zeros((4, 1, 1), np.int64), np.zeros(1, np.uint64))  # type: ignore[arg-type]
    meter = plugin.meter()
    meter.update(plugin.answer([output], takes), {"key": "one"})
    meter.update(plugin.answer([{**output, "moves": np.float32(1)}], takes), {"key": "two"})
    void = np.where(square(0, 4), output["truth"], 255.0)  # nobody says what else there is
    for told in ({**output, "truth": np.full((8, 8), 255.0)}, {**output, "truth": void}):
        meter.update(plugin.answer([{**told, "mask": square(0, 8) * 1.0}], takes), {"key": "void"})
    figures = meter.compute()
    assert figures["iou"] == 1.0
    assert (figures["frames"], figures["marked_videos"]) == (3, 3)
    assert figures["iou_of_motion"] == pytest.approx((12 / 112 + 32 / 132) / 2)
    assert figures["agreement"] == pytest.approx((4 / 48 + 16 / 60) / 2)  # of the frame that moves
    unmarked = {**output, "truth": np.full((8, 8), 255.0), "moves": np.float32(1)}
    by_motion = plugin.meter()
    by_motion.update(plugin.answer([unmarked], takes), {"key": "unmarked"})
    assert by_motion.compute()["iou"] == by_motion.compute()["agreement"] < 1
    assert by_motion.compute()["marked_videos"] == 0


# --- the network


def test_its_encoder_is_that_of_the_classifier_of_frames() -> None:
    plugin = MotionForeground(**SMALL)
    network = plugin.build(Info())
    classifier = make(*plugin.downstream()).build(Info(("a", "b")))
    theirs = {n: w.shape for n, w in classifier.state_dict().items() if n.startswith("encoder.")}
    ours = {n: w.shape for n, w in network.state_dict().items() if n.startswith("encoder.")}
    assert ours and ours == theirs


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "vgg11"])
def test_each_resolution_gives_features_the_pooled_one_included(backbone: str) -> None:
    with torch.device("meta"):
        network = MotionForeground(backbone=backbone, size=64, resize=64).build(Info())
        given = network.encoder.network  # type: ignore[union-attr]
        found = stages(given, 64)  # type: ignore[arg-type]
        scores, features = network.scores(torch.zeros(2, 3, 1, 64, 64))  # type: ignore[operator]
    assert len(found) >= 4
    assert scores.shape == (2, 64, 64)
    assert features.shape == (2, network.encoder.features)  # type: ignore[union-attr]
    assert not any(part._forward_hooks for part in network.modules())  # none is left behind


def test_a_backbone_of_one_resolution_is_refused() -> None:
    with torch.device("meta"), pytest.raises(PluginError, match=r"at 1 resolution.*several"):
        MotionForeground(backbone="vit_b_32", size=64, resize=64).build(Info())
