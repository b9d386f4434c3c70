"""Worlds: nothing leaks a label, everything comes from the seed, a folder is whole or unfinished."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipmill.errors import ClipmillError, SourceError, StorageError, UsageError
from clipmill.video import decode_audio, decode_frames, probe
from clipmill.worlds import DIFFICULTIES, WORLDS, Scene, handwriting, kinds, make
from clipmill.worlds.folder import plan, split_sizes
from clipmill.worlds.kinds import FPS, FRAMES

SIZE = 64
TRAINED, TESTED = 600, 400
WRITING = handwriting()


def render(
    world: str, seed: int, label: int, split: str = "train", difficulty: str = "default"
) -> Scene:
    rng = np.random.default_rng(seed)
    return WORLDS[world].render(rng, WRITING[split], label, SIZE, DIFFICULTIES[difficulty])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- no leaks


def half_of_binomial_interval(chance: float, count: int) -> float:
    return float(1.96 * np.sqrt(chance * (1 - chance) / count))


def probed(
    features: NDArray[np.float64], labels: NDArray[np.int64], trained: int = TRAINED
) -> float:
    """Train a linear probe on the first videos and give its share right on the others."""
    scaler = StandardScaler().fit(features[:trained])
    probe = LogisticRegression(C=0.01, max_iter=2000)
    probe.fit(scaler.transform(features[:trained]), labels[:trained])
    return float(probe.score(scaler.transform(features[trained:]), labels[trained:]))


@pytest.fixture(scope="module")
def directions() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every twelfth frame of many videos of `direction`, at a quarter of the size, and labels."""
    count = TRAINED + TESTED
    labels = np.random.default_rng(0).permutation(np.arange(count) % 8)
    clips = [
        render("direction", number, int(label), "train" if number < TRAINED else "test").frames
        for number, label in enumerate(labels)
    ]
    small = [clip[::12].reshape(4, 16, 4, 16, 4, 3).mean((2, 4)) for clip in clips]
    return np.stack(small).astype(np.uint8), labels


