"""Augmentation: what happens to a take depends on its seed alone, and to all its streams alike."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from clipmill import augment
from clipmill.augment import chance, colour, place
from clipmill.errors import PluginError
from clipmill.takes import View

ALONE = ("resized_crop", "flip", "color", "grey", "blur", "erase", "reverse")
T, S, BIG = 4, 24, 32
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # prepared frames are shares of 255


def view_of(*allowed: str, **fields: Any) -> View:
    streams = ("rgb", "flow", "audio", "motion", "mask", "instances")
    given = {"streams": streams, "frames": T, "size": S, "resize": BIG, "augment": allowed}
    return View.model_validate({**given, **fields})


def batch_of(seeds: Any, view: View, size: int | None = None) -> dict[str, NDArray[Any]]:
    """Noise in every stream, each take's own, as the feed gives it: nobody may write to it."""
    side = size or (view.resize if "resized_crop" in view.augment else view.size)
    takes = [np.random.default_rng(int(seed)) for seed in seeds]

    def every(make: Any) -> NDArray[Any]:
        array = np.stack([make(rng) for rng in takes])
        array.flags.writeable = False
        return array

    frames = (view.frames, side, side)
    return {
        "rgb": every(lambda rng: rng.integers(0, 256, (*frames, 3), np.uint8)),
        "flow": every(
            lambda rng: rng.integers(-127, 128, (view.frames - 1, side, side, 2), np.int8)
        ),
        "audio": every(lambda rng: rng.standard_normal(50).astype(np.float32)),
        "motion": every(lambda rng: rng.integers(0, 2, frames, np.uint8)),
        "mask": every(lambda rng: rng.integers(0, 9, frames, np.uint8)),
        "instances": every(lambda rng: rng.integers(0, 1 << 15, frames, np.int16)),
        "boxes": every(lambda rng: np.sort(rng.random((T, 2, 2, 2)), axis=2).reshape(T, 2, 4)),
        "target": every(lambda rng: rng.integers(0, 5)),
        "seed": np.array(seeds, np.uint64),
    }


def prepared(batch: dict[str, NDArray[Any]], view: View) -> dict[str, torch.Tensor]:
    return augment.prepare(batch, view, training=True)


def same(one: torch.Tensor, two: torch.Tensor) -> None:
    torch.testing.assert_close(one, two, rtol=0, atol=2e-6)


def is_same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return bool(torch.isclose(one, two, rtol=0, atol=2e-6).all())


SEEDS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=5, unique=True)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(ALONE)), SEEDS)
def test_a_take_is_augmented_as_if_it_were_alone(allowed: set[str], seeds: list[int]) -> None:
    view = view_of(*sorted(allowed), **PLAIN)
    batch = batch_of(seeds, view)
    together = prepared(batch, view)
    assert {name: tuple(t.shape[1:]) for name, t in together.items() if name in view.streams} == {
        **augment.shapes(view),
        "audio": (50,),
    }
    for place_in_batch in range(len(seeds)):
        one = {name: array[place_in_batch : place_in_batch + 1] for name, array in batch.items()}
        for name, tensor in prepared(one, view).items():
            same(tensor, together[name][place_in_batch : place_in_batch + 1])


