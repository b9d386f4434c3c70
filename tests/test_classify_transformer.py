"""The video transformer: its size, its tokens, what it sees of time, weights of pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from clipmill import contract
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Info, Plugin, make
from clipmill_classify.transformer import Transformer
from clipmill_classify.transformer_network import positions

SMALL: dict[str, Any] = {
    "width": 0.5, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 32, "resize": 36,
}  # fmt: skip


def built(plugin: Plugin, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return plugin.build(Info(tuple(map(str, range(classes)))))


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def encoded(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features: torch.Tensor = model.eval().encoder(clips)  # type: ignore[operator, union-attr]
    return features


def test_it_is_as_large_as_timesformer() -> None:
    with torch.device("meta"):
        model = built(Transformer(frames=8, tubelet=1), classes=400)
        half = sum(parameters(time) for time in model.encoder.time)  # type: ignore[union-attr]
    assert parameters(model) / 1e6 == pytest.approx(121.4, abs=0.3)  # divided space-time attention
    assert (parameters(model) - half) / 1e6 == pytest.approx(85.9, abs=0.3)  # space alone
    blocks = model.encoder.space.encoder.layers  # type: ignore[union-attr]
    assert len(blocks) == 12
    assert {block.self_attention.num_heads for block in blocks} == {12}


@pytest.mark.parametrize("tubelet", [1, 2, 4])
def test_tokens_are_patches_or_tubelets(tubelet: int) -> None:
    model = built(Transformer(**SMALL, tubelet=tubelet))
    tokens, told = model.encoder._tokens(torch.randn(3, 3, 4, 32, 32))  # type: ignore[operator, union-attr]
    assert tokens.shape == (3, 4 // tubelet, 16, 64)
    assert told.shape == (3, 1, 64)
    assert model.encoder.space.conv_proj.kernel_size == (tubelet, 8, 8)  # type: ignore[union-attr]


def test_narrow_variants_are_the_same_networks() -> None:
    with torch.device("meta"):
        whole, part = built(Transformer()), built(Transformer(width=0.25))
    assert list(whole.state_dict()) == list(part.state_dict())
    assert [type(m) for m in whole.modules()] == [type(m) for m in part.modules()]
    assert parameters(part) < parameters(whole) / 10


def awake(model: nn.Module) -> nn.Module:
    """Let attention over time add something, as it does after the first steps."""
    for time in model.encoder.time:  # type: ignore[union-attr]
        nn.init.normal_(time.out.weight, std=0.1)
    return model


def test_order_is_seen_through_time_alone() -> None:
    model = built(Transformer(**SMALL, tubelet=1))
    clips = torch.randn(2, 3, 4, 32, 32)
    still_asleep = [encoded(model, c) for c in (clips, clips.flip(2))]
    torch.testing.assert_close(*still_asleep)  # space alone is blind to it
    nn.init.normal_(model.encoder.moment_embedding)  # type: ignore[union-attr]
    told = [encoded(awake(model), c) for c in (clips, clips.flip(2))]
    assert (told[0] - told[1]).abs().max() > 0.01


def test_attention_over_time_stays_in_its_place() -> None:
    model = awake(built(Transformer(**SMALL, tubelet=1)))
    time = model.encoder.time[0]  # type: ignore[union-attr, index]
    tokens = torch.randn(1, 4, 16, 64)
    moved = tokens.clone()
    moved[0, 2, 5] = torch.randn(64)
    with torch.no_grad():
        change = (time.eval()(moved) - time(tokens)).abs().amax((0, 3))  # type: ignore[operator, union-attr]
    assert (change[:, 5] > 1e-4).all()  # all moments of that place
    change[:, 5] = 0
    assert change.max() == 0


def test_a_still_clip_gives_what_the_2d_transformer_gives(tmp_path: Path) -> None:
    torch.manual_seed(1)
    flat = VisionTransformer(32, 8, 2, 2, 64, 256, num_classes=4).eval()
    nn.init.normal_(flat.class_token)
    torch.save(flat.state_dict(), tmp_path / "weights.pt")
    pictures = torch.randn(2, 3, 32, 32)
    still = pictures[:, :, None].expand(-1, -1, 4, -1, -1)
    flat.heads = nn.Identity()
    with torch.no_grad():
        wanted = flat(pictures)
    for tubelet in (1, 2):
        plugin = Transformer(**SMALL, tubelet=tubelet, weights=str(tmp_path / "weights.pt"))
        torch.testing.assert_close(encoded(built(plugin), still), wanted, rtol=1e-4, atol=1e-4)


def test_weights_of_another_shape_are_one_clear_line(tmp_path: Path) -> None:
    other = VisionTransformer(64, 8, 2, 2, 64, 256)  # for larger pictures
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(PluginError, match=r"1 tensors differ, first encoder\.pos_embedding"):
        built(Transformer(**SMALL, weights=str(tmp_path / "weights.pt")))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": 50, "resize": 50}, "a size that is a multiple of patch 16"),
        ({"frames": 5}, "frames that are a multiple of tubelet 2"),
    ],
)
def test_clips_that_do_not_divide_are_told(fields: dict[str, int], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make("transformer", fields)


# --- attention over all at once


def joint(**fields: Any) -> nn.Module:
    return built(Transformer(**{**SMALL, "tubelet": 1, **fields}, attention="joint"))


def test_joint_attention_has_the_tensors_of_divided_attention_but_those_of_time() -> None:
    divided = built(Transformer(**SMALL)).state_dict()
    wanted = {n: w.shape for n, w in divided.items() if not n.startswith("encoder.time.")}
    assert {n: w.shape for n, w in joint(tubelet=2).state_dict().items()} == wanted


@torch.no_grad()
def test_every_token_attends_to_all_places_and_moments() -> None:
    encoder: Any = joint().eval().encoder
    clips = torch.randn(1, 3, 4, 32, 32)
    moved = clips.clone()
    moved[:, :, 2, 8:16, 8:16] += 1  # one token
    change = (encoder.tokens(moved) - encoder.tokens(clips)).abs().amax(2)
    assert change.shape == (1, 4 * 16)
    assert (change > 1e-6).all()
    torch.testing.assert_close(encoder(clips), encoder.tokens(clips).mean(1))
    assert (
        encoder(clips) - encoder(clips.flip(2))
    ).abs().max() > 0.01  # order is seen from the start


@torch.no_grad()
def test_only_the_tokens_that_are_asked_for_are_seen() -> None:
    encoder: Any = joint().eval().encoder
    clips = torch.randn(2, 3, 4, 32, 32)
    turned = torch.stack([torch.randperm(64), torch.randperm(64)])
    whole = encoder.tokens(clips).gather(1, turned[:, :, None].expand(-1, -1, 64))
    torch.testing.assert_close(encoder.tokens(clips, turned), whole, atol=1e-5, rtol=1e-4)
    some = turned[:, :7]
    dark = clips.clone()
    for row in range(2):
        for token in turned[row, 7:].tolist():
            moment, y, x = token // 16, token % 16 // 4 * 8, token % 4 * 8
            dark[row, :, moment, y : y + 8, x : x + 8] = 9.0
    assert torch.equal(encoder.tokens(dark, some), encoder.tokens(clips, some))
    assert not torch.allclose(encoder.tokens(clips, some), whole[:, :7], atol=1e-3)


def test_tokens_are_told_apart_by_where_and_when() -> None:
    places, moments = positions(14, 8, 192)
    told = (places[None] + moments[:, None]).flatten(0, 1)
    away = torch.cdist(told, told) + 1e3 * torch.eye(len(told))
    assert away.min() > 0.3


def test_a_gradient_reaches_every_weight_of_joint_attention() -> None:
    needed = "views plan sample collate prepare build forward optimizer gradients predict export"
    checks = [promise for promise in contract.CHECKS if promise[0] in needed.split()]
    report = contract.check("transformer", {"attention": "joint"}, checks)
    assert [result.ok for result in report.results] == [True] * 11, f"\n{report}"
