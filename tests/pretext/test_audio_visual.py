"""Audio-visual correspondence: which pairs are planned, the losses by hand, where a sound is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clipmill import infer, recipe, video
from clipmill.catalog import Catalog
from clipmill.contract.case import Case
from clipmill.errors import PluginError
from clipmill.plan import Plan
from clipmill.plugin import Decoded, Info
from clipmill_pretext.audio_visual import LOUDNESS, AudioVisual, evened
from clipmill_pretext.audio_visual_network import (
    AudioVisualNetwork,
    batch_loss,
    pairs_loss,
    rightly,
    similarity,
)
from tiny import catalog_of, moving, rows

PICTURE, OWN, OTHER, SECOND = range(4)
NARROW: dict[str, Any] = {"width": 0.125, "size": 32, "resize": 36}


def plan(stage: Any, made_of: Catalog, **fields: Any) -> Plan:
    return Plan(made_of, AudioVisual(**fields), stage, seed=0, batch=4)


@pytest.fixture(scope="module")
def network() -> AudioVisualNetwork:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = AudioVisual(**NARROW).build(Info())
    assert isinstance(made, AudioVisualNetwork)
    return made.requires_grad_(False)


# --- the plan


@pytest.mark.parametrize("stage", ["train", "test"])
def test_pictures_lie_in_their_sound_and_other_sounds_far_or_elsewhere(stage: Any) -> None:
    takes = plan(stage, catalog_of(rows(60)), far_share=0.5).epoch(0)
    assert (takes.record[:, PICTURE] == takes.record[:, OWN]).all()
    assert (takes.first[:, PICTURE] - takes.first[:, OWN] == 15).all()  # the middle of a second
    assert (takes.last[:, OWN] - takes.first[:, OWN] + 1 == 30).all() and takes.last.max() < 96
    far = takes.record[:, OTHER] == takes.record[:, OWN]
    assert 0.3 < far.mean() < 0.7  # both guards at once
    away = np.abs(takes.first[:, OTHER] - takes.first[:, OWN])
    assert (away[far] >= 30).all()  # not one sample is in both


def test_sounds_that_belong_lie_where_others_do() -> None:
    takes = plan("train", catalog_of(rows(8000)), far_share=1.0).epoch(0)
    own, other = (
        np.histogram(takes.first[:, span], bins=6, range=(0, 67))[0] for span in (OWN, OTHER)
    )
    assert own.min() > 100 and abs(own - other).max() < 240


def test_takes_are_the_same_on_any_split() -> None:
    made_of = catalog_of(rows(10))
    whole = plan("train", made_of)
    parts = [whole.digests(plan("train", made_of).at(at, at + 2)) for at in range(0, 20, 2)]
    made = whole.digests(whole.at(0, 20))
    # An epoch has ten takes, of which two full batches of four are used.
    assert [digest for part in parts for digest in part] == made


def test_videos_without_sound_or_too_short_for_it_are_unfit() -> None:
    made_of = [*rows(5)]
    told = ((True, 96, 0.2), (False, 96, None), (True, 20, 0.2), (None, 96, None), (True, 96, 1.0))
    for row, (has_audio, frames, silence) in zip(made_of, told, strict=True):
        row |= {"has_audio": has_audio, "frames": frames, "silence": silence}
    masks = AudioVisual().unfit(catalog_of(made_of))
    assert masks["without sound"].tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]  # None: nobody knows
    assert masks["shorter than 1 s"].tolist() == [False, False, True, False, False]
    assert masks["silent"].tolist() == [False, False, False, False, True]


# --- what is heard


def test_all_sounds_are_as_loud_and_silence_stays_silent() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=8000).astype(np.float32)
    for gain in (0.001, 1.0, 3.0):
        assert np.sqrt(np.mean(evened(gain * noise) ** 2)) == pytest.approx(LOUDNESS, rel=1e-3)
    assert not evened(np.zeros(100, np.float32)).any()
    assert np.abs(evened(1e-6 * noise)).max() < 0.01  # no noise is made of next to nothing


def decoded(stage: Any, gain: float = 1.0) -> Decoded:
    rng = np.random.default_rng(0)
    sounds = [rng.normal(size=16_000).astype(np.float32) * gain for _ in range(2)]
    heard = [{"audio": each, "heard": np.float32(1)} for each in sounds]
    picture = {"rgb": rng.integers(0, 255, (1, 32, 32, 3), np.uint8)}
    keys = ({"key": "a"}, {"key": "a"}, {"key": "b"})
    return Decoded(stage, ("train", "sound", "sound"), (picture, *heard), keys)


def test_a_file_is_not_told_by_its_loudness() -> None:
    made = AudioVisual(**NARROW)
    soft, loud = (
        made.sample(decoded("test", gain), np.random.default_rng(0)) for gain in (0.01, 0.5)
    )
    np.testing.assert_allclose(soft["spectrogram"], loud["spectrogram"], atol=1e-3)
    trained = made.sample(decoded("train"), np.random.default_rng(0))
    gains = [
        float((trained[name] - loud[name]).mean()) for name in ("spectrogram", "spectrogram_other")
    ]
    assert gains[0] != pytest.approx(gains[1]) and max(map(abs, gains)) <= math.log(10)
    assert soft["is_far"] == 0 and soft["video"] != soft["video_other"]


def test_of_silence_within_a_track_nothing_is_asked() -> None:
    made, quiet = AudioVisual(**NARROW), decoded("test", 0.0)
    told = made.sample(quiet, np.random.default_rng(0))
    assert told["heard"] == told["heard_other"] == 0  # though the record has a track
    assert made.sample(decoded("test", 0.001), np.random.default_rng(0))["heard"] == 1
    meter = made.meter()
    asked = {"right": np.array([1.0, 0.0]), "is_far": np.array([1.0, 0.0]), "embedding": np.ones(2)}
    meter.update({**asked, "asked": np.array([1.0, 0.0])}, {"key": "a"})
    assert meter.compute()["own_accuracy"] == 1.0 and "foreign_accuracy" not in meter.compute()
    meter.update({**asked, "asked": np.zeros(2)}, {"key": "b"})  # nothing: as good as a guess
    assert meter.compute()["own_accuracy"] == 0.75 and meter.compute()["far_accuracy"] == 1.0


def test_a_sound_is_told_as_finely_as_is_asked() -> None:
    fields = {**NARROW, "audio_rate": 8000, "window_seconds": 0.05, "step_seconds": 0.02}
    made = AudioVisual(**fields, fits="multi_stream")
    assert made.views()["sound"].audio_rate == 8000
    sample = made.sample(decoded("test"), np.random.default_rng(0))  # 16 000 samples: two seconds
    assert sample["spectrogram"].shape == (64, 98)
    downstream = made.downstream()[1]
    assert all(downstream[name] == fields[name] for name in fields if name != "width")


def test_other_places_than_the_middle_are_refused() -> None:
    with pytest.raises(ValidationError, match="test_crops"):
        AudioVisual(**NARROW, test_crops=3)


# --- losses by hand


def test_the_loss_of_pairs_is_of_one_that_belongs_and_one_that_does_not() -> None:
    own, other = torch.tensor([0.0, 9.0]), torch.tensor([2.0, 9.0])
    heard = torch.tensor([1.0, 0.0])  # the second has no sound: it adds nothing to the mean
    loss = float(pairs_loss(own, other, heard))
    assert loss == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2 / 2)
    assert float(pairs_loss(own, other, torch.zeros(2))) == 0.0
    assert rightly(own, other).tolist() == [0.0, 0.5]


def test_the_loss_of_a_batch_is_of_the_own_sound_among_all_others() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    batch = {
        "video": torch.tensor([1, 2]), "video_other": torch.tensor([1, 1]),
        "heard": torch.ones(2), "heard_other": torch.ones(2),
    }  # fmt: skip
    # The first video's other sound is its own, far in time: planned so, it stands against it. That
    # of the second take is of the first video, too: to the first picture it says nothing.
    first = -math.log(math.e / (math.e + 1 + 1))
    second = -math.log(math.exp(2) / (math.exp(2) + 3))
    assert float(batch_loss(scores, batch)) == pytest.approx((first + second) / 2)
    silent = {**batch, "heard": torch.tensor([1.0, 0.0])}
    assert float(batch_loss(scores, silent)) == pytest.approx(-math.log(math.e / (math.e + 1)) / 2)
    # A planned sound that is not there stands against nothing, either.
    lost = {**batch, "heard_other": torch.tensor([0.0, 0.0])}

    def alone_of(score: float) -> float:  # against the other picture's own sound
        return math.log(1 + math.exp(-score))

    assert float(batch_loss(scores, lost)) == pytest.approx((alone_of(1.0) + alone_of(2.0)) / 2)


def test_second_pictures_have_the_other_sounds_as_their_own() -> None:
    """The loss of both pictures is the mean of that of each, with the sounds turned."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 6, generator=generator)
    batch = {
        "video": torch.tensor([1, 2, 3]), "video_other": torch.tensor([1, 3, 4]),
        "heard": torch.tensor([1.0, 1.0, 0.0]), "heard_other": torch.tensor([1.0, 0.0, 1.0]),
    }  # fmt: skip
    other = {name: batch[f"{name}_other"] for name in ("video", "heard")}
    turned = {**other, **{f"{name}_other": batch[name] for name in ("video", "heard")}}
    first, second = batch_loss(scores[:3], batch), batch_loss(scores[3:].roll(3, 1), turned)
    assert float(batch_loss(scores, batch)) == pytest.approx(float(first + second) / 2)