@pytest.mark.parametrize("allowed", [(), ("crop", "jitter"), (*ALONE, "cutmix")])
def test_what_is_tested_is_not_augmented(allowed: tuple[str, ...]) -> None:
    view = view_of(*allowed)
    batch = batch_of(range(3), view, S)
    made = augment.prepare(batch, view, training=False)
    mean, std = np.array(view.mean), np.array(view.std)
    wanted = ((batch["rgb"] / 255 - mean) / std).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(made["rgb"].numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(
        made["flow"].numpy(), batch["flow"].transpose(0, 4, 1, 2, 3) / 8, atol=1e-6
    )
    assert made["mask"].dtype == made["motion"].dtype == made["instances"].dtype == torch.int64
    for name in ("motion", "mask", "instances", "audio", "boxes", "target"):
        np.testing.assert_array_equal(made[name].numpy(), batch[name])
    assert made.keys() == batch.keys() - {"seed"}
    if not set(allowed) & set(ALONE):
        for name, tensor in prepared(batch, view).items():
            same(tensor, made[name])


def test_nothing_is_written_to_what_was_given() -> None:
    view = view_of(*ALONE, "cutmix")
    batch = batch_of(range(6), view)
    del batch["boxes"], batch["instances"]
    before = {name: array.copy() for name, array in batch.items()}
    for tensor in prepared(batch, view).values():
        tensor.zero_()  # what a network is given is its own
    for name, array in before.items():
        np.testing.assert_array_equal(batch[name], array)


def test_what_passes_as_it_is_is_copied_before_a_network_writes_to_it() -> None:
    view = view_of()
    mask = np.ones((2, T, S, S), np.int64)  # of the type that is wanted, so nothing converts it
    mask.flags.writeable = False
    batch = {**batch_of(range(2), view), "mask": mask}
    for tensor in augment.prepare(batch, view, training=False).values():
        tensor.zero_()
    assert mask.all() and batch["audio"].any() and batch["boxes"].any()


def test_a_flip_mirrors_every_stream() -> None:
    view = view_of("flip", **PLAIN)
    batch = batch_of(range(40), view)
    made = {name: tensor.numpy() for name, tensor in prepared(batch, view).items()}
    shares = batch["rgb"].transpose(0, 4, 1, 2, 3) / 255
    flips = 0
    for take in range(40):
        flipped = not np.allclose(made["rgb"][take], shares[take], atol=1e-6)
        turn = -1 if flipped else 1
        flips += flipped
        np.testing.assert_allclose(made["rgb"][take], shares[take][..., ::turn], atol=1e-6)
        x, y = batch["flow"][take].transpose(3, 0, 1, 2)[..., ::turn] / 8
        np.testing.assert_allclose(made["flow"][take], [turn * x, y], atol=1e-6)
        np.testing.assert_array_equal(made["mask"][take], batch["mask"][take][..., ::turn])
        left, top, right, bottom = np.moveaxis(batch["boxes"][take], -1, 0)
        wanted = (1 - right, top, 1 - left, bottom) if flipped else (left, top, right, bottom)
        np.testing.assert_array_equal(made["boxes"][take], np.stack(wanted, -1))
        np.testing.assert_array_equal(made["audio"][take], batch["audio"][take])
    assert 8 < flips < 32


def test_time_reversed_turns_every_stream() -> None:
    """Frames are filled with a number that grows by the flow: so must they afterwards."""
    view = view_of("reverse", **PLAIN)
    steps = np.random.default_rng(0).integers(1, 20, (40, T))
    levels = np.cumsum(steps, axis=1)  # a frame less the one before is the flow from it
    flow = steps[:, 1:]
    batch: dict[str, NDArray[Any]] = {
        "rgb": np.broadcast_to(levels[:, :, None, None, None], (40, T, S, S, 3)).astype(np.uint8),
        "flow": np.broadcast_to(flow[..., None, None, None], (*flow.shape, S, S, 2)).astype(
            np.int8
        ),
        "mask": np.broadcast_to(levels[:, :, None, None], (40, T, S, S)).astype(np.uint8),
        "audio": levels.astype(np.float32),
        "boxes": np.broadcast_to(levels[..., None, None] / [1000, 1000, 1, 1], (40, T, 1, 4)),
        "seed": np.arange(40, dtype=np.uint64),
    }
    made = {name: tensor.numpy() for name, tensor in prepared(batch, view).items()}
    frames = np.rint(made["rgb"][:, 0, :, 0, 0] * 255)
    moved = np.diff(frames, axis=1)
    np.testing.assert_allclose(made["flow"][..., 3, 5] * 8, np.stack([moved, moved], 1), atol=1e-4)  # fmt: skip
    np.testing.assert_array_equal(made["mask"][:, :, 0, 0], frames)
    np.testing.assert_array_equal(made["audio"], frames)
    np.testing.assert_allclose(made["boxes"][:, :, 0, 0] * 1000, frames)
    falling = (moved < 0).all(axis=1)
    assert (falling | (moved > 0).all(axis=1)).all() and 8 < falling.sum() < 32


def test_a_resized_crop_shows_the_same_box_in_every_stream() -> None:
    """A slope stays a slope: where its values lie tells which box was taken."""
    view = view_of("resized_crop", **PLAIN, size=16, resize=64, crop_area=(0.3, 0.6))
    count, big, small = 60, 64, 16
    slope = np.arange(big) * 3 + 30
    rgb = np.zeros((count, T, big, big, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = slope, slope[:, None]
    flow = np.broadcast_to(np.array([12, -7], np.int8), (count, T - 1, big, big, 2))
    mask = np.broadcast_to(np.arange(big, dtype=np.uint8), (count, T, big, big))
    whole = np.broadcast_to([0.5, 0.25, 1.0, 1.0], (count, T, 1, 4))
    seeds = np.arange(count, dtype=np.uint64)
    made = prepared({"rgb": rgb, "flow": flow, "mask": mask, "boxes": whole, "seed": seeds}, view)
    across, down = (made["rgb"][:, channel].double().numpy() * 255 for channel in (0, 1))
    centres_x = (across[:, 0, small // 2] - 30) / 3 + 0.5  # in pixels of the big frame
    centres_y = (down[:, 0, :, small // 2] - 30) / 3 + 0.5
    inner = slice(3, -3)  # at an edge a pixel covers less
    step_x, step_y = (np.diff(c[:, inner], axis=1).mean(1) for c in (centres_x, centres_y))
    aspect, area = step_x / step_y, step_x * step_y * small**2 / big**2
    assert aspect.min() >= 0.74 and aspect.max() <= 1.345
    assert area.min() >= 0.297 and area.max() <= 0.606
    assert np.ptp(area) > 0.2 and np.ptp(aspect) > 0.4
    np.testing.assert_allclose(made["flow"][:, 0, 0, 5, 5] * 8, 12 / step_x, rtol=0.01)
    np.testing.assert_allclose(made["flow"][:, 1, 2, 5, 5] * 8, -7 / step_y, rtol=0.01)
    seen = made["mask"][:, 1, small // 2, inner].numpy()
    assert (np.abs(seen + 0.5 - centres_x[:, inner]) <= 0.55).all()
    left = centres_x[:, 5] - 5.5 * step_x
    wanted = np.clip((0.5 * big - left) / (small * step_x), 0, 1)
    np.testing.assert_allclose(made["boxes"][:, 0, 0, 0], np.where(wanted < 1, wanted, 0), atol=0.01)  # fmt: skip


def test_resizing_is_that_of_torchvision() -> None:
    x = torch.rand(2, 3, T, 40, 40)
    for size in (17, 40, 55):
        weights = place.resizing(np.zeros(2), np.full(2, 40.0), 40, size)
        matrix = place.tensor(weights, x.device)
        wanted = functional.resize(x.view(-1, 3, 40, 40), [size, size], antialias=True)
        made = place.resampled(x, matrix, matrix)
        torch.testing.assert_close(made, wanted.view(made.shape), rtol=0, atol=1e-5)


def test_blur_is_that_of_torchvision_away_from_the_edges() -> None:
    x = torch.rand(1, 3, T, 40, 40)
    bell = place.blurring(np.array([1.5]), 40, x.device)
    made = place.resampled(x, bell, bell)[..., 8:-8, 8:-8]
    wanted = functional.gaussian_blur(x.view(-1, 3, 40, 40), [15, 15], [1.5, 1.5])
    torch.testing.assert_close(made, wanted.view(x.shape)[..., 8:-8, 8:-8], rtol=0, atol=1e-5)
    sharp = place.blurring(np.array([place.NO_BLUR_PIXELS]), 40, x.device)
    assert torch.equal(sharp[0], torch.eye(40))


def test_blur_blurs_some_takes_and_no_other_stream() -> None:
    view = view_of("blur", **PLAIN, size=224, resize=224, frames=1)
    batch = batch_of(range(12), view)
    plain, made = augment.prepare(batch, view, training=False), prepared(batch, view)
    softer = [float(m.std() / p.std()) for m, p in zip(made["rgb"], plain["rgb"], strict=True)]
    assert 3 <= sum(each < 0.999 for each in softer) <= 11
    for name in ("flow", "mask", "audio"):
        assert torch.equal(made[name], plain[name])


def test_colours_are_those_of_torchvision() -> None:
    frames = torch.rand(200, 3, 1, 8, 8) * 40 + 90  # far from where anything is cut off
    seeds = np.arange(200, dtype=np.uint64)
    view = view_of("color")
    made = colour.coloured(frames, seeds, view)
    chosen = chance.happens(seeds, "coloured", colour.COLOURED)
    factors = 1 + colour.STRENGTH * (2 * chance.uniform(seeds, "color", 3) - 1)
    turns = chance.between(seeds, "hue", -colour.HUE_TURN, colour.HUE_TURN)
    for take, (bright, contrast, saturation) in enumerate(factors):
        x = frames[take, :, 0] / 255
        if chosen[take]:
            x = functional.adjust_contrast(functional.adjust_brightness(x, bright), contrast)
            x = functional.adjust_saturation(x, saturation)
            x = torch.einsum("ij,jhw->ihw", torch.tensor(colour.hue(turns[[take]])[0]).float(), x)
        torch.testing.assert_close(made[take, :, 0] / 255, x, rtol=0, atol=1e-3)
    assert 130 < chosen.sum() < 190


def test_hue_turns_colours_and_leaves_greys_and_light() -> None:
    turn = colour.hue(np.array([0.0, 0.1, -0.1, 1 / 3]))
    np.testing.assert_allclose(turn[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ np.ones(3), 1, atol=1e-9)
    np.testing.assert_allclose(colour.LUMA @ turn, np.tile(colour.LUMA, (4, 1)), atol=1e-9)
    np.testing.assert_allclose(turn[1] @ turn[2], np.eye(3), atol=1e-9)
    red, green = turn[3] @ [1, 0, 0], turn[3] @ [0, 1, 0]
    assert red.argmax() != 0 and green.argmax() != 1, "a third of the circle is another colour"


def test_grey_is_the_light_of_some_takes() -> None:
    view = view_of("grey", **PLAIN)
    batch = batch_of(range(60), view)
    rgb = prepared(batch, view)["rgb"].numpy()
    light = batch["rgb"] @ [0.299, 0.587, 0.114] / 255
    grey = np.isclose(rgb, light[:, None], atol=1e-5).all(axis=(1, 2, 3, 4))
    assert 3 <= grey.sum() <= 24
    kept = batch["rgb"].transpose(0, 4, 1, 2, 3) / 255
    np.testing.assert_allclose(rgb[~grey], kept[~grey], atol=1e-5)


def test_colours_stay_within_what_frames_can_be() -> None:
    view = view_of("color", "grey", **PLAIN)
    rgb = prepared(batch_of(range(20), view), view)["rgb"]
    assert rgb.min() == 0 and rgb.max() == 1


def test_an_erased_box_is_hidden_in_all_frames_and_leaves_the_mask() -> None:
    view = view_of("erase")
    batch = batch_of(range(60), view)
    plain, made = augment.prepare(batch, view, training=False), prepared(batch, view)
    changed = (made["rgb"] != plain["rgb"]).any(dim=(1, 2))  # [B, H, W]
    hit = changed.any(dim=(1, 2))
    assert 5 <= hit.sum() <= 25
    for take in torch.nonzero(hit)[:, 0]:
        rows, columns = (torch.nonzero(changed[take].any(dim=d))[:, 0] for d in (1, 0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        for name in ("rgb", "flow"):
            assert (made[name][take][:, :, box[0], box[1]] == 0).all()
            outside = ~changed[take]
            assert torch.equal(made[name][take][..., outside], plain[name][take][..., outside])
    assert torch.equal(made["mask"], plain["mask"])


@pytest.mark.parametrize("allowed", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_mixed_takes_are_what_the_network_is_told(allowed: tuple[str, ...]) -> None:
    view = view_of(*allowed, "flip")
    batch = batch_of(range(24), view)
    del batch["boxes"], batch["instances"]
    if "mixup" in allowed:
        del batch["mask"], batch["motion"]
    made, own = prepared(batch, view), prepared(batch, view_of("flip"))
    assert torch.equal(made["target"], own["target"])
    assert torch.equal(made["target_b"], own["target"].roll(-1))
    cuts = blends = 0
    for take in range(24):
        mine, other = own["rgb"][take], own["rgb"][(take + 1) % 24]
        share = float(made["mix"][take])
        assert 0 <= share <= 1
        is_mine, is_other = made["rgb"][take] == mine, made["rgb"][take] == other
        if bool((is_mine | is_other).all()):
            cuts += 1
            assert float(is_other.all(dim=(0, 1)).float().mean()) == pytest.approx(1 - share, abs=0.01)  # fmt: skip
            if "mask" in made:
                hole = is_other.all(dim=(0, 1)) & ~is_mine.all(dim=(0, 1))
                wanted = torch.where(hole, own["mask"][(take + 1) % 24], own["mask"][take])
                assert torch.equal(made["mask"][take], wanted)
            assert torch.equal(made["audio"][take], own["audio"][take])
        else:
            blends += 1
            for name in ("rgb", "flow", "audio"):
                mine, other = own[name][take], own[name][(take + 1) % 24]
                same(made[name][take], share * mine + (1 - share) * other)
    if len(allowed) == 2:
        assert min(cuts, blends) >= 4
    else:
        assert (cuts, blends) in ((24, 0), (0, 24)) and (cuts > 0) == ("cutmix" in allowed)


def test_a_take_without_partner_is_itself() -> None:
    view = view_of("mixup", "cutmix", streams=("rgb",))
    batch = {name: batch_of([5], view)[name] for name in ("rgb", "seed")}
    made = prepared(batch, view)
    same(made["rgb"], augment.prepare(batch, view, training=False)["rgb"])
    assert made.keys() == {"rgb", "mix"}


def test_who_does_not_ask_for_mixing_is_not_told_of_it() -> None:
    view = view_of(*ALONE)
    assert not {"mix", "target_b"} & prepared(batch_of(range(3), view), view).keys()


@pytest.mark.parametrize(
    ("allowed", "kind"),
    [
        ("mixup", "mask"),
        ("mixup", "motion"),
        ("mixup", "boxes"),
        ("cutmix", "boxes"),
        ("cutmix", "instances"),
    ],
)
def test_targets_that_cannot_be_mixed_are_refused(allowed: str, kind: str) -> None:
    view = view_of(allowed)
    batch = batch_of(range(3), view)
    given = {name: batch[name] for name in ("rgb", "seed", kind)}
    with pytest.raises(PluginError, match=f"with {kind} lists {allowed}; wanted targets"):
        prepared(given, view)


@pytest.mark.parametrize("name", ["rgb_mean", "flow_target", "mask_area", "boxes_count", "audio"])
def test_other_numbers_named_as_a_stream_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match=rf"{name} of \[3\]; wanted \[B, .*another name"):
        augment.prepare({name: np.zeros(3)}, view_of(), training=False)


def test_arrays_of_one_suffix_move_alike_and_others_by_chance_of_their_own() -> None:
    view = view_of("flip", "resized_crop", **PLAIN)
    batch = batch_of(range(8), view)
    ramp = np.broadcast_to(np.arange(BIG, dtype=np.uint8) * 7, (8, T, BIG, BIG))
    twice = {f"rgb{suffix}": batch["rgb"] for suffix in ("", "_a", "_b")}
    given = {**twice, "rgb_a_too": batch["rgb"], "mask_a": ramp, "seed": batch["seed"]}
    colours = {"rgb_a": np.repeat(ramp[..., None], 3, -1)}
    made, again = prepared(given, view), prepared({**given, **colours}, view)
    names = ["rgb", "rgb_a", "rgb_b", "rgb_a_too"]
    for place_of, one in enumerate(names):
        for two in names[place_of + 1 :]:
            assert not any(is_same(made[one][take], made[two][take]) for take in range(8))
    apart = (again["rgb_a"][:, 0] * 255 - made["mask_a"]).abs()
    assert apart[..., 2:-2].max() < 7, "the same column of the ramp, within a pixel"


def test_chance_is_even_and_its_draws_do_not_know_each_other() -> None:
    seeds = np.arange(20_000, dtype=np.uint64)
    draws = np.concatenate([chance.uniform(seeds, name, 2) for name in ("a", "b")], axis=1)
    assert draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        counts, _ = np.histogram(column, 20, (0, 1))
        assert np.abs(counts - 1000).max() < 160
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03
    assert chance.happens(seeds, "c", 0.2).mean() == pytest.approx(0.2, abs=0.01)


def test_shapes_tell_every_stream() -> None:
    view = view_of(rate=2.0, audio_rate=8000)
    assert augment.shapes(view) == {
        "rgb": (3, T, S, S),
        "flow": (2, T - 1, S, S),
        "audio": (16_000,),
        "motion": (T, S, S),
        "mask": (T, S, S),
        "instances": (T, S, S),
    }
