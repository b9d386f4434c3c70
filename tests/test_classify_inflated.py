"""Inflated networks and torchvision's own: what they keep of pictures, and how large they are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from clipmill.errors import PluginError
from clipmill.plugin import Info, Plugin
from clipmill_classify.backbones import frame_encoder
from clipmill_classify.inflated import Inflated
from clipmill_classify.inflated_network import InflatedConv, InflatedPool, clips_of, inflated
from clipmill_classify.torchvision_video import TorchvisionVideo

# Its parameters at 400 classes, as torchvision tells them.
VIDEO_NETWORKS = {
    "r3d_18": models.video.R3D_18_Weights,
    "mc3_18": models.video.MC3_18_Weights,
    "r2plus1d_18": models.video.R2Plus1D_18_Weights,
    "s3d": models.video.S3D_Weights,
    "mvit_v1_b": models.video.MViT_V1_B_Weights,
    "mvit_v2_s": models.video.MViT_V2_S_Weights,
    "swin3d_t": models.video.Swin3D_T_Weights,
    "swin3d_s": models.video.Swin3D_S_Weights,
    "swin3d_b": models.video.Swin3D_B_Weights,
}
CLIPS = {"mvit": (16, 224), "swin": (32, 224)}  # frames and size; others take any


def built(plugin: Plugin, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return plugin.build(Info(tuple(map(str, range(classes)))))


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def stirred(network: nn.Module, size: int) -> nn.Module:
    """Let running statistics and biases be like those of a network that has learnt."""
    torch.manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        network.train()(torch.randn(16, 3, size, size))
    return network.eval()


STILL = [
    ("resnet50", 1.0, 64, 7),
    ("googlenet", 1.0, 64, 7),
    ("resnet18", 0.25, 64, 1),
    ("googlenet", 0.25, 64, 8),
    ("densenet121", 0.125, 64, 4),
    ("mobilenet_v2", 0.25, 64, 5),
    ("vgg11_bn", 0.125, 32, 5),
    ("shufflenet_v2_x0_5", 1.0, 64, 5),
    ("inception_v3", 0.125, 96, 3),
]


@pytest.fixture
def precise() -> Iterator[None]:
    """Compute in double precision, so that nothing can hide in rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize(("backbone", "width", "size", "frames"), STILL)
