"""Flow, masks, sound and its bands: known motion and known tones come back."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipmill.errors import UsageError
from clipmill.video import (
    FLOW_STEPS_A_PIXEL,
    PROFILES,
    decode_audio,
    flow,
    index_of,
    log_mel,
    motion_mask,
    sound_of,
    transcode,
    unpacked,
)
from test_video import moving_square, with_sound, written

Pixels = NDArray[np.uint8]
RATE = 16_000


def texture(height: int, width: int, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX))  # type: ignore[call-overload]  # fmt: skip


def scene(camera: tuple[int, int], box: tuple[int, int], count: int = 5) -> tuple[Pixels, Pixels]:
    """A ground and a box upon it that move by so many pixels (x, y) a frame; where the box is."""
    ground, patch = texture(300, 300, 1), texture(40, 40, 2)
    frames, truth = np.empty((count, 112, 128, 3), np.uint8), np.zeros((count, 112, 128), np.uint8)
    for number in range(count):
        left, top = 100 - camera[0] * number, 100 - camera[1] * number
        frames[number] = ground[top : top + 112, left : left + 128]
        x, y = 40 + box[0] * number, 30 + box[1] * number
        frames[number, y : y + 40, x : x + 40] = patch
        truth[number, y : y + 40, x : x + 40] = 1
    return frames, truth


# --- flow


@pytest.mark.parametrize("camera", [(0, 0), (3, 0), (0, -2), (-4, 2)])
def test_flow_tells_where_the_camera_goes(camera: tuple[int, int]) -> None:
    frames, _ = scene(camera, camera)
    found = flow(frames)
    assert found.dtype == np.int8 and found.shape == (4, 112, 128, 2)
    pixels = np.median(found[:, 20:-20, 20:-20], axis=(0, 1, 2)) / FLOW_STEPS_A_PIXEL
    np.testing.assert_allclose(pixels, camera, atol=0.3)


def test_flow_tells_what_moves_otherwise() -> None:
    frames, truth = scene((0, 0), (4, 3))
    found = flow(frames) / FLOW_STEPS_A_PIXEL
    inner = cv2.erode(truth[0], np.ones((17, 17), np.uint8)) > 0
    np.testing.assert_allclose(np.median(found[0][inner], axis=0), (4, 3), atol=0.3)
    np.testing.assert_allclose(np.median(found[0][truth[0] == 0], axis=0), (0, 0), atol=0.1)


def test_flow_too_far_is_cut_and_of_one_frame_there_is_none() -> None:
    rows, columns = np.mgrid[:112, :128]
    hill = np.exp(-((rows - 56) ** 2 + (columns[None] - [[[54]], [[74]]]) ** 2) / 800) * 255
    frames = np.repeat(hill.astype(np.uint8)[..., None], 3, axis=3)
    found = flow(frames)
    assert found.max() == 127 and found.min() >= -127
    assert flow(frames[:1]).shape == (0, 112, 128, 2)
    np.testing.assert_array_equal(found, flow(frames))


def test_flow_and_masks_take_one_thread() -> None:
    cv2.setNumThreads(4)
    flow(scene((1, 0), (1, 0), count=2)[0])
    assert cv2.getNumThreads() == 1


# --- masks


@pytest.mark.parametrize("camera", [(0, 0), (3, -1)])
def test_a_mask_shows_what_moves_and_not_the_camera(camera: tuple[int, int]) -> None:
    frames, truth = scene(camera, (-4, 4))
    masks = motion_mask(frames)
    assert masks.dtype == np.uint8 and masks.shape == truth.shape and masks.max() == 1
    for mask, there in zip(masks, truth, strict=True):
        assert (mask & there).sum() > 0.8 * there.sum()
        assert (mask & ~there & 1).sum() < 0.8 * there.sum()  # its edge is as wide as flow sees


def test_a_mask_of_a_turning_camera_is_empty() -> None:
    ground, frames = texture(300, 300, 1), np.empty((4, 112, 128, 3), np.uint8)
    for number in range(4):
        turn = cv2.getRotationMatrix2D((150, 150), 1.5 * number, 1 + 0.01 * number)
        frames[number] = cv2.warpAffine(ground, turn, (300, 300))[90:202, 90:218]
    assert motion_mask(frames).mean() < 0.02


def test_of_a_still_there_is_no_motion() -> None:
    frames, _ = scene((0, 0), (0, 0))
    assert not motion_mask(frames).any()
    assert not motion_mask(frames[:1]).any()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 32, 32), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((2, 8, 64, 3), np.uint8),
    ],
)
def test_what_are_no_frames_is_refused(frames: Pixels) -> None:
    for made in (flow, motion_mask):
        with pytest.raises(UsageError, match="frames of"):
            made(frames)


# --- bands


def band_of(hertz: float, bands: int, rate: int) -> int:
    """The band whose middle is nearest in mel."""
    mel, top = (2595 * np.log10(1 + f / 700) for f in (hertz, rate / 2))
    return round(float(mel / top) * (bands + 1)) - 1


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("bands", [40, 64, 128])
@pytest.mark.parametrize("hertz", [150.0, 440.0, 1000.0, 3000.0])
def test_a_tone_is_in_its_band(rate: int, bands: int, hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    logs = log_mel(tone, rate, bands=bands)
    assert logs.dtype == np.float32 and logs.shape == (bands, 98)
    assert abs(int(logs.mean(1).argmax()) - band_of(hertz, bands, rate)) <= 1
    assert abs(float(logs.max())) < 2
    quieter = log_mel(tone / np.float32(10), rate, bands=bands)  # 20 dB
    np.testing.assert_allclose(logs.max() - quieter.max(), np.log(100), atol=0.01)


def test_steps_lie_where_they_are_said_to() -> None:
    sound = np.zeros(RATE, np.float32)
    sound[8_000:] = np.sin(np.arange(8_000) * 0.4)
    logs = log_mel(sound, RATE, window_seconds=0.02, step_seconds=0.02)
    assert logs.shape == (64, 50)
    assert (logs[:, :25] < -20).all() and (logs[:, 25:].max(0) > -2).all()


def test_silence_and_short_sound_are_finite() -> None:
    for count in (0, 1, 399, 400, 560):
        logs = log_mel(np.zeros(count, np.float32), RATE)
        assert logs.shape == (64, 2 if count == 560 else 1)
        assert np.isfinite(logs).all()
    with pytest.raises(UsageError, match="one dimension"):
        log_mel(np.zeros((2, 100), np.float32), RATE)
    with pytest.raises(UsageError, match="0 samples"):
        log_mel(np.zeros(100, np.float32), RATE, step_seconds=0.0)


# --- the sound of a span


@pytest.fixture(scope="module")
def heard() -> bytes:
    sound = np.random.default_rng(2).normal(0, 0.2, 48_000).astype(np.float32)
    return transcode(with_sound(moving_square(100), sound), PROFILES["training"])[0]


@given(start=st.floats(-1, 5), seconds=st.floats(0, 3), rate=st.sampled_from([16_000, 22_050]))
@settings(max_examples=30, deadline=None)
def test_sound_is_alike_by_whatever_way(
    start: float, seconds: float, rate: int, heard: bytes
) -> None:
    index = index_of(heard)
    assert index is not None
    again = unpacked(index.packed())
    by_container = sound_of(heard, start, start + seconds, rate)
    by_ranges = sound_of(
        lambda at, size: heard[at : at + size], start, start + seconds, rate, index=again
    )
    np.testing.assert_array_equal(by_ranges, by_container)
    np.testing.assert_array_equal(by_container, decode_audio(heard, start, start + seconds, rate))
    assert len(by_ranges) == round((start + seconds - start) * rate)


def test_where_there_is_no_sound_there_is_silence(heard: bytes) -> None:
    silent = written(moving_square(10))
    np.testing.assert_array_equal(sound_of(silent, 0.1, 0.6), np.zeros(8_000, np.float32))
    late = sound_of(heard, 2.0, 6.0)
    assert np.abs(late[:15_000]).max() > 0.1 and not late[-30_000:].any()
    early = sound_of(heard, -1.0, 1.0)
    assert not early[:15_000].any() and np.abs(early[16_000:]).max() > 0.1


def test_byte_ranges_need_an_index_of_sound() -> None:
    index = index_of(written(moving_square(10)))
    assert index is not None and index.sound is None
    for given_index in (None, index):
        with pytest.raises(UsageError, match="wanted the whole video"):
            sound_of(lambda at, size: b"", 0.0, 1.0, index=given_index)
