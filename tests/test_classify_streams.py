"""Classifiers that see more than frames: their streams, flow by RAFT, and how they are fused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torchvision.models import optical_flow

from clipmill import augment, plugin, recipe, video
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Decoded, Info, Plugin
from clipmill_classify.backbones import frame_encoder
from clipmill_classify.flow_network import PIXELS, RaftFlow
from clipmill_classify.multi_stream import MultiStream
from clipmill_classify.multi_stream_network import Joint
from clipmill_classify.sound_network import SoundEncoder
from clipmill_classify.two_stream import TwoStream

CLASSES = ("a", "b", "c")
NARROW: Mapping[str, Any] = {
    "backbone": "resnet18", "width": 0.125, "frames": 4, "rate": 5.0, "size": 32, "resize": 36,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def two(**fields: Any) -> TwoStream:
    return TwoStream(**{**NARROW, **fields})


def multi(**fields: Any) -> MultiStream:
    return MultiStream(**{**NARROW, **fields})


def built(made: Plugin, classes: tuple[str, ...] = CLASSES, **info: Any) -> nn.Module:
    torch.manual_seed(0)
    return made.build(Info(classes, **info))


def decoded(made: Plugin, seed: int = 0, heard: float = 1.0) -> Decoded:
    """What the feed gives for a take: noise in all streams of the view."""
    rng, view = np.random.default_rng(seed), made.views()["train"]
    frames, side = view.frames, view.size
    streams: dict[str, NDArray[Any]] = {
        "rgb": rng.integers(0, 256, (frames, side, side, 3), np.uint8),
        "flow": rng.integers(-40, 40, (frames - 1, side, side, 2), np.int8),
        "audio": rng.uniform(-0.5, 0.5, round(frames / view.rate * 16_000)).astype(np.float32),
    }
    streams = {name: streams[name] for name in view.streams}
    if "audio" in streams:
        streams["audio"] *= np.float32(heard)
        streams["heard"] = np.asarray(heard, np.float32)
    row = {"key": "k", "target": seed % len(CLASSES), "label": CLASSES[seed % len(CLASSES)]}
    return Decoded("train", ("train",), (streams,), ({**row, "targets": [0], "class_count": 3},))


def batch(made: Plugin, count: int = 3, heard: float = 1.0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    samples = [made.sample(decoded(made, seed, heard), rng) for seed in range(count)]
    return augment.prepare(made.collate(samples), made.views()["train"], training=False)


# --- two streams


def test_two_streams_at_paper_size() -> None:
    paper = TwoStream()
    with torch.device("meta"):
        network = paper.build(Info(tuple(map(str, range(101)))))
    spatial, temporal = (
        network.get_submodule(n + ".encoder.conv1") for n in ("spatial", "temporal")
    )
    assert (spatial.in_channels, temporal.in_channels) == (3, 20)  # 2L, L = 10
    # A ResNet-50 of 101 classes each; 17 more channels under the temporal one's first layer.
    of_one = 25_557_032 - 2049 * 1000 + 2049 * 101
    expected = 2 * of_one + 17 * 64 * 7 * 7
    assert sum(weight.numel() for weight in network.parameters()) == expected


@pytest.mark.parametrize(
    ("streams", "flow", "seen", "frames"),
    [
        ("both", "dis", {"rgb", "flow"}, 4),
        ("temporal", "dis", {"flow"}, 4),
        ("spatial", "dis", {"rgb"}, 1),
        ("both", "raft", {"rgb"}, 4),
        ("temporal", "raft", {"rgb"}, 4),
    ],
)
def test_a_view_asks_for_what_its_streams_need(
    streams: str, flow: str, seen: set[str], frames: int
) -> None:
    view = two(streams=streams, flow=flow).views()["test"]
    assert set(view.streams) == seen and view.frames == frames


def test_of_the_frames_only_one_travels() -> None:
    made = two()
    sample = made.sample(decoded(made), np.random.default_rng(0))
    assert sample["rgb"].shape == (1, 32, 32, 3) and sample["flow"].shape == (3, 32, 32, 2)
    np.testing.assert_array_equal(sample["rgb"][0], decoded(made).streams[0]["rgb"][2])


def test_a_stream_sees_only_its_own() -> None:
    made = two()
    network, given = built(made).eval(), batch(made)
    for name, other in (("spatial", "flow"), ("temporal", "rgb")):
        alone = two(streams=name)
        network_alone = built(alone).eval()
        network_alone.load_state_dict(
            {n: w for n, w in network.state_dict().items() if n in network_alone.state_dict()}
        )
        scores = network_alone.predict({n: x for n, x in given.items() if n != other})[0]
        wanted = network._scores(given)[name].softmax(1)
        torch.testing.assert_close(scores["probabilities"], wanted)


def test_flow_is_stacked_field_by_field() -> None:
    made = two(streams="temporal")
    network, given = built(made).eval(), batch(made)
    seen: list[torch.Tensor] = []
    network.temporal.encoder.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    network.predict(given)
    flow = given["flow"] / PIXELS
    stacked = [flow[:, axis, field] for field in range(3) for axis in range(2)]
    torch.testing.assert_close(seen[0], torch.stack(stacked, 1))


@pytest.mark.parametrize("labels", ["one", "several"])
def test_class_probabilities_are_averaged(labels: str) -> None:
    made = two(labels=labels)
    network, given = built(made).eval(), batch(made)
    spatial, temporal = network._scores(given).values()
    turned = torch.sigmoid if labels == "several" else lambda x: x.softmax(1)
    (answer,) = network.predict(given)[0].values()
    torch.testing.assert_close(answer, (turned(spatial) + turned(temporal)) / 2)


def test_a_linear_fusion_learns_without_changing_the_streams() -> None:
    average, linear = built(two()), built(two(fusion="linear"))
    given = batch(two())
    for network in (average, linear):
        network.eval()
        network(given)["loss"].backward()
    for name, weight in average.named_parameters():
        torch.testing.assert_close(linear.get_parameter(name).grad, weight.grad)
    layer = linear.get_parameter("fusion.layer.weight")
    assert layer.grad is not None and layer.grad.any()
    spatial, temporal = linear._scores(given).values()
    torch.testing.assert_close(linear.logits(given), (spatial + temporal) / 2)  # before it learns


def test_both_streams_are_told_of_in_training() -> None:
    told = built(two())(batch(two()))
    assert {"loss", "accuracy", "spatial_loss", "temporal_loss"} <= told.keys()
    torch.testing.assert_close(told["loss"], told["spatial_loss"] + told["temporal_loss"])


# --- encoders of other channels


def test_weights_for_colours_are_averaged_for_other_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    colours = frame_encoder("resnet18", 32)[0]
    save_file(colours.state_dict(), tmp_path / "w.safetensors")
    made = frame_encoder("resnet18", 32, weights=str(tmp_path / "w.safetensors"), in_channels=6)[0]
    torch.testing.assert_close(
        made.conv1.weight, colours.conv1.weight.mean(1, keepdim=True).expand(-1, 6, -1, -1)
    )
    torch.testing.assert_close(made.layer4[1].conv2.weight, colours.layer4[1].conv2.weight)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "vgg11", "vit_b_32"])
def test_encoders_take_other_channels(backbone: str) -> None:
    with torch.device("meta"):
        encoder, features = frame_encoder(backbone, 64, in_channels=2)
        assert encoder(torch.zeros(2, 2, 64, 64)).shape == (2, features)
    drawn = frame_encoder("resnet18", 32, 0.125, in_channels=2)[0].conv1.weight
    assert (drawn[:, 0] != drawn[:, 1]).any()


# --- flow by RAFT


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights for the small RAFT, drawn at random."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("raft") / "small.safetensors"
    save_file(optical_flow.raft_small(weights=None).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def by_raft(raft_weights: str) -> TwoStream:
    return two(flow="raft", raft_size="small", raft_weights=raft_weights, frames=3)


def test_raft_comes_from_a_file_and_never_learns(by_raft: TwoStream, raft_weights: str) -> None:
    network, given = built(by_raft).train(), batch(by_raft, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = by_raft.optimizer(network)
    network(given)["loss"].backward()
    optimizer.step()
    of_raft = {name for name in before if name.startswith("flow.raft.")}
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in network.named_parameters():
        frozen = name in of_raft
        assert (weight.grad is None) == frozen == (id(weight) not in held), name
    after = network.state_dict()
    assert of_raft and all(torch.equal(before[name], after[name]) for name in of_raft)
    assert not torch.equal(before["temporal.head.bias"], after["temporal.head.bias"])
    assert not any(part.training for part in network.flow.modules())


def test_a_checkpoint_holds_raft_so_that_no_file_is_needed(by_raft: TwoStream) -> None:
    network = built(by_raft).eval()
    elsewhere = by_raft.model_copy(update={"raft_weights": "/nowhere"})
    again = built(elsewhere, restored=True)
    again.load_state_dict(network.state_dict())
    given = batch(by_raft, 2)
    torch.testing.assert_close(again.eval().predict(given)[0], network.predict(given)[0])


def test_raft_sees_the_frames_as_they_were_shown(raft_weights: str) -> None:
    made = multi(streams=("motion",), flow="raft", raft_size="small", raft_weights=raft_weights)
    source = built(made).parts["motion"].source
    assert isinstance(source, RaftFlow)
    bytes_ = decoded(made).streams[0]["rgb"]
    given = {"rgb": np.repeat(bytes_[None], 2, 0), "seed": np.zeros(2, np.uint64)}
    ready = augment.prepare(given, made.views()["train"], training=False)
    pictures = source._pictures(ready["rgb"])
    assert pictures.shape == (2, 4, 3, 128, 128)  # RAFT takes no smaller ones
    shown = torch.from_numpy(bytes_).permute(0, 3, 1, 2) / 255 * 2 - 1
    small = nn.functional.interpolate(pictures[0], (32, 32), mode="area")
    assert torch.corrcoef(torch.stack([small.flatten(), shown.flatten()]))[0, 1] > 0.9
    assert -1 <= pictures.min() < -0.9 and 0.9 < pictures.max() <= 1
    assert source(ready).shape == (2, 2, 3, 32, 32) and source(ready).isfinite().all()


def test_flow_of_larger_pictures_is_in_pixels_of_the_smaller() -> None:
    from clipmill_classify.flow_network import _in_size

    flow = torch.stack([torch.full((128, 160), 8.0), torch.full((128, 160), -4.0)])[None]
    made = _in_size(flow, 64, 80)
    assert made.shape == (1, 2, 64, 80)
    torch.testing.assert_close(made[0, :, 10, 10], torch.tensor([4.0, -2.0]))


def test_raft_without_weights_or_with_others_is_told(raft_weights: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"set model\.raft_weights"):
        built(two(flow="raft"))
    with pytest.raises(PluginError, match="does not fit"):
        built(two(flow="raft", raft_size="large", raft_weights=raft_weights))
    with pytest.raises(PluginError, match="no file of weights"):
        built(two(flow="raft", raft_weights=str(tmp_path / "none.pt")))
    built(two(flow="raft", streams="spatial"))  # which needs none


# --- many streams


@pytest.mark.parametrize(
    ("streams", "seen"),
    [
        (("spatial", "motion", "audio"), {"rgb", "flow", "audio"}),
        (("audio",), {"audio"}),
        (("motion",), {"flow"}),
        (("spatial", "audio"), {"rgb", "audio"}),
    ],
)
def test_streams_can_be_left_out(streams: tuple[str, ...], seen: set[str]) -> None:
    made = multi(streams=streams)
    assert set(made.views()["train"].streams) == seen
    network, given = built(made), batch(made)
    assert set(network.parts) == set(streams)
    network(given)["loss"].backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_order_of_streams_changes_nothing() -> None:
    one, other = (built(multi(streams=s)) for s in (("audio", "spatial"), ("spatial", "audio")))
    assert [*one.state_dict()] == [*other.state_dict()]


def test_sound_comes_as_a_spectrogram() -> None:
    made = multi(bands=40, window_seconds=0.05, step_seconds=0.02)
    given = decoded(made)
    sample = made.sample(given, np.random.default_rng(0))
    assert "audio" not in sample and sample["heard"] == 1
    wanted = video.log_mel(
        given.streams[0]["audio"], 16_000, bands=40, window_seconds=0.05, step_seconds=0.02
    )
    np.testing.assert_array_equal(sample["spectrogram"], wanted)
    assert multi(audio_rate=8000).views()["train"].audio_rate == 8000


def test_low_tones_have_features_of_their_own() -> None:
    torch.manual_seed(0)
    encoder = SoundEncoder(64, 0.125).eval().requires_grad_(False)
    tone = torch.full((2, 64, 8), -20.0)
    tone[0, 4], tone[1, 20] = 0.0, 0.0  # both in the lowest third
    heard_ND = (encoder(tone) - encoder(torch.full_like(tone, -20.0))).abs() > 1e-5
    first, second = heard_ND
    assert first.any() and second.any() and not (first & second).any()


def test_a_video_without_sound_is_answered_by_the_rest() -> None:
    made = multi()
    network, silent = built(made).eval(), batch(made, heard=0.0)
    told = network(silent)
    assert told["loss"].isfinite() and (silent["heard"] == 0).all()
    told["loss"].backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in network.parameters())
    other = {**silent, "spectrogram": torch.randn_like(silent["spectrogram"])}
    torch.testing.assert_close(network.predict(other)[0], network.predict(silent)[0])
    loud = {**other, "heard": torch.ones(3)}
    assert not torch.equal(network.logits(loud), network.logits(silent))


def test_what_only_two_streams_together_tell_is_learnt() -> None:
    """Same or different: each stream is a coin, and a sum of what both say tells nothing."""
    torch.manual_seed(0)
    joint = Joint([6, 6], 8)
    head = nn.Linear(joint.features, 2)
    patterns_2D = torch.randn(2, 6)
    optimizer = torch.optim.AdamW([*joint.parameters(), *head.parameters()], lr=0.02)
    for _ in range(60):
        one, other = torch.randint(2, (2, 32))
        streams = [patterns_2D[coins] + 0.2 * torch.randn(32, 6) for coins in (one, other)]
        scores = head(joint(streams))
        loss = nn.functional.cross_entropy(scores, (one != other).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("wrong", ["mixup", "cutmix", "reverse"])
def test_what_would_not_change_the_sound_is_refused(wrong: str) -> None:
    fields = {**NARROW, "augment": ["crop", wrong]}
    with pytest.raises(RecipeError, match=f"no {wrong} in augment with sound"):
        plugin.make("multi_stream", fields)
    plugin.make("multi_stream", {**fields, "streams": ["spatial", "motion"]})


def test_a_tone_is_told_from_another() -> None:
    """The encoder keeps pitch: a constant tone gives other features than one an octave up."""
    made = multi(streams=("audio",))
    network = built(made).eval()
    seconds = np.arange(16_000) / 16_000
    tones = [np.sin(2 * np.pi * hertz * seconds).astype(np.float32) for hertz in (440, 440, 880)]
    told = np.stack([video.log_mel(tone, 16_000) for tone in tones])
    features = network.parts["audio"].encoder(torch.from_numpy(told))
    assert torch.equal(features[0], features[1])
    assert (features[0] - features[2]).norm() > 0.3 * features[0].norm()


@pytest.mark.parametrize("name", ["two_stream", "multi_stream"])
def test_recipes_are_shipped(name: str) -> None:
    made = recipe.load(name).plugin()
    assert made.name == name
    assert made == type(made)(augment=("crop", "flip"))  # at paper size