def glyph_places(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Find the glyph in each frame: the centre of what is bright, as angles on the torus."""
    bright = frames.max(-1).astype(float) ** 4
    angles = np.exp(2j * np.pi * np.arange(frames.shape[-2]) / frames.shape[-2])
    y = (bright.sum(-1) * angles).sum(-1)
    x = (bright.sum(-2) * angles).sum(-1)
    return np.stack([y / np.abs(y), x / np.abs(x)], -1)


def test_one_frame_does_not_tell_a_direction(
    directions: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    frames, labels = directions
    pixels = frames[:, 2].mean(-1).reshape(len(frames), -1)
    places = glyph_places(frames)[:, 2]
    waves = np.concatenate([places.real, places.imag, (places**2).real, (places**2).imag], 1)
    for features in (pixels, waves, np.concatenate([pixels, waves], 1)):
        share = probed(features.astype(np.float64), labels)
        assert abs(share - 1 / 8) <= half_of_binomial_interval(1 / 8, TESTED)


def test_the_same_probe_reads_the_direction_from_motion() -> None:
    # Else the test above would only show that the probe is blind.
    labels = np.arange(160) % 8
    steps = []
    for number, label in enumerate(labels):
        places = glyph_places(render("direction", number, int(label)).frames[::3])
        steps.append(np.angle(places[1:] / places[:-1]).mean(0))
    features = np.stack(steps)
    assert probed(features, labels, trained=80) > 0.9


def test_a_direction_is_clear_at_five_frames_a_second() -> None:
    assert FPS == 15 and FRAMES >= 3 * 15 + 1
    for difficulty in DIFFICULTIES.values():
        low, high = difficulty.speed
        assert 3 * low >= 2 and 3 * high <= 4  # pixels from one sampled frame to the next
        assert 15 * 3 * low > SIZE / 3  # a good part of the frame in one clip


def test_both_orders_are_made_of_the_same_frames() -> None:
    for seed in range(12):
        swell_first, slide_first = (render("order", seed, label).frames for label in (0, 1))
        assert (swell_first != slide_first).any()
        for stride, start in ((1, 0), (3, 0), (3, 1), (3, 2)):
            halves = [
                sorted(frame.tobytes() for frame in frames[start::stride])
                for frames in (swell_first, slide_first)
            ]
            assert halves[0] == halves[1]


@pytest.mark.parametrize("length", [3, 6, 12, 15])
def test_parts_of_an_order_join_without_a_jump_of_the_ground(length: int) -> None:
    for seed in range(5):
        path = kinds._loop(np.random.default_rng(seed), length, SIZE)
        assert not path[0].any()  # every part begins at the anchor, and ends one step before it
        steps = np.hypot(*np.diff(np.concatenate([path, path[:1]]), axis=0).T)
        np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("world", ["appearance", "direction", "order"])
def test_sound_does_not_tell_the_label(world: str) -> None:
    for seed in range(3):
        one, other = (render(world, seed, label) for label in (0, 1))
        spectra = [np.abs(np.fft.rfft(scene.audio)) for scene in (one, other)]
        if world == "appearance":  # its label chooses the handwriting, which takes its own draws
            assert all(spectrum.shape == spectra[0].shape for spectrum in spectra)
        else:
            np.testing.assert_array_equal(one.audio, other.audio)


def test_one_frame_tells_the_appearance() -> None:
    # The counterpart: what one frame should tell, it does.
    labels = np.arange(300) % 10
    pixels = []
    for number, label in enumerate(labels):
        frame = render("appearance", number, int(label), difficulty="easy").frames[0].max(-1)
        y, x = np.unravel_index(frame.argmax(), frame.shape)
        bright = frame > 150
        rows, columns = np.nonzero(bright) if bright.any() else ([y], [x])
        cut = np.pad(frame, 32)[int(np.mean(rows)) :, int(np.mean(columns)) :]
        pixels.append(cut[16:48, 16:48].reshape(16, 2, 16, 2).mean((1, 3)).ravel())
    assert probed(np.stack(pixels), labels, trained=200) > 0.4


def test_no_split_sees_anothers_handwriting() -> None:
    parts = [set(part.numbers.tolist()) for part in WRITING.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    images = [{image.tobytes() for image in part.images} for part in WRITING.values()]
    assert sum(map(len, images)) == len(set.union(*images))
    for part in WRITING.values():
        assert set(part.digits.tolist()) == set(range(10))


def test_unlabelled_sound_follows_the_digit() -> None:
    def pitch(scene: Scene) -> float:
        spectrum = np.abs(np.fft.rfft(scene.audio))
        return float((spectrum**4 * np.arange(len(spectrum))).sum() / (spectrum**4).sum())

    scenes = [render("unlabelled", seed, 0) for seed in range(60)]
    digits = [float(scene.attributes["digit"]) for scene in scenes]
    assert np.corrcoef(digits, [pitch(scene) for scene in scenes])[0, 1] > 0.8
    assert {scene.attributes["motion"] for scene in scenes} == {"drift", "bounce", "orbit", "pulse"}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_scene_is_what_its_world_says(world: str, difficulty: str) -> None:
    scene = render(world, 1, 1, difficulty=difficulty)
    assert scene.frames.shape == (FRAMES, SIZE, SIZE, 3) and scene.frames.dtype == np.uint8
    assert scene.audio.dtype == np.float32 and 0 < np.abs(scene.audio).max() <= 1
    assert tuple(scene.attributes) == WORLDS[world].attributes
    assert scene.frames.max() > 80 and scene.frames.min() < 120


# --- folders


@pytest.mark.parametrize(("world", "classes"), [("order", 2), ("unlabelled", 0)])
def test_a_world_is_real_videos_in_splits(world: str, classes: int, tmp_path: Path) -> None:
    told = make(world, tmp_path / "w", videos=20, workers=1)
    assert told["splits"] == {"train": 14, "val": 3, "test": 3}
    assert len(told["classes"]) == classes  # type: ignore[arg-type]
    assert (told["videos"], told["made"]) == (20, 20)
    with (tmp_path / "w" / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = set(files(tmp_path / "w"))
    assert names == {row["path"] for row in rows} | {"videos.csv", "world.json"}
    assert all(row["path"].startswith(row["split"] + "/" + row["label"]) for row in rows)
    about = json.loads((tmp_path / "w" / "world.json").read_text())
    assert (about["chance"], about["seed"]) == (1 / classes if classes else None, 0)
    for row in rows[:2]:
        info = probe(tmp_path / "w" / row["path"], decode=True)
        assert (info.codec, info.frames, info.fps, info.faults) == ("h264", FRAMES, FPS, ())
        assert info.audio_channels == 1 and info.duration_seconds == pytest.approx(3.2)
        assert np.abs(decode_audio(tmp_path / "w" / row["path"], 1.0, 2.0)).max() > 0.01


def test_writing_keeps_the_frames_of_both_orders_the_same(tmp_path: Path) -> None:
    from clipmill.video import encode
    from clipmill.worlds.folder import FRAME_BY_FRAME

    shown = []
    for label in (0, 1):
        path = tmp_path / f"{label}.mp4"
        frames = render("order", 5, label).frames
        encode(path, frames, fps=FPS, crf=None, preset="ultrafast", x264=FRAME_BY_FRAME)
        decoded = decode_frames(path, range(FRAMES))
        shown.append(sorted(frame.tobytes() for frame in decoded))
        assert np.abs(decoded.astype(int) - frames).mean() < 12
    assert shown[0] == shown[1]


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make("direction", tmp_path / "one", videos=24, workers=1)
    make("direction", tmp_path / "two", videos=24, workers=2, progress=lambda *at: seen.append(at))
    make("direction", tmp_path / "other", videos=24, workers=1, seed=1)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "other")
    assert seen == [(8, 24), (16, 24), (24, 24)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("videos", [3, 40, 997, 1000])
def test_a_plan_is_balanced_and_complete(world: str, videos: int) -> None:
    from clipmill.worlds.folder import Order

    planned = plan(Order(world, videos, SIZE, 0, "default"))
    assert len({video.path for video in planned}) == videos == sum(split_sizes(videos).values())
    for split, count in split_sizes(videos).items():
        labels = [video.label for video in planned if video.split == split]
        counts = np.bincount(labels, minlength=max(1, len(WORLDS[world].classes)))
        assert counts.sum() == count >= 1 and np.ptp(counts) <= 1


def test_an_interrupted_world_is_continued(tmp_path: Path) -> None:
    make("order", tmp_path / "whole", videos=24, workers=1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("order", tmp_path / "w", videos=24, workers=1, progress=interrupt)
    left = files(tmp_path / "w")
    assert "world.json" not in left and len(left) == 9
    assert all(name.endswith((".mp4", "world.json.unfinished")) for name in left)
    with pytest.raises(SourceError, match="videos=24"):
        make("order", tmp_path / "w", videos=30, workers=1)
    assert make("order", tmp_path / "w", videos=24, workers=1)["made"] == 16
    assert files(tmp_path / "w") == files(tmp_path / "whole")


def test_an_interrupt_leaves_no_process_and_nothing_half_written(tmp_path: Path) -> None:
    program = f"""
import multiprocessing, sys
from clipmill.worlds import make
def stop(done, total):
    raise KeyboardInterrupt
if __name__ == "__main__":
    try:
        make("direction", {str(tmp_path / "w")!r}, videos=200, workers=2, progress=stop)
    except KeyboardInterrupt:
        print(len(multiprocessing.active_children()))
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
    assert not list((tmp_path / "w").rglob("*.part"))
    for path in (tmp_path / "w").rglob("*.mp4"):
        assert probe(path, decode=True).frames == FRAMES


def test_a_finished_world_is_left_alone(tmp_path: Path) -> None:
    make("appearance", tmp_path / "w", videos=10, workers=1)
    before = files(tmp_path / "w")
    assert make("appearance", tmp_path / "w", videos=10, workers=1)["made"] == 0
    with pytest.raises(SourceError, match="seed=0"):
        make("appearance", tmp_path / "w", videos=10, seed=1)
    assert files(tmp_path / "w") == before


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SourceError, match="something else"):
        make("order", tmp_path, videos=10)
    with pytest.raises(ClipmillError):
        make("order", tmp_path / "notes.txt", videos=10)
    with pytest.raises(StorageError):
        make("order", tmp_path / "notes.txt" / "below", videos=10)
    assert files(tmp_path) == {"notes.txt": b"mine"}
    (tmp_path / "world.json").write_text("no json")
    with pytest.raises(SourceError, match="cannot be read"):
        make("order", tmp_path, videos=10)


def test_orders_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "w"
    for arguments, told in (
        ({"name": "directions"}, "one of appearance, direction"),
        ({"videos": 2}, "at least 3"),
        ({"size": 63}, "even"),
        ({"seed": -1}, "0 or more"),
        ({"difficulty": "nasty"}, "easy, default, hard"),
    ):
        with pytest.raises(UsageError, match=told):
            make(**{"name": "order", "out": out, **arguments})  # type: ignore[arg-type]
    assert not out.exists()
