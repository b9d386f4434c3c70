"""Segmenters: their sizes, where unpooling puts things, what is lost, told and measured, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

import tiny
from clipmill.catalog import Catalog
from clipmill.errors import DataError, PluginError, RecipeError
from clipmill.evaluate.pixels import pixel_figures
from clipmill.plugin import Info, make
from clipmill.takes import Takes
from clipmill.video import VOID
from clipmill_segment.meters import SegmentMeter, confusion
from clipmill_segment.network import pixel_loss
from clipmill_segment.segmenter import Segmenter
from clipmill_segment.unet import margin
from clipmill_segment.unet_network import entering
from clipmill_segment.unpooling import pooled, unpooled

NAMES = ("fcn", "segnet", "enet", "unet")
THREE = Info(("car", "road", "tree"))


def segmenter(name: str, **fields: Any) -> Segmenter:
    """A segmenter with these fields."""
    made = make(name, fields)
    assert isinstance(made, Segmenter)
    return made


def small(name: str, **fields: Any) -> Segmenter:
    """A narrow one of 32 x 32 pixels."""
    return segmenter(name, **{**type(segmenter(name)).small, **fields})


def network_of(plugin: Segmenter, info: Info = THREE) -> Any:
    """Its network, ready to answer."""
    torch.manual_seed(0)
    return plugin.build(info).eval()


@pytest.mark.parametrize(
    ("name", "fields", "classes", "parameters"),
    [
        ("segnet", {}, 11, 29_449_932),  # 29.5 M, with the ground beside the 11 classes of CamVid
        ("unet", {}, 1, 31_031_810),  # 31.0 M, a thing and the ground, in colours
        ("enet", {}, 19, 365_263),  # 0.37 M, last convolution of 3 x 3, a class and 19 more
        ("fcn", {"stride": 32}, 20, 134_346_581),  # with fc6 and fc7 as convolutions
    ],
)
def test_sizes_are_those_of_the_papers(
    name: str, fields: dict[str, Any], classes: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = segmenter(name, **fields).build(Info(tuple(map(str, range(classes)))))
    assert sum(weight.numel() for weight in network.parameters()) == parameters


# --- unpooling


@settings(max_examples=40, deadline=None)
@given(
    seed=some.integers(0, 2**32 - 1),
    height=some.integers(2, 9),
    width=some.integers(2, 9),
)
def test_unpooling_puts_every_value_where_its_maximum_came_from(
    seed: int, height: int, width: int
) -> None:
    plane = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    maxima, places = pooled(plane)
    back = unpooled(maxima, places, height, width)
    there = back != 0
    assert torch.equal(back[there], plane[there])  # each where it was
    assert there.sum() == maxima.numel()  # all of them, and nothing else
    assert torch.equal(pooled(back.masked_fill(~there, -torch.inf))[0], maxima)
    other = torch.randn(maxima.shape, generator=torch.Generator().manual_seed(seed + 1))
    put = unpooled(other, places, height, width)
    assert torch.equal(put.flatten(2).gather(2, places.flatten(2)), other.flatten(2))
    assert not put[~there].any()


# --- shapes


@pytest.mark.parametrize("name", NAMES)
def test_every_pixel_has_a_probability_of_each_class(name: str) -> None:
    network = network_of(small(name))
    outputs, _ = network.predict({"rgb": torch.randn(2, 3, 1, 32, 32)})
    assert outputs["class_scores"].shape == (2, 4, 32, 32)
    torch.testing.assert_close(outputs["class_scores"].sum(1), torch.ones(2, 32, 32))


@pytest.mark.parametrize("name", ["fcn", "segnet", "unet"])
def test_sides_that_do_not_halve_are_told_to_the_pixel(name: str) -> None:
    network = network_of(small(name, size=37, resize=40))
    assert network.scores(torch.randn(1, 3, 37, 37)).shape == (1, 4, 37, 37)


@pytest.mark.parametrize(
    ("stride", "scored"), [(32, [512]), (16, [512, 256]), (8, [512, 256, 128])]
)
def test_scores_are_of_the_coarsest_maps(stride: int, scored: list[int]) -> None:
    with torch.device("meta"):
        network: Any = segmenter("fcn", backbone="resnet18", stride=stride, head=0).build(THREE)
    assert [network.stages[at].channels for at in network.scored] == scored
    assert len(network.sides) == len(scored) - 1


def test_the_maps_of_vgg_are_those_behind_its_poolings() -> None:
    with torch.device("meta"):
        network: Any = segmenter("fcn").build(THREE)
        stages = network.stages
    assert [stage.side for stage in stages] == [112, 56, 28, 14, 7]
    assert [stage.parts[-1] for stage in stages] == [f"features.{n}" for n in (4, 9, 16, 23, 30)]


@pytest.mark.parametrize(("side", "entered"), [(388, 572), (372, 556), (380, 572)])
def test_unpadded_convolutions_need_what_the_paper_gives_them(side: int, entered: int) -> None:
    assert entering(side, 4, crop=True) == entered
    assert entering(side, 4, crop=False) % 16 == 0


def test_a_mirrored_frame_is_told_at_its_own_pixels() -> None:
    network = network_of(small("unet", edges="crop", depth=1)).double()
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(part.weight, 0.01)
            nn.init.constant_(part.bias, 0.0)  # type: ignore[arg-type]
    frame = torch.full((1, 3, 31, 31), 0.5, dtype=torch.float64)
    scores = network.scores(frame)
    assert scores.shape == (1, 4, 31, 31)
    changed = frame.clone()
    changed[0, :, 15, 15] += 50
    moved = (network.scores(changed) - scores).abs().sum((0, 1)) > 1e-10
    rows, columns = moved.nonzero().float().mean(0)
    assert abs(rows - 15) <= 1 and abs(columns - 15) <= 1  # the middle of what it moves


def test_cropped_copies_learn_as_padded_ones_do() -> None:
    network = network_of(small("unet", edges="crop", depth=1)).train()
    rgb = torch.randn(2, 3, 1, 32, 32)
    told = network({"rgb": rgb, "mask": torch.randint(0, 4, (2, 1, 32, 32))})
    assert told["loss"].isfinite()
    told["loss"].backward()
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    assert len(weights) == 8  # three pairs of convolutions, one that doubles, the scores
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_frames_that_cannot_be_mirrored_or_halved_are_refused() -> None:
    assert margin(4) == 100
    with pytest.raises(RecipeError, match=r"a size above 100, or edges: pad"):
        make("unet", {"edges": "crop", "size": 96})
    with pytest.raises(RecipeError, match=r"a multiple of 8"):
        make("enet", {"size": 100})
    with pytest.raises(RecipeError, match=r"a size of at least 32, or fewer stages"):
        make("segnet", {"size": 16, "resize": 16})
    with pytest.raises(RecipeError, match=r"without mixup"):
        make("segnet", {"augment": ("crop", "mixup")})


@pytest.mark.parametrize("name", [*NAMES, "mask_rcnn", "motion_foreground"])
def test_masks_are_told_of_one_place_of_a_frame(name: str) -> None:
    with pytest.raises(RecipeError, match="test_crops"):
        make(name, {"test_crops": 3})


# --- what is lost


def test_void_teaches_nothing() -> None:
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    truth = torch.full((2, 4, 4), VOID)
    truth[0, :2] = 1
    pixel_loss(scores, truth, None).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    taught = scores.grad.abs().sum(1) > 0
    assert taught[0, :2].all() and not taught[0, 2:].any() and not taught[1].any()
    alone = pixel_loss(scores[:1], truth[:1], None)
    torch.testing.assert_close(pixel_loss(scores, truth, None), alone / 2)


def test_an_error_counts_what_its_class_weighs() -> None:
    scores, truth = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
    loss = pixel_loss(scores, truth, torch.tensor([1.0, 5.0]))
    assert loss.item() == pytest.approx((3 + 5) / 4 * np.log(2))


def test_rare_classes_weigh_more() -> None:
    weights = segmenter("enet", shares=(0.9, 0.1)).class_weights()
    assert weights == pytest.approx((1 / np.log(1.92), 1 / np.log(1.12)))
    weights = segmenter("segnet", shares=(0.5, 0.25, 0.1), balance="median").class_weights()
    assert weights == pytest.approx((0.5, 1, 2.5))
    assert segmenter("segnet").class_weights() == ()
    with pytest.raises(PluginError, match=r"model\.shares has 2 numbers; wanted 4: the ground"):
        segmenter("segnet", shares=(0.5, 0.5)).build(THREE)
    with pytest.raises(PluginError, match="without classes of masks"):
        segmenter("segnet").build(Info())


def test_no_checkpoint_brings_the_weights_of_classes() -> None:
    plain, weighted = (
        network_of(small("enet", shares=shares)) for shares in ((), (0.7, 0.1, 0.1, 0.1))
    )
    assert plain.state_dict().keys() == weighted.state_dict().keys()
    assert weighted.class_weights is not None and plain.class_weights is None


# --- what is measured


def test_pixels_are_counted_by_what_is_true_and_told() -> None:
    truth = np.array([[0, 1, 1], [2, VOID, 2]], np.float32)
    told = np.array([[0, 1, 0], [2, 1, 1]])
    assert confusion(told, truth, 3).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_figures_by_hand() -> None:
    meter = SegmentMeter()
    meter.update({"confusion": [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]}, {})
    figures = meter.compute()
    assert figures["iou_0"] == figures["iou_2"] == 0.5
    assert figures["iou_1"] == pytest.approx(1 / 3)
    assert "iou_3" not in figures  # neither true nor told of any pixel
    assert figures["miou"] == pytest.approx((0.5 + 0.5 + 1 / 3) / 3)
    assert figures["class_average"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert figures["pixel_accuracy"] == pytest.approx(3 / 5)
    assert figures["constant"] == pytest.approx((2 / 5) / 3)  # of the second or the third class


def test_figures_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth, told = rng.choice(4, (2, 3, 16, 16), p=(0.6, 0.2, 0.1, 0.1))  # of five, the last nowhere
    right = np.array((0.9, 0.6, 0.4, 0.2))[truth]  # so that no figure is another one
    told = np.where(rng.random(truth.shape) < right, truth, told)
    truth[rng.random(truth.shape) < 0.2] = VOID
    meter = SegmentMeter()
    for told_HW, truth_HW in zip(told, truth, strict=True):
        meter.update({"confusion": confusion(told_HW, truth_HW, 5)}, {})
    theirs = {
        "miou": MulticlassJaccardIndex(5, average="macro", ignore_index=VOID),
        "class_average": MulticlassAccuracy(5, average="macro", ignore_index=VOID),
        "pixel_accuracy": MulticlassAccuracy(5, average="micro", ignore_index=VOID),
    }
    wanted = {
        name: float(each(torch.from_numpy(told), torch.from_numpy(truth)))
        for name, each in theirs.items()
    }
    figures = meter.compute()
    assert {name: figures[name] for name in theirs} == pytest.approx(wanted)
    assert len({round(value, 3) for value in wanted.values()}) == 3


def test_parts_are_the_whole_and_nothing_known_is_told() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (5, 3, 3))
    whole, one, two = SegmentMeter(), SegmentMeter(), SegmentMeter()
    for place, each in enumerate(counts):
        whole.update({"confusion": each}, {})
        (one if place < 2 else two).update({"confusion": each}, {})
    one.merge(two)
    one.merge(SegmentMeter())
    assert one.compute() == whole.compute()
    bare = SegmentMeter()
    bare.update({"mask": np.zeros((2, 2))}, {})
    with pytest.raises(DataError, match="no pixel of a known class was measured"):
        bare.compute()


def test_an_answer_is_the_middle_mask_and_all_pixels() -> None:
    plugin = small("segnet")
    outputs = []
    for told in (0, 1, 2):
        scores = np.zeros((3, 2, 2), np.float32)
        scores[told] = 1
        outputs.append({"class_scores": scores, "truth": np.full((2, 2), 1, np.float32)})
    first = np.array([[0], [40], [80]])
    blank = np.zeros((3, 1), np.int64)
    takes = Takes(("test",), blank, blank, first, first, np.zeros(3, np.uint64))
    answer = plugin.answer(outputs, takes)
    assert answer["frame"] == 40 and (answer["mask"] == 1).all()
    assert answer["mask"].dtype == np.uint8
    assert answer["confusion"].tolist() == [[0, 0, 0], [4, 4, 4], [0, 0, 0]]
    void = [{**each, "truth": np.full((2, 2), VOID, np.float32)} for each in outputs]
    assert "confusion" not in plugin.answer(void, takes)  # of a video that nobody marked


# --- which records


def test_records_without_masks_are_left_out_where_others_have_some() -> None:
    plugin = segmenter("unet")
    rows = tiny.rows(3)
    assert plugin.unfit(tiny.catalog_of(rows)) == {}  # the plan tells that none has any
    marked = tiny.catalog_of([{**rows[0], "masks_sha256": "0" * 64}, *rows[1:]])
    assert plugin.unfit(marked)["without masks"].tolist() == [False, True, True]


def test_the_classes_are_those_of_the_masks() -> None:
    made = tiny.catalog_of(tiny.rows(2))
    masked = Catalog(made.folder, made.table, {**made.meta, "mask_classes": ["car", "road"]})
    assert segmenter("fcn").class_names(masked) == ("car", "road")
    assert make("c3d", {}).class_names(masked) == made.classes


def test_classes_of_pixels_are_told_by_name() -> None:
    counts = [[4, 1, 0], [1, 3, 0], [0, 0, 0]]
    told = pixel_figures([{"confusion": counts}, {"mask": 0}, {"confusion": counts}], ("a", "b"))
    assert told["pixels"]["counts"] == [[8, 2, 0], [2, 6, 0], [0, 0, 0]]
    ground, first, second = told["pixels"]["by_class"]
    assert ground == {"name": "(none)", "pixels": 10, "told": 10, "accuracy": 0.8, "iou": 8 / 12}
    assert (first["name"], first["iou"]) == ("a", 0.6)
    assert second == {"name": "b", "pixels": 0, "told": 0, "accuracy": None, "iou": None}
    assert pixel_figures([{"mask": 0}], ("a", "b")) == {}