def test_a_training_take_has_both_pictures_and_a_test_one() -> None:
    made_of = catalog_of(rows(60))
    takes, asked = (plan(stage, made_of).epoch(0) for stage in ("train", "test"))
    assert takes.record.shape[1] == 4 and asked.record.shape[1] == 3
    assert (takes.record[:, SECOND] == takes.record[:, OTHER]).all()
    assert (takes.first[:, SECOND] - takes.first[:, OTHER] == 15).all()
    case = Case(AudioVisual(**NARROW))
    batch = case.training_batch
    assert batch["rgb_other"].shape == batch["rgb"].shape and "rgb_other" not in case.test_batch
    assert not torch.equal(batch["rgb_other"], batch["rgb"])


def test_scores_have_a_rate_of_their_own(network: AudioVisualNetwork) -> None:
    made = AudioVisual(**NARROW, learning_rate=0.002)
    network.requires_grad_(True)
    weights, scores = made.optimizer(network).param_groups
    network.requires_grad_(False)
    assert {id(each) for each in scores["params"]} == {id(network.scale), id(network.bias)}
    assert (weights["lr"], scores["lr"]) == (0.002, pytest.approx(0.02))
    assert weights["weight_decay"] > 0 and scores["weight_decay"] == 0


# --- where a sound comes from


