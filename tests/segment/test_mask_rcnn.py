"""Mask R-CNN: as torchvision's by its numbers, what teaches it, how regions are pooled, its answers."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from clipmill.plugin import Info, make
from clipmill.takes import Takes
from clipmill.video import VOID
from clipmill_segment.mask_rcnn import MaskRCNN
from clipmill_segment.mask_rcnn_network import MaskRcnnNetwork, looks, marked_things
from clipmill_segment.region_pooling import MultiScaleRoIPool
from clipmill_segment.things import mask_of, pasted, runs_of

TWO = Info(("car", "road"))


pytestmark = pytest.mark.usefixtures("one_thread")


def small(**fields: Any) -> MaskRCNN:
    """A narrow one."""
    made = make("mask_rcnn", {**MaskRCNN.small, **fields})
    assert isinstance(made, MaskRCNN)
    return made


def network_of(plugin: MaskRCNN, info: Info = TWO) -> MaskRcnnNetwork:
    torch.manual_seed(0)
    made = plugin.build(info)
    assert isinstance(made, MaskRcnnNetwork)
    return made


def test_it_has_the_parameters_of_torchvisions() -> None:
    with torch.device("meta"):
        theirs = detection.maskrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=91
        )
        ours = make("mask_rcnn", {}).build(Info(tuple(map(str, range(90)))))
    wanted = sum(weight.numel() for weight in theirs.parameters())
    assert sum(weight.numel() for weight in ours.parameters()) == wanted


def test_it_finds_what_torchvisions_finds_with_the_same_weights() -> None:
    size, classes = 64, 3
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    theirs = detection.MaskRCNN(
        backbone, classes, min_size=size, max_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_pre_nms_top_n_test=32, rpn_post_nms_top_n_test=32, box_detections_per_img=8,
    ).eval()  # fmt: skip
    ours = network_of(small(width=1.0, anchor=32.0)).eval()
    names = (("backbone.body.", "encoder.network."), ("backbone.fpn.", "pyramid."))
    ours.load_state_dict({_renamed(n, names): w for n, w in theirs.state_dict().items()})
    frame = torch.randn(1, 3, size, size)
    with torch.no_grad():
        (wanted,), (got, _) = theirs(frame), ours.predict({"rgb": frame[:, :, None]})
    count = len(wanted["boxes"])
    assert count == int((got["thing_scores"][0] > 0).sum()) > 0
    torch.testing.assert_close(got["thing_boxes"][0, :count] * size, wanted["boxes"])
    torch.testing.assert_close(got["thing_scores"][0, :count], wanted["scores"])
    assert torch.equal(got["thing_labels"][0, :count], wanted["labels"])
    masks = paste_masks_in_image(
        got["thing_masks"][0, :count, None], wanted["boxes"], (size, size), padding=1
    )
    torch.testing.assert_close(masks, wanted["masks"])
    assert masks.std() > 0


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for old, new in names:
        name = name.replace(old, new) if name.startswith(old) else name
    return name


# --- what teaches it


def test_a_thing_is_what_class_and_number_mark_together() -> None:
    classes = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 2], [VOID, VOID, 0, 2]])
    things = torch.tensor([[0, 1, 1, 1], [0, 3, 1, 1], [1, 1, 0, 1]])
    made = marked_things(classes, things)
    assert made["labels"].tolist() == [1, 1, 2]
    assert made["boxes"].tolist() == [[1, 0, 3, 1], [1, 1, 2, 2], [2, 0, 4, 3]]
    assert made["masks"].sum((1, 2)).tolist() == [2, 1, 4]
    bare = marked_things(torch.zeros(4, 4).long(), torch.zeros(4, 4).long())
    assert bare["boxes"].shape == (0, 4) and bare["masks"].shape == (0, 4, 4)


@pytest.mark.parametrize("pooling", ["align", "pool"])
def test_it_learns_from_frames_with_things_and_without(pooling: str) -> None:
    network = network_of(small(pooling=pooling)).train()
    pools = [
        type(each) for each in (network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool)
    ]
    assert pools == [MultiScaleRoIPool if pooling == "pool" else MultiScaleRoIAlign] * 2
    mask = torch.zeros(2, 1, 64, 64).long()
    mask[0, 0, 8:30, 20:40] = 2
    batch = {"rgb": torch.randn(2, 3, 1, 64, 64), "mask": mask, "instances": (mask > 0).long()}
    losses = network(batch)
    assert len(losses) == 6 and all(loss.isfinite() for loss in losses.values())
    losses["loss"].backward()
    first = network.encoder.network.conv1.weight.grad
    assert first is not None and first.abs().sum() > 0  # through the pooling to the pixels
    empty = {**batch, "mask": mask * 0, "instances": mask * 0}
    assert network(empty)["loss"].isfinite()


# --- regions


def test_maxima_of_regions_come_from_the_level_that_aligned_ones_come_from() -> None:
    names, sides = ["0", "1", "2", "3"], (64, 32, 16, 8)
    flat = {
        name: torch.full((1, 1, s, s), at + 1.0)
        for at, (name, s) in enumerate(zip(names, sides, strict=True))
    }
    begin = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 100
    side = 2 ** torch.linspace(1, 8, 200)[:, None]
    boxes = [torch.cat([begin, begin + side], 1).clamp(max=255)]
    sizes = [(256, 256)]
    aligned = MultiScaleRoIAlign(names, 2, 2, canonical_scale=112)(flat, boxes, sizes)
    pooled = MultiScaleRoIPool(names, 2, canonical_scale=112)(flat, boxes, sizes)
    torch.testing.assert_close(pooled.amax((1, 2, 3)), aligned.amax((1, 2, 3)))
    assert len(pooled.unique()) == 4


def test_maxima_of_regions_are_roi_pools() -> None:
    maps = torch.randn(2, 3, 16, 16)
    boxes = [torch.tensor([[3.0, 5.0, 40.0, 33.0]]), torch.tensor([[0.0, 0.0, 20.0, 60.0]])]
    made = MultiScaleRoIPool(["0"], 7)({"0": maps}, boxes, [(64, 64)] * 2)
    torch.testing.assert_close(made, roi_pool(maps, boxes, 7, 0.25))


def test_looks_are_the_colours_within_a_mask() -> None:
    frame = torch.zeros(3, 16, 16)
    frame[0, :8], frame[1, 8:] = 1.0, 2.0
    masks = torch.zeros(1, 4, 4)
    masks[:, 2:] = 1  # the lower half of the box
    seen = looks(frame, torch.tensor([[0.0, 0.0, 16.0, 16.0]]), masks)[0]
    assert seen[:3].tolist() == pytest.approx([0, 2, 0], abs=0.3)
    assert seen[3:].abs().max() < 0.6


# --- answers


def test_a_mask_covers_the_pixels_whose_middles_it_covers() -> None:
    box = np.array([0.25, 0.125, 0.75, 0.625])
    mask = pasted(np.ones((28, 28)), box, (8, 8))
    assert mask.sum() == 16 and mask[1:5, 2:6].all()
    half = np.zeros((28, 28))
    half[:, :14] = 1
    assert np.array_equal(np.flatnonzero(pasted(half, box, (8, 8)).any(0)), [2, 3])
    assert not pasted(np.ones((28, 28)), np.array([0.5, 0.5, 0.51, 0.51]), (8, 8)).any()
    assert np.array_equal(mask_of(runs_of(mask)), mask)


def output(left: float, label: int = 1, score: float = 0.9) -> dict[str, Any]:
    """One thing in a frame of 16 x 16, and what is true: a thing there, and void below."""
    truth, things = np.zeros((16, 16), np.float32), np.zeros((16, 16), np.float32)
    start = int(left * 16)
    truth[2:6, start : start + 4], things[2:6, start : start + 4] = 1, 7
    truth[14:] = VOID
    row = {
        "thing_boxes": np.array([left, 2 / 16, left + 4 / 16, 6 / 16]),
        "thing_labels": np.array(label), "thing_scores": np.array(score),
        "thing_masks": np.ones((28, 28)), "thing_looks": np.arange(6.0),
    }  # fmt: skip
    rows = {name: np.stack([value, np.zeros_like(value)]) for name, value in row.items()}
    return {**rows, "truth": truth, "true_things": things}


def takes_of(count: int) -> Takes:
    first, blank = np.arange(count)[:, None] * 6, np.zeros((count, 1), np.int64)
    return Takes(("test",), blank, blank, first, first, np.zeros(count, np.uint64))


def test_an_answer_has_things_with_numbers_beside_what_is_true() -> None:
    plugin = small()
    answer = plugin.answer([output(0.0), output(0.125), output(0.25, score=0.3)], takes_of(3))
    assert answer["frames"] == [0, 6, 12]
    told = [(thing["frame"], thing["class"], thing["id"]) for thing in answer["things"]]
    assert told == [(0, 1, 1), (6, 1, 1), (12, 1, 0)]  # the last is not sure enough for a number
    assert [(thing["class"], thing["number"]) for thing in answer["truth"]] == [
        (1, 7),
        (VOID, 0),
    ] * 3
    meter = plugin.meter()
    meter.update(answer, {})
    figures = meter.compute()
    assert figures["mask_ap"] == figures["box_ap"] == pytest.approx(1.0)
    assert figures["numbers_kept"] == 1
    nobody = {**output(0.0), "truth": np.full((16, 16), VOID, np.float32)}
    assert "truth" not in plugin.answer([nobody], takes_of(1))  # of a video that nobody marked
