"""Masked video modelling: which token is hidden, what the encoder cannot see, copying by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from clipmill.errors import RecipeError
from clipmill.plugin import Info, make
from clipmill_classify.transformer_network import Shape
from clipmill_pretext.masked_video import MaskedVideo, parted
from clipmill_pretext.masked_video_network import FLAT, MaskedVideoNetwork, cut, tokens_at
from clipmill_pretext.reconstruction_meter import ReconstructionMeter

SMALL: dict[str, Any] = {**MaskedVideo.small, "size": 32, "resize": 32, "patch": 8}  # 4 x 4 places


def built(**fields: Any) -> MaskedVideoNetwork:
    torch.manual_seed(0)
    network = MaskedVideo(**{**SMALL, **fields}).build(Info())
    assert isinstance(network, MaskedVideoNetwork)
    return network.eval()


def batch_of(rgb: torch.Tensor, shown: list[int]) -> dict[str, torch.Tensor]:
    """A batch that shows the same places of each clip, of 4 x 4."""
    hidden = [place for place in range(16) if place not in shown]
    told = {"shown": torch.tensor([shown]), "hidden": torch.tensor([hidden])}
    return {"rgb": rgb, **{name: places.expand(len(rgb), -1) for name, places in told.items()}}


@given(
    side=st.integers(2, 14), moments=st.integers(1, 8), hidden=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_token_is_there_once_and_tubes_go_through_time(
    side: int, moments: int, hidden: float, seed: int
) -> None:
    places = side * side
    parts = parted(places, hidden, np.random.default_rng(seed))
    assert min(map(len, parts)) >= 1
    assert abs(len(parts[1]) - hidden * places) <= 1
    shown, dark = (tokens_at(torch.from_numpy(part)[None], moments, places)[0] for part in parts)
    together = torch.cat([shown, dark]).sort().values
    assert torch.equal(together, torch.arange(moments * places))
    for part, tokens in zip(parts, (shown, dark), strict=True):
        for moment in tokens.view(moments, -1):
            assert torch.equal(moment % places, torch.from_numpy(part))  # the same in each moment


def test_tubelets_are_cut_as_the_encoder_takes_them() -> None:
    clip = torch.arange(2 * 3 * 4 * 8 * 12.0).view(2, 3, 4, 8, 12)
    tokens = cut(clip, tubelet=2, patch=4)
    assert tokens.shape == (2, 2 * 2 * 3, 2 * 4 * 4, 3)
    wanted = clip[1, :, 2:4, 4:8, 8:12].flatten(1).T  # the last token
    assert torch.equal(tokens[1, -1], wanted)
    assert torch.equal(tokens[0, 1], clip[0, :, 0:2, 0:4, 4:8].flatten(1).T)  # the next in its row


def painted(clips: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Other pixels at some places, of 4 x 4, in all moments."""
    changed = clips.clone()
    for place in places:
        rows, columns = (
            slice(place // 4 * 8, place // 4 * 8 + 8),
            slice(place % 4 * 8, place % 4 * 8 + 8),
        )
        changed[..., rows, columns] = torch.randn_like(changed[..., rows, columns])
    return changed


@torch.no_grad()
def test_what_is_hidden_cannot_be_seen() -> None:
    network, clips = built(), torch.randn(2, 3, 4, 32, 32)
    batch = batch_of(clips, shown=[3, 9])
    other = {**batch, "rgb": painted(clips, [p for p in range(16) if p not in (3, 9)])}
    tokens = tokens_at(batch["shown"], 2, 16)
    encoded = [network.encoder.tokens(each["rgb"], tokens) for each in (batch, other)]
    assert torch.equal(*encoded)
    assert torch.equal(network.told(batch), network.told(other))
    seen = {**batch, "rgb": painted(clips, [9])}
    assert not torch.equal(network.told(batch), network.told(seen))


@torch.no_grad()
def test_the_loss_is_of_what_is_hidden_and_nothing_else() -> None:
    network, clips = built(), torch.randn(2, 3, 4, 32, 32)
    batch = batch_of(clips, shown=[3, 9])
    true = network._hidden(network.looks(clips), batch)
    wanted = (network.told(batch) - true).square().mean()
    torch.testing.assert_close(network(batch)["loss"], wanted)
    errors, _ = network.predict(batch)
    torch.testing.assert_close(errors["error"].mean(), wanted)


def stripes(levels: list[float]) -> torch.Tensor:
    """A clip of one frame in 2 x 2 patches of 2 x 2: columns light and dark by each level."""
    frame = torch.zeros(4, 4)
    for place, level in enumerate(levels):
        row, column = place // 2 * 2, place % 2 * 2
        frame[row : row + 2, column], frame[row : row + 2, column + 1] = 5 + level, 5 - level
    return frame.expand(1, 3, 1, 4, 4)


def looking(side: int) -> MaskedVideoNetwork:
    """A network of which only what it compares with is asked."""
    shape = Shape(frames=1, size=2 * side, patch=2, tubelet=1, depth=1, heads=1, width=1)
    return MaskedVideoNetwork(nn.Identity(), nn.Identity(), shape)  # type: ignore[arg-type]


def test_copying_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    network = looking(side=2)
    monkeypatch.setattr(network, "told", lambda batch: torch.zeros(1, 3, 4, 3))
    monkeypatch.setattr(network, "encoder", nn.Flatten())
    batch = {
        "rgb": stripes([100, 300, -100, 0]),
        "shown": torch.tensor([[0]]),
        "hidden": torch.tensor([[1, 2, 3]]),
    }
    told, _ = network.predict(batch)
    # The one shown has the look of the first hidden, the opposite of the second; the third is flat.
    assert told["copy_error"].item() == pytest.approx((0 + 4 + 1) / 3, abs=1e-4)
    assert told["mean_error"].item() == pytest.approx((0 + 4 + 1) / 3, abs=1e-4)  # of one
    assert told["flat_error"].item() == pytest.approx((1 + 1 + 0) / 3, abs=1e-4)
    assert told["error"] == told["flat_error"]  # nothing was told
    two = {**batch, "shown": torch.tensor([[0, 2]]), "hidden": torch.tensor([[1, 3]])}
    monkeypatch.setattr(network, "told", lambda batch: torch.zeros(1, 2, 4, 3))
    told, _ = network.predict(two)
    assert told["mean_error"].item() == pytest.approx((1 + 0) / 2, abs=1e-4)  # opposites: nothing
    assert told["copy_error"].item() == pytest.approx((0 + 1) / 2, abs=1e-4)


def test_the_nearest_that_is_shown_by_hand() -> None:
    shown, hidden = torch.tensor([[0, 8]]), torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    found = looking(side=3).nearest({"shown": shown, "hidden": hidden})
    assert found.tolist() == [[0, 0, 0, 0, 8, 0, 8]]  # of two as near the first


def test_looks_know_neither_light_nor_contrast() -> None:
    network, clip = looking(side=2), stripes([10, 20, -10, 0])
    looks = network.looks(clip)
    torch.testing.assert_close(looks, network.looks(0.5 * clip + 3), atol=1e-4, rtol=0)
    assert looks[0, 3].abs().max() == 0  # without detail
    faint = network.looks(stripes([FLAT / 10, 1, 1, 1]))
    assert faint[0, 0].abs().max() < 0.11  # less than a grey level is no detail


def test_it_is_as_large_as_videomae() -> None:
    with torch.device("meta"):
        network = MaskedVideo().build(Info())
        classifier = make(*MaskedVideo().downstream()).build(Info(("a", "b")))
    encoder = sum(w.numel() for w in network.encoder.parameters())  # type: ignore[union-attr]
    assert encoder / 1e6 == pytest.approx(86.5, abs=1)  # ViT-B in tubelets of two
    assert network.decoder.out.in_features == 384  # type: ignore[union-attr]
    assert network.decoder.out.out_features == 2 * 16 * 16 * 3  # type: ignore[union-attr]
    theirs = {name: weight.shape for name, weight in classifier.state_dict().items()}
    ours = {n: w.shape for n, w in network.state_dict().items() if n.startswith("encoder.")}
    assert ours.items() <= theirs.items()
    assert not [n for n in theirs if n.startswith("encoder.") and n not in ours]


def test_the_ratio_is_that_of_the_means() -> None:
    meter, rest = ReconstructionMeter(), ReconstructionMeter()
    told = {
        "copy_error": 2.0,
        "mean_error": 1.0,
        "flat_error": 0.7,
        "embedding": np.array([1.0, 0.0]),
    }
    meter.update({**told, "error": 0.5}, {})
    rest.update({**told, "error": 0.9, "copy_error": 0.0}, {})  # a video without detail
    meter.merge(rest)
    figures = meter.compute()
    assert figures["error_ratio"] == pytest.approx(0.7)
    assert figures["mean_ratio"] == pytest.approx(0.7)
    line = MaskedVideo().verdict(figures)
    assert line is not None and "not learnt: flat_ratio 1.00" in line  # what is hardest to beat
    better = MaskedVideo().verdict({**figures, "flat_ratio": 0.8})
    assert better is not None and better.startswith("learnt: flat_ratio 0.80")


def test_videos_that_stand_still_for_most_of_a_clip_are_left_out() -> None:
    rows = [
        {**row, "frames": frames} for row, frames in zip(tiny.rows(3), (1, 20, 96), strict=True)
    ]
    (left_out,) = MaskedVideo(**SMALL).unfit(tiny.catalog_of(rows)).values()
    assert left_out.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": 50, "resize": 50}, "a size that is a multiple of patch 16"),
        ({"frames": 5}, "frames that are a multiple of tubelet 2"),
        ({"size": 16, "resize": 16}, "a size of two patches of 16 at the least"),
    ],
)
def test_clips_that_do_not_divide_are_told(fields: dict[str, int], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make("masked_video", fields)
