"""Worlds: everything comes from the seed, a folder is whole or unfinished."""

import csv
import json
import signal
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clipmill.errors import ClipmillError, SourceError, StorageError, UsageError
from clipmill.video import decode_audio, decode_frames, probe
from clipmill.worlds import DIFFICULTIES, WORLDS, Scene, handwriting, make
from clipmill.worlds.crowd import Body
from clipmill.worlds.draw import AUDIO_RATE, glyph_cover
from clipmill.worlds.folder import plan, split_sizes
from clipmill.worlds.identities import turned_cover
from clipmill.worlds.scene import FPS, FRAMES
from clipmill.worlds.sounding import _telling_sound

SIZE = 64
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


# --- scenes


def test_no_split_sees_anothers_handwriting() -> None:
    parts = [set(part.numbers.tolist()) for part in WRITING.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797
    images = [{image.tobytes() for image in part.images} for part in WRITING.values()]
    assert sum(map(len, images)) == len(set.union(*images))
    for part in WRITING.values():
        assert set(part.digits.tolist()) == set(range(10))


def test_unlabelled_pitch_is_of_height_and_digit() -> None:
    def octave(digit: int, row: float) -> float:
        """How high a digit sounds that hangs in one row of the picture."""
        body = Body(
            digit, 0, np.zeros((8, 8), np.float32), np.full((FRAMES, 2), row), np.full(FRAMES, 30.0)
        )
        sound = _telling_sound(np.random.default_rng(0), body, SIZE)
        hertz = np.fft.rfftfreq(len(sound), 1 / AUDIO_RATE)
        return float(np.log2(hertz[np.abs(np.fft.rfft(sound)).argmax()] / 220))

    top, middle = octave(0, 0.0), octave(0, SIZE / 2)
    assert top - middle == pytest.approx(1.6, abs=0.02)
    assert octave(9, 0.0) - top == pytest.approx(9 / 8, abs=0.02)


def test_unlabelled_shows_crowds_and_a_camera_that_moves_and_tells_of_them() -> None:
    def changed(scene: Scene) -> float:  # the ground is most of what is seen
        changes = np.abs(np.diff(scene.frames[::6].astype(int), axis=0))
        return float(np.median(changes, axis=(1, 2, 3)).mean())

    scenes = [render("unlabelled", seed, 0) for seed in range(60)]
    motions = {scene.attributes["motion"] for scene in scenes}
    assert motions == {"drift", "bounce", "orbit", "pulse"}
    glyphs = [scene.attributes["glyphs"] for scene in scenes]
    assert [glyphs.count(number) > 5 for number in (1, 2, 3)] == [True] * 3
    still, moving = (
        [changed(scene) for scene in scenes if scene.attributes["camera"] == way]
        for way in ("still", "moving")
    )
    assert min(len(still), len(moving)) > 10
    assert np.median(moving) > 1.2 * np.median(still)


def test_objects_have_masks_of_what_is_seen() -> None:
    hidden = 0
    for seed in range(12):
        scene = render("objects", seed, 0)
        assert scene.masks is not None
        classes, things = scene.masks.classes, scene.masks.instances
        digits = [0, *(int(digit) + 1 for digit in str(scene.attributes["digits"]).split())]
        np.testing.assert_array_equal(np.array(digits)[things], classes)
        ground = scene.frames[classes == 0].max(-1)
        shown = scene.frames[classes > 0].max(-1)
        assert np.median(shown) > np.median(ground) + 60
        sizes = np.array([(things == thing).sum((1, 2)) for thing in range(1, len(digits))])
        hidden += int((sizes.min(1) < 0.6 * sizes.max(1)).any())
    assert hidden >= 6, "they hide each other"


def test_a_nearer_thing_hides_a_further_one() -> None:
    from clipmill.worlds.crowd import Body
    from clipmill.worlds.objects import _masks

    still, glyph = (np.zeros((1, 2)), np.ones(1)), np.ones((8, 8), np.float32)
    near, far = (Body(digit, 0, glyph, *still) for digit in (3, 3))
    covers = [np.array([[[1.0, 1.0, 0.0, 0.2]]]), np.array([[[0.0, 1.0, 1.0, 0.4]]])]
    masks = _masks([near, far], [cover.astype(np.float32) for cover in covers])
    assert masks.classes.tolist() == [[[4, 4, 4, 0]]]
    assert masks.instances.tolist() == [[[1, 1, 2, 0]]]


def test_masks_lie_beside_their_videos_and_the_table_names_them(tmp_path: Path) -> None:
    make("objects", tmp_path / "w", videos=3, size=32, workers=1)
    with (tmp_path / "w" / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["mask_classes"] == "0|1|2|3|4|5|6|7|8|9" and row["label"] == ""
        with zipfile.ZipFile(tmp_path / "w" / row["masks"]) as archive:
            assert archive.namelist() == [f"{frame:06d}.png" for frame in range(FRAMES)]
    names = {name for row in rows for name in (row["path"], row["masks"])}
    assert set(files(tmp_path / "w")) == names | {"videos.csv", "world.json"}
    about = json.loads((tmp_path / "w" / "world.json").read_text())
    assert about["mask_classes"] == list("0123456789") and about["classes"] == []


PINNED = {  # attributes, and the mean of all frames and of the 21st
    "appearance": ([1, 1668], 84.760, 84.919),
    "direction": ([9, 1146, 1.1378], 86.370, 86.504),
    "order": ([9, 1276, 6, 1647], 67.883, 70.310),
    "long-gap": (["violet", "swell", 79, 6, 1449, 6, 741], 72.842, 72.242),
    "switch": ([9, 1146], 78.318, 83.600),
    "av-joint": ([1, 1076, 0], 81.181, 81.299),
    "unlabelled": ([8, 242, "bounce", 1, "still"], 90.224, 90.494),
    "objects": ([2, "3 8", "moving"], 65.388, 64.829),
    "identities": (["1668", 1], 54.159, 47.456),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_makes_the_scene_that_it_always_made(world: str) -> None:
    attributes, mean, one = PINNED[world]
    scene = render(world, 7, 1)
    told = [value for name, value in scene.attributes.items() if name != "spans"]
    assert told == attributes
    # In sums that a processor may round in its own way.
    assert scene.frames.mean() == pytest.approx(mean, abs=0.01)
    assert scene.frames[20].mean() == pytest.approx(one, abs=0.01)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_scene_is_what_its_world_says(world: str, difficulty: str) -> None:
    scene = render(world, 1, 1, difficulty=difficulty)
    frames = WORLDS[world].frames
    assert scene.frames.shape == (frames, SIZE, SIZE, 3) and scene.frames.dtype == np.uint8
    assert len(scene.audio) == round(frames / FPS * AUDIO_RATE)
    assert scene.audio.dtype == np.float32 and 0 < np.abs(scene.audio).max() <= 1
    assert tuple(scene.attributes) == WORLDS[world].attributes
    assert scene.frames.max() > 80 and scene.frames.min() < 120


# --- folders


@pytest.mark.parametrize(("world", "classes"), [("order", 2), ("unlabelled", 0)])
def test_a_world_is_real_videos_in_splits(world: str, classes: int, tmp_path: Path) -> None:
    from clipmill.ingest.layouts import read

    told = make(world, tmp_path / "w", videos=20, workers=1)
    assert told["splits"] == {"train": 14, "val": 3, "test": 3}
    assert len(told["classes"]) == classes  # type: ignore[arg-type]
    assert (told["videos"], told["made"]) == (20, 20)
    with (tmp_path / "w" / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert read(str(tmp_path / "w")).warnings == [], "folders tell its classes"
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


def test_a_label_a_frame_is_written_as_spans_that_ingest_reads(tmp_path: Path) -> None:
    from clipmill.ingest.layouts import read

    make("switch", tmp_path / "w", videos=3, size=32, workers=1)
    times = np.arange(WORLDS["switch"].frames) / FPS
    for source in read(str(tmp_path / "w" / "videos.csv")).sources:
        assert source.label is None and str(source.split) in source.path
        held = [(s.start_seconds <= times) & (times < s.end_seconds) for s in source.spans]
        assert len(source.spans) >= 3 and (np.sum(held, 0) == 1).all()
        assert {span.label for span in source.spans} <= {"grows", "shrinks", "stays"}
        assert not set(source.attributes) - {"digit", "handwriting"}
    folder = read(str(tmp_path / "w"))
    assert folder.sources == read(str(tmp_path / "w" / "videos.csv")).sources
    (told,) = folder.warnings
    assert "read by its videos.csv" in told


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


@pytest.mark.slow
def test_an_interrupt_at_any_moment_ends_it() -> None:
    """Many tasks that do nothing, so that it comes while their results are taken in."""
    program = """
from clipmill.worlds.folder import _results
for made in _results(dict, [[]] * 20_000, 2):
    print(made, flush=True)
"""
    for wait in np.linspace(0, 0.5, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout and process.stdout.readline() == b"{}\n"
        threading.Timer(wait, process.send_signal, [signal.SIGINT]).start()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT


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


# --- identities


def test_an_identity_is_shown_again_and_again_and_in_one_split_alone(tmp_path: Path) -> None:
    about = make("identities", tmp_path / "w", videos=60, size=32, workers=1)
    with Path(str(about["table"])).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "split", "identity", "digit"]
    parts = {
        split: Counter(row["identity"] for row in rows if row["split"] == split)
        for split in ("train", "val", "test")
    }
    assert sum(map(len, parts.values())) == len(set().union(*parts.values()))
    assert set(parts["train"].values()) == {4, 1}, "42 videos: 4 or 5 of a digit"
    digits = handwriting()["train"]
    digit_of = dict(zip(digits.numbers.tolist(), digits.digits.tolist(), strict=True))
    for row in rows:
        assert row["digit"] == row["label"]
        if row["split"] == "train":
            assert digit_of[int(row["identity"])] == int(row["digit"])


def test_a_turned_glyph_covers_as_much_and_at_no_angle_what_it_always_did() -> None:
    glyph = WRITING["train"].images[0]
    place, height = np.full((2, 2), SIZE / 2), np.full(2, 30.0)
    straight, turned = turned_cover(glyph, place, height, np.array([0.0, 0.6]), SIZE)
    plain = glyph_cover(glyph, place[:1], height[:1], SIZE, around=False)[0]
    np.testing.assert_allclose(straight, plain, atol=1e-4)
    assert turned.sum() == pytest.approx(straight.sum(), rel=0.1)
    assert np.abs(turned - straight).max() > 0.5