def test_the_place_that_fits_decides(network: AudioVisualNetwork) -> None:
    seen = torch.zeros(1, 2, 3, 3)
    seen[:, 0] = 1.0  # all places are across the sound
    seen[0, :, 1, 2] = torch.tensor([0.0, 1.0])  # but one
    heat = similarity(seen, torch.tensor([[0.0, 1.0]]))
    assert heat[0].argmax() == 5 and float(heat.max()) == 1.0
    nowhere = similarity(seen * 0, torch.tensor([[0.0, 1.0]]))
    assert float(network.fit(heat)) > float(network.fit(nowhere))
    flat = float(network.fit(torch.full((1, 3, 3), 0.5)))
    assert flat == pytest.approx(0.5 * math.exp(float(network.scale)) + float(network.bias))


def test_prediction_has_a_heat_map_and_none_without_sound(network: AudioVisualNetwork) -> None:
    case = Case(AudioVisual(**NARROW))  # records of odd numbers have sound
    told, _ = case.predict(network.eval(), case.test_batch)
    heard = case.test_batch["heard"] > 0
    assert heard.any() and not heard.all()
    assert told["heat"].shape[1:] == (2, 2)  # 32 pixels at a step of 16
    assert told["heat"].abs().max() <= 1 + 1e-5
    assert told["heat"][heard].abs().amin((1, 2)).gt(0).all() and not told["heat"][~heard].any()


def test_any_video_is_asked_where_its_sound_comes_from(
    network: AudioVisualNetwork, tmp_path: Path
) -> None:
    tone = np.sin(np.arange(24_000) * 0.2).astype(np.float32) * 0.3
    given = recipe.parse({
        "run": {"name": "x"}, "data": {"path": "x"},
        "model": {"plugin": "audio_visual", **NARROW, "test_clips": 3},
    })  # fmt: skip
    model = infer.Model(network, given, (), video.Profile(name="keep"))
    for sound in (tone, None):
        path = tmp_path / f"{sound is None}.mp4"
        video.encode(str(path), moving(3, 2), fps=15, audio=sound, audio_rate=16_000)
        answer = infer.answer(model, path.read_bytes())
        heat = np.array(answer["heat"])
        assert heat.shape == (3, 2, 2) and heat.any() == (sound is not None)
        assert len(answer["heat_frames"]) == len(answer["spans"]) == 3


def test_a_backbone_without_places_is_refused() -> None:
    for name in ("vit_b_16", "swin_t"):
        with torch.device("meta"), pytest.raises(PluginError, match="no map of places.*resnet18"):
            AudioVisual(backbone=name).build(Info())
    with torch.device("meta"):
        made = AudioVisual(backbone="vgg11").build(Info())
    assert isinstance(made, AudioVisualNetwork)


def test_both_towers_go_to_the_classifier_of_several_streams() -> None:
    from clipmill import plugin
    from clipmill.launch.begin import matched

    made = AudioVisual(**NARROW, fits="multi_stream")
    name, fields = made.downstream()
    with torch.device("meta"):
        wanted = plugin.make(name, {**fields, "frames": 4}).build(Info(("a", "b"))).state_dict()
        given = made.build(Info()).state_dict()
    pairs = matched(wanted, given)
    sources = {theirs.split(".")[0] for theirs in pairs.values()}
    assert sources == {"encoder", "hearing"}
    backbones = [name for name in wanted if ".encoder." in name]
    assert backbones and set(backbones) <= pairs.keys()
