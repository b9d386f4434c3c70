"""Fusion of frames: what each way sees of time, its size, and what it does with odd input."""

from pathlib import Path

import pytest
import torch
from torch import nn

from clipmill import infer, recipe, video
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Info, Plugin, make
from clipmill_classify.backbones import frame_encoder
from clipmill_classify.early_fusion import EarlyFusion
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.late_fusion import LateFusion
from clipmill_classify.pooled import Pooled
from clipmill_classify.slow_fusion import SlowFusion
from clipmill_classify.slow_fusion_network import spans
from tiny import moving, recipe_of

RESNET18 = 11_176_512  # parameters of torchvision's, without its last layer
SMALL = {"width": 0.125, "size": 32, "resize": 36}
EVERY = (
    "late_fusion", "pooled", "early_fusion", "slow_fusion", "inflated", "torchvision_video",
    "transformer",
)  # fmt: skip


def built(plugin: Plugin, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return plugin.build(Info(tuple(map(str, range(classes)))))


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def scores(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval().logits({"rgb": clips})  # type: ignore[operator]
    return logits


def test_frames_are_encoded_each_for_itself() -> None:
    torch.manual_seed(0)
    encoder = FrameEncoder("resnet18", 32, 0.125).eval()
    clips = torch.randn(2, 3, 5, 32, 32)
    with torch.no_grad():
        x_BTD = encoder(clips)
        alone = encoder.network(clips[1, :, 3][None])[0]
    assert x_BTD.shape == (2, 5, encoder.features)
    torch.testing.assert_close(x_BTD[1, 3], alone)


@pytest.mark.parametrize(
    "name", ["pooled", "late_fusion", "cnn_rnn", "attention_lstm", "frame_descriptors"]
)
def test_a_backbone_of_frames_has_the_same_names_in_every_network(name: str) -> None:
    with torch.device("meta"):
        one, other = (built(make(each, SMALL)) for each in ("single_frame", name))
    mine, theirs = (
        {n: w.shape for n, w in model.state_dict().items() if n.startswith("encoder.")}
        for model in (one, other)
    )
    assert mine == theirs
    assert "encoder.network.conv1.weight" in mine


@pytest.mark.parametrize("pool", ["mean", "max", "sum"])
def test_pooling_is_blind_to_the_order_of_frames(pool: str) -> None:
    model = built(Pooled(**SMALL, frames=6, pool=pool))  # type: ignore[arg-type]
    model.head.double()  # type: ignore[union-attr, operator]
    clips = torch.randn(2, 3, 6, 32, 32)
    with torch.no_grad():
        # Features of a frame are the same wherever it stands; their sum is taken exactly.
        features = model.eval().encoder(clips).double()  # type: ignore[union-attr, operator]
    model.encoder = nn.Identity()
    shuffled = features[:, torch.randperm(6)]
    assert not torch.equal(shuffled, features)
    torch.testing.assert_close(scores(model, shuffled), scores(model, features), rtol=0, atol=1e-14)


def test_a_pooled_clip_answers_alike_in_any_order_and_a_fused_one_does_not() -> None:
    clips = torch.randn(2, 3, 6, 32, 32)
    backward = clips.flip(2)
    pooled, fused = built(Pooled(**SMALL, frames=6)), built(LateFusion(**SMALL, frames=6))
    nn.init.normal_(fused.head[-1].weight)  # type: ignore[index, union-attr]
    torch.testing.assert_close(scores(pooled, backward), scores(pooled, clips))
    assert (scores(fused, backward) - scores(fused, clips)).abs().max() > 0.1


def test_sizes_are_those_of_their_parts() -> None:
    with torch.device("meta"):
        late, pooled = built(LateFusion(), 101), built(Pooled(), 101)
        early = built(EarlyFusion(), 101)
    head = 512 * 101 + 101
    assert parameters(pooled) == RESNET18 + head
    assert parameters(late) == RESNET18 + (16 * 512 * 1024 + 1024) + (1024 * 101 + 101)
    assert parameters(early) == RESNET18 + 9 * 3 * 64 * 7 * 7 + head  # nine frames more


def test_slow_fusion_has_the_layers_of_its_paper() -> None:
    with torch.device("meta"):
        model = built(SlowFusion(), 487)  # the classes of Sports-1M
        features = model.features(torch.zeros(1, 3, 10, 170, 170))  # type: ignore[operator]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert [m.out_channels for m in convolutions] == [96, 256, 384, 384, 256]
    assert [m.kernel_size for m in convolutions[:3]] == [(4, 11, 11), (2, 5, 5), (2, 3, 3)]
    assert [m.stride for m in convolutions[:3]] == [(2, 3, 3), (2, 1, 1), (2, 1, 1)]
    assert [m.kernel_size for m in convolutions[3:]] == 2 * [(1, 3, 3)]
    assert features.shape == (1, 256, 1, 6, 6)
    assert [m.in_features for m in model.modules() if isinstance(m, nn.Linear)] == [
        9216, 4096, 4096,
    ]  # fmt: skip
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in model.modules()) == 2
    assert parameters(model) == 61_880_263  # the sum of its layers by hand


@pytest.mark.parametrize("frames", [4, 5, 8, 9, 10, 16, 31])
def test_slow_fusion_takes_in_every_frame(frames: int) -> None:
    left = frames
    for spanned, stride in spans(frames):
        left = (left - spanned) // stride + 1
    assert left == 1
    model = built(SlowFusion(**SMALL, frames=frames, batch_norm=True)).eval()
    clips = torch.randn(1, 3, frames, 32, 32, requires_grad=True)
    model.features(clips).sum().backward()  # type: ignore[operator]
    assert clips.grad is not None
    assert clips.grad.abs().amax((0, 1, 3, 4)).min() > 0


def test_early_fusion_sees_order_in_its_first_layer() -> None:
    model = built(EarlyFusion(**SMALL, frames=4)).eval()
    assert model.encoder.network.conv1.in_channels == 12  # type: ignore[union-attr]
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        told = [model.encoder(c) for c in (clips, clips.flip(2))]  # type: ignore[operator]
    assert (told[0] - told[1]).abs().max() > 0.01


def test_early_fusion_starts_from_2d_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    still, _ = frame_encoder("resnet18", 32, width=0.125)
    torch.save(still.state_dict(), tmp_path / "weights.pt")
    model = built(EarlyFusion(**SMALL, frames=4, weights=str(tmp_path / "weights.pt"))).eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = still.eval()(pictures)
        got = model.encoder(pictures[:, :, None].expand(-1, -1, 4, -1, -1))  # type: ignore[operator]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plugin", [LateFusion(), Pooled(), EarlyFusion(), SlowFusion()])
def test_narrow_variants_are_the_same_networks(plugin: Plugin) -> None:
    with torch.device("meta"):
        whole, part = built(plugin), built(plugin.model_copy(update={"width": 0.25}))
    assert list(whole.state_dict()) == list(part.state_dict())
    assert [type(m) for m in whole.modules()] == [type(m) for m in part.modules()]
    assert parameters(part) < parameters(whole) / 3


@pytest.mark.parametrize("name", [name for name in EVERY if name != "slow_fusion"])
def test_weights_of_another_shape_are_one_clear_line(name: str, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "weights.pt")
    small = type(make(name, {})).small
    plugin = make(name, {**small, "weights": str(tmp_path / "weights.pt")})
    with pytest.raises(PluginError, match="does not fit the backbone: .* tensors differ") as told:
        built(plugin)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", EVERY)
def test_a_clip_longer_than_its_video_goes_on_with_the_last_frame(
    name: str, tmp_path: Path
) -> None:
    small = type(make(name, {})).small
    asked = recipe.parse(recipe_of(model={"plugin": name, "width": 1, **small, "test_clips": 2}))
    classes = ("left", "right")
    torch.manual_seed(0)
    model = infer.Model(infer.build(asked.plugin(), classes), asked, classes, video.Profile())
    answers = []
    for count in (1, 2):  # of one frame, and of two that are the same
        path = str(tmp_path / f"{count}.mp4")
        video.encode(path, moving(5, 0, frames=count), fps=10)
        answers.append(infer.answer(model, Path(path).read_bytes()))
    probabilities = [{c["name"]: c["probability"] for c in a["classes"]} for a in answers]
    assert set(probabilities[0]) == set(classes)
    assert probabilities[0] == pytest.approx(probabilities[1], abs=0.02)


def test_slow_fusion_needs_frames_to_fuse() -> None:
    with pytest.raises(RecipeError, match=r"model\.frames is 3; wanted .*greater than or equal"):
        make("slow_fusion", {"frames": 3})