def test_a_still_clip_gives_what_its_picture_gives(
    backbone: str, width: float, size: int, frames: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    flat, features = frame_encoder(backbone, size, width)
    torch.save(stirred(flat, size).state_dict(), tmp_path / "weights.pt")
    deep, same = inflated(backbone, frames, size, width, str(tmp_path / "weights.pt"), None)
    assert same == features
    assert sum(isinstance(m, InflatedConv) for m in deep.modules()) > 5
    pictures = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = flat(pictures)
        got = deep.eval()(pictures[:, :, None].expand(-1, -1, frames, -1, -1))
    assert 0.01 < wanted.abs().max() < 100
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backbone", ["resnet50", "googlenet"])
def test_a_still_clip_is_answered_as_by_the_2d_network(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    extra = {"init_weights": False} if backbone == "googlenet" else {}  # with its side heads
    flat = stirred(models.get_model(backbone, num_classes=4, **extra), 64)
    torch.save(flat.state_dict(), tmp_path / "weights.pt")
    plugin = Inflated(backbone=backbone, size=64, frames=4, weights=str(tmp_path / "weights.pt"))
    model = built(plugin).eval()
    model.head[-1].load_state_dict(flat.fc.state_dict())  # type: ignore[index, union-attr]
    pictures = torch.randn(2, 3, 64, 64)
    still = pictures[:, :, None].expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        wanted = flat(pictures).softmax(1)
        outputs, _ = model.predict({"rgb": still})  # type: ignore[operator]
    torch.testing.assert_close(outputs["probabilities"], wanted, rtol=0, atol=1e-4)


def test_filters_are_replicated_over_time_and_scaled() -> None:
    torch.manual_seed(0)
    flat = nn.Conv2d(6, 4, 5, stride=2, padding=2, groups=2)
    deep = InflatedConv(flat, span=3, step=1)
    assert deep.weight.shape == (4, 3, 3, 5, 5)
    for moment in range(3):
        torch.testing.assert_close(deep.weight[:, :, moment], flat.weight / 3)
    deep.frames = 4
    frames = torch.randn(8, 6, 9, 9)  # two clips
    alone = flat(frames)
    with_bias = deep(frames) - flat.bias[:, None, None]  # type: ignore[index]
    middle = (alone[0] + alone[1] + alone[2]) / 3 - flat.bias[:, None, None]  # type: ignore[index]
    torch.testing.assert_close(with_bias[1], middle, rtol=1e-4, atol=1e-5)
    first = (2 * alone[4] + alone[5]) / 3 - flat.bias[:, None, None]  # type: ignore[index]
    torch.testing.assert_close(with_bias[4], first, rtol=1e-4, atol=1e-5)  # no clip sees another


def test_pools_reach_over_time() -> None:
    pool = InflatedPool(nn.MaxPool2d(3, 2, 1), span=3, step=2)
    pool.frames = 5
    frames = torch.randn(10, 2, 8, 8)
    wanted = nn.functional.max_pool3d(
        frames.unflatten(0, (2, 5)).transpose(1, 2), 3, 2, 1
    )  # what is beside a clip is never the largest
    got = pool(frames).unflatten(0, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(got, wanted)
    mean = InflatedPool(nn.AvgPool2d(2), span=2, step=2)
    mean.frames = 4
    moments = mean(frames[:8]).unflatten(0, (2, 2)).transpose(1, 2)
    clips = frames[:8].unflatten(0, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(moments[:, :, 0], nn.functional.avg_pool3d(clips, 2)[:, :, 0])


def test_time_goes_on_with_the_frames_at_its_ends() -> None:
    frames = torch.arange(6.0).view(6, 1, 1, 1)
    assert clips_of(frames, 3, 3).flatten(1).tolist() == [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5]]
    assert clips_of(frames, 3, 2).flatten(1).tolist() == [[0, 1, 2, 2], [3, 4, 5, 5]]


def test_inflated_inception_is_as_large_as_in_its_paper() -> None:
    with torch.device("meta"):
        model = built(Inflated(backbone="googlenet", frames=64), classes=400)
    assert parameters(model) / 1e6 == pytest.approx(12.3, abs=0.5)  # "12M" for one stream
    reaching = [m for m in model.modules() if isinstance(m, InflatedPool)]
    assert sorted(m.span for m in reaching) == [2, *10 * [3]]  # and two that leave time alone
    assert model.encoder.moments == 8  # type: ignore[union-attr]


def test_inflated_resnet50_is_its_2d_network_and_what_time_adds() -> None:
    with torch.device("meta"):
        flat, features = frame_encoder("resnet50", 224)
        model = built(Inflated(), classes=101)
    wide = [m for m in flat.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    added = sum((m.kernel_size[0] - 1) * m.weight.numel() for m in wide)
    assert len(wide) == 17  # the first one, and one in each block
    assert parameters(flat) == 23_508_032
    assert parameters(model) == parameters(flat) + added + features * 101 + 101
    assert model.encoder.moments == 1  # type: ignore[union-attr]  # of 16 frames, halved four times


def test_a_span_can_be_given() -> None:
    with torch.device("meta"):
        made = [built(Inflated(backbone="resnet18", span=span)) for span in (1, 3, None)]
        flat, _ = frame_encoder("resnet18", 224)
    assert parameters(made[0].encoder) == parameters(flat)  # type: ignore[arg-type]
    sizes = [parameters(model) for model in made]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


def test_inflated_networks_see_motion() -> None:
    model = built(Inflated(**{**Inflated.small, "frames": 8})).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, InflatedConv):  # as after some learning
                layer.weight.add_(torch.randn_like(layer.weight) * layer.weight.std())
        clips = torch.randn(1, 3, 8, 32, 32)
        told = [model.encoder(c) for c in (clips, clips.flip(2))]  # type: ignore[operator]
    assert (told[0] - told[1]).abs().max() > 1e-3 * told[0].abs().max()


def test_a_network_that_pools_outside_its_layers_keeps_time() -> None:
    with torch.device("meta"):
        model = built(Inflated(backbone="inception_v3", size=96, resize=96, frames=5))
        assert model.encoder(torch.zeros(2, 3, 5, 96, 96)).shape == (2, 2048)  # type: ignore[operator]
    assert model.encoder.moments == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("plugin", [Inflated(), Inflated(backbone="googlenet"), TorchvisionVideo()])
def test_narrow_variants_are_the_same_networks(plugin: Plugin) -> None:
    with torch.device("meta"):
        whole, part = built(plugin), built(plugin.model_copy(update={"width": 0.25}))
    assert list(whole.state_dict()) == list(part.state_dict())
    assert [type(m) for m in whole.modules()] == [type(m) for m in part.modules()]
    assert parameters(part) < parameters(whole) / 10


@pytest.mark.parametrize("network", list(VIDEO_NETWORKS))
def test_torchvisions_networks_are_as_large_as_torchvision_says(network: str) -> None:
    frames, size = CLIPS.get(network[:4], (16, 112))
    plugin = TorchvisionVideo(backbone=network, frames=frames, size=size, resize=size)  # type: ignore[arg-type]
    with torch.device("meta"):
        model = built(plugin, classes=400)
    assert parameters(model) == VIDEO_NETWORKS[network].DEFAULT.meta["num_params"]


@pytest.mark.parametrize("network", list(VIDEO_NETWORKS))
def test_all_of_torchvisions_networks_learn_when_narrow(network: str) -> None:
    plugin = TorchvisionVideo(backbone=network, width=0.125, frames=8, size=64, resize=64)  # type: ignore[arg-type]
    model = built(plugin)
    names = dict(model.named_parameters())
    model({"rgb": torch.randn(2, 3, 8, 64, 64), "target": torch.tensor([0, 1])})["loss"].backward()
    dry = {name for name, weight in names.items() if weight.grad is None}
    assert dry == {name for name, weight in names.items() if not weight.requires_grad}
    assert len(dry) == (3 if network == "mvit_v2_s" else 0)  # places that its last block ignores
    assert parameters(model) < 3_000_000
    outputs, _ = model.eval().predict({"rgb": torch.randn(1, 3, 8, 64, 64)})  # type: ignore[operator]
    torch.testing.assert_close(outputs["probabilities"].sum(1), torch.ones(1))


def test_a_video_networks_own_weights_fit(tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = models.video.mc3_18(num_classes=4).eval()
    torch.save(given.state_dict(), tmp_path / "weights.pt")
    plugin = TorchvisionVideo(
        backbone="mc3_18", frames=4, size=32, resize=32, weights=str(tmp_path / "weights.pt")
    )
    model = built(plugin).eval()
    model.head[-1].load_state_dict(given.fc.state_dict())  # type: ignore[index, union-attr]
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.logits({"rgb": clips}), given(clips))  # type: ignore[operator]


def test_clips_that_a_network_cannot_take_are_told() -> None:
    with pytest.raises(PluginError, match=r"mvit_v1_b cannot take 5 frames of 64 x 64"):
        built(TorchvisionVideo(backbone="mvit_v1_b", frames=5, size=64, resize=64))
