"""One look through a video: what moved, how bright, sharp and silent, where shots begin."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from clipmill.errors import UsageError, VideoError
from clipmill.ingest.near import near_groups
from clipmill.video import Profile, decode_frames, encode, survey, transcode
from clipmill.worlds import make

Frames = list[NDArray[np.uint8]]


def scene(seed: int, *, height: int = 96, width: int = 128, light: int = 128) -> NDArray[np.uint8]:
    """A picture of soft and hard shapes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(light - 90, light + 90, (6, 8, 3))
    fine = rng.integers(-30, 30, (height // 4, width // 4, 3))
    both = np.kron(coarse, np.ones((height // 6, width // 8, 1)))
    both = both + np.kron(fine, np.ones((4, 4, 1)))
    picture: NDArray[np.uint8] = np.clip(both, 0, 255).astype(np.uint8)
    return picture


def video_of(frames: Frames, *, fps: float = 25, crf: int = 23, **more: object) -> bytes:
    target = io.BytesIO()
    encode(target, frames, fps=fps, crf=crf, **more)  # type: ignore[arg-type]
    return target.getvalue()


def noisy(frames: Frames, amplitude: float) -> Frames:
    rng = np.random.default_rng(1)
    return [
        np.clip(frame + rng.normal(0, amplitude, frame.shape), 0, 255).astype(np.uint8)
        for frame in frames
    ]


def with_block(count: int, step: int) -> Frames:
    """A still scene that a block crosses."""
    frames = [scene(0) for _ in range(count)]
    for number, frame in enumerate(frames):
        left = number * step % 90
        frame[30:60, left : left + 30] = (250, 240, 20)
    return frames


def shaken(count: int) -> Frames:
    wide = scene(0, height=120, width=160)
    places = np.random.default_rng(2).integers(0, 3, (count, 2))
    return [np.ascontiguousarray(wide[y : y + 96, x : x + 128]) for y, x in places]


def motion(frames: Frames, **how: float) -> float:
    told = survey(video_of(frames, **how), what=frozenset({"motion"}))  # type: ignore[arg-type]
    return float(told.measures(0, told.duration_seconds)["motion"])


def cuts(frames: Frames, **how: int) -> list[int]:
    told = survey(video_of(frames, **how), what=frozenset({"shots"}))
    return [round(seconds * 25) for seconds in told.shots]


def test_noise_and_changing_light_are_no_motion() -> None:
    still = [scene(0)] * 50
    lit = [(frame * (0.7 + 0.3 * np.sin(n / 9))).astype(np.uint8) for n, frame in enumerate(still)]
    assert motion(still) == 0
    assert motion(noisy(still, 12)) < 0.002
    assert motion(lit) < 0.002


def test_a_shaking_camera_moves_less_than_a_thing() -> None:
    shaking, moving = motion(shaken(50)), motion(with_block(50, 5))
    assert 0.001 < shaking < 0.7 * moving and moving < 1
    assert motion(noisy(with_block(50, 5), 12)) == pytest.approx(moving, rel=0.25)


def test_motion_does_not_depend_on_the_frame_rate() -> None:
    frames = with_block(60, 4)
    assert motion(frames[::3], fps=10) == pytest.approx(motion(frames, fps=30), rel=0.15)


def test_motion_skips_what_it_can_and_sees_the_same() -> None:
    ladder = transcode(video_of(with_block(60, 4)), Profile())[0]
    alone = survey(ladder, what=frozenset({"motion"}))
    everything = survey(ladder)
    assert alone.duration_seconds == everything.duration_seconds
    assert alone.measures(0, 2)["motion"] == everything.measures(0, 2)["motion"] > 0
    assert alone.measures(0, 2)["shots"] is alone.measures(0, 2)["phash"] is None


def test_cuts_are_exact_to_the_frame() -> None:
    lengths = [9, 30, 4, 17, 600, 6]  # longer than what is judged at once, too
    frames = [f for seed, n in enumerate(lengths) for f in noisy([scene(seed)], 3) * n]
    for crf in (20, 35):
        assert cuts(frames, crf=crf) == np.cumsum(lengths)[:-1].tolist()


def test_flashes_fades_and_fast_motion_are_no_cuts() -> None:
    flashing = [scene(0)] * 60
    flashing[20] = flashing[40] = flashing[41] = np.full_like(flashing[0], 250)
    fading = [(scene(0) * (1 - n / 50)).astype(np.uint8) for n in range(50)]
    panning = [np.roll(scene(3), 9 * n, axis=1) for n in range(60)]
    assert cuts(flashing) == cuts(fading) == cuts(panning) == cuts(with_block(60, 11)) == []


def test_a_span_has_its_own_measures() -> None:
    dark = [scene(1, light=60) // 2] * 50
    told = survey(video_of([*with_block(50, 5), *dark]))
    assert told.shots == (2.0,)
    first, second, both = told.measures(0, 2), told.measures(2, 4), told.measures(0.5, 3.5)
    assert first["motion"] > 0.01 and second["motion"] == 0
    assert first["brightness"] > 2 * second["brightness"] > 0.1
    assert (first["shots"], second["shots"], both["shots"]) == ([], [], [1.5])
    assert first["phash"] != second["phash"]
    alone = survey(video_of(dark)).measures(0, 2)
    assert near_groups([second["phash"], alone["phash"]]) == [0, 0]
    assert alone["brightness"] == pytest.approx(second["brightness"], abs=0.01)


def test_a_curve_tells_each_half_second_and_its_mean_is_the_motion() -> None:
    still = [scene(0)] * 25
    told = survey(video_of([*still, *with_block(50, 5), *still[:5]]))  # 1 s, 2 s and 0.2 s
    curve = told.measures(0, told.duration_seconds)["motion_curve"]
    assert len(curve) == 7 and curve[0] == 0 and min(curve[2:5]) > 0.01
    later = told.measures(1, 3)
    assert later["motion_curve"][:3] == pytest.approx(curve[2:5], abs=1e-6)
    assert np.mean(later["motion_curve"]) == pytest.approx(later["motion"], rel=0.1)
    cut = survey(video_of([*[scene(1)] * 25, *[scene(2)] * 25]))
    assert cut.measures(0, 2)["motion_curve"] == [0.0] * 4, "a cut is no motion"
    assert survey(video_of([scene(0)])).measures(0, 9)["motion_curve"] == [0.0]


def test_brightness_runs_from_black_to_white() -> None:
    black, white = (survey(video_of([np.full((64, 64, 3), v, np.uint8)] * 5)) for v in (0, 255))
    assert black.measures(0, 1)["brightness"] == pytest.approx(0, abs=0.01)
    assert white.measures(0, 1)["brightness"] == pytest.approx(1, abs=0.01)
    assert black.measures(0, 1)["phash"] == [0, 0, 0]
    assert white.measures(0, 1)["sharpness"] < 0.01


def test_a_blurred_film_is_less_sharp() -> None:
    sharp = scene(0)
    blurred = sharp.astype(float)
    for axis in (0, 1) * 4:
        blurred = (np.roll(blurred, 1, axis) + blurred + np.roll(blurred, -1, axis)) / 3
    one, other = (survey(video_of([f.astype(np.uint8)] * 5)) for f in (sharp, blurred))
    assert one.measures(0, 1)["sharpness"] > 4 * other.measures(0, 1)["sharpness"] > 0


def test_silence_is_the_share_of_time_without_sound() -> None:
    rate = 16_000
    sound = np.zeros(4 * rate, np.float32)
    sound[rate : 2 * rate] = 0.2 * np.sin(np.arange(rate) * 0.2)
    source = video_of([scene(0)] * 100, audio=sound, audio_rate=rate)
    told = survey(source)
    assert told.measures(0, 4)["silence"] == pytest.approx(0.75, abs=0.05)
    assert told.measures(1.1, 1.9)["silence"] == 0
    alone = survey(source, what=frozenset({"silence"}))
    assert alone.measures(0, 4) == {
        "silence": told.measures(0, 4)["silence"],
        **dict.fromkeys(("motion", "motion_curve", "brightness", "sharpness", "shots", "phash")),
    }
    assert survey(video_of([scene(0)] * 5)).measures(0, 1)["silence"] is None


def test_reencoded_and_rescaled_videos_group_and_others_do_not() -> None:
    hashes = []
    for seed in range(6):
        frames = [np.roll(scene(seed), n, axis=1) for n in range(50)]
        small = [frame[::2, ::2] for frame in frames]
        light = [np.clip(frame * 1.05 + 6, 0, 255).astype(np.uint8) for frame in frames]
        for source in (video_of(frames), video_of(small, crf=35), video_of(light, crf=35)):
            told = survey(source, what=frozenset({"phash"}))
            hashes.append(told.measures(0, told.duration_seconds)["phash"])
    assert near_groups(hashes) == np.repeat(np.arange(6), 3).tolist()


def test_videos_of_a_world_are_no_duplicates_and_have_no_cuts(tmp_path: Path) -> None:
    make("direction", tmp_path / "world", videos=24, workers=1)
    told = [survey(path) for path in sorted((tmp_path / "world").glob("**/*.mp4"))]
    assert [one.shots for one in told] == [()] * 24
    assert len(set(near_groups([one.measures(0, 3.2)["phash"] for one in told]))) == 24
    assert min(one.measures(0, 3.2)["motion"] for one in told) > 0.02


def test_short_spans_and_single_frames_have_measures() -> None:
    told = survey(video_of([scene(0)]))
    assert told.measures(0, told.duration_seconds)["motion"] == 0
    assert told.measures(0, 0.001)["brightness"] == told.measures(0, 9)["brightness"] > 0


def test_what_is_no_video_span_or_measure_is_refused() -> None:
    with pytest.raises(VideoError):
        survey(b"text")
    with pytest.raises(UsageError, match="smell"):
        survey(video_of([scene(0)]), what=frozenset({"smell"}))
    with pytest.raises(UsageError, match="a span"):
        survey(video_of([scene(0)])).measures(2, 1)


def test_the_survey_reads_what_decoding_reads() -> None:
    source = video_of(with_block(30, 5))
    frames = decode_frames(source, range(30))
    luma = frames @ np.array([0.299, 0.587, 0.114])
    told = survey(source).measures(0, 1.2)
    assert told["brightness"] == pytest.approx(luma.mean() / 255, abs=0.02)
