"""No world leaks its answer: what should not tell it is at chance, what should does.

Linear probes, trained on some hundreds of videos and tried on 400 others of other handwriting.
"""

import itertools
import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clipmill.worlds import DIFFICULTIES, WORLDS, Scene, events, handwriting
from clipmill.worlds.draw import AUDIO_RATE
from clipmill.worlds.events import CUE_BEGINS, EVENT_BEGINS, SHOWN_FRAMES
from clipmill.worlds.glyphs import CHANGES, SPAN_FRAMES
from clipmill.worlds.scene import FPS, FRAMES
from clipmill.worlds.sounding import hertz_of

SIZE, SMALL = 64, 32
TRAINED, TESTED = 600, 400
WRITING = handwriting()

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def render(
    world: str, seed: int, label: int, split: str = "train", difficulty: str = "default",
    size: int = SIZE,
) -> Scene:  # fmt: skip
    rng = np.random.default_rng(seed)
    return WORLDS[world].render(rng, WRITING[split], label, size, DIFFICULTIES[difficulty])


def is_at_chance(share: float, chance: float, count: int = TESTED) -> bool:
    """Whether the 95 % binomial interval holds the share."""
    return bool(abs(share - chance) <= 1.96 * np.sqrt(chance * (1 - chance) / count))


def probed(features: Floats, labels: Labels, trained: int = TRAINED) -> float:
    """Train a linear probe on the first videos and give its share right on the others."""
    scaler = StandardScaler().fit(features[:trained])
    probe = LogisticRegression(C=0.01, max_iter=2000)
    probe.fit(scaler.transform(features[:trained]), labels[:trained])
    return float(probe.score(scaler.transform(features[trained:]), labels[trained:]))


@pytest.fixture(scope="module")
def directions() -> tuple[NDArray[np.uint8], Labels]:
    """Every twelfth frame of many videos of `direction`, at a quarter of the size, and labels."""
    count = TRAINED + TESTED
    labels = np.random.default_rng(0).permutation(np.arange(count) % 8)
    clips = [
        render("direction", number, int(label), "train" if number < TRAINED else "test").frames
        for number, label in enumerate(labels)
    ]
    small = [clip[::12].reshape(4, 16, 4, 16, 4, 3).mean((2, 4)) for clip in clips]
    return np.stack(small).astype(np.uint8), labels


def glyph_places(frames: NDArray[np.uint8]) -> Floats:
    """Find the glyph in each frame: the centre of what is bright, as angles on the torus."""
    bright = frames.max(-1).astype(float) ** 4
    angles = np.exp(2j * np.pi * np.arange(frames.shape[-2]) / frames.shape[-2])
    y = (bright.sum(-1) * angles).sum(-1)
    x = (bright.sum(-2) * angles).sum(-1)
    return np.stack([y / np.abs(y), x / np.abs(x)], -1)


def test_one_frame_does_not_tell_a_direction(
    directions: tuple[NDArray[np.uint8], Labels],
) -> None:
    frames, labels = directions
    pixels = frames[:, 2].mean(-1).reshape(len(frames), -1)
    places = glyph_places(frames)[:, 2]
    waves = np.concatenate([places.real, places.imag, (places**2).real, (places**2).imag], 1)
    for features in (pixels, waves, np.concatenate([pixels, waves], 1)):
        assert is_at_chance(probed(features.astype(np.float64), labels), 1 / 8)


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
        path = events._loop(np.random.default_rng(seed), length, SIZE)
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


# --- what lies further apart than a clip lasts


def gathered(
    world: str, classes: int, seen: Callable[[Scene], list[Floats]]
) -> tuple[list[Floats], Labels, list[Scene]]:
    """Columns of what is seen of many small videos, their labels, and the scenes without pixels."""
    count = TRAINED + TESTED
    labels = np.random.default_rng(1).permutation(np.arange(count) % classes)
    rows, scenes = [], []
    for number, label in enumerate(labels.tolist()):
        split = "train" if number < TRAINED else "test"
        scene = render(world, number, label, split, size=SMALL)
        rows.append(seen(scene))
        scenes.append(Scene(scene.frames[:0], scene.audio[:0], scene.attributes))
    return [np.stack(column) for column in zip(*rows, strict=True)], labels, scenes


def coarse(frames: NDArray[np.uint8]) -> Floats:
    """The mean of frames, in cells of 8 x 8."""
    cells: Floats = frames.mean(0).reshape(SMALL // 8, 8, SMALL // 8, 8, 3).mean((1, 3))
    return cells.ravel()


def spectrum(audio: NDArray[np.float32]) -> Floats:
    """How loud a sound is, in bands of about a third of an octave."""
    power = np.abs(np.fft.rfft(audio[:16384], 16384))
    edges = np.geomspace(16, len(power) - 1, 30).astype(int)
    return np.log(np.add.reduceat(power, edges)[:-1] + 1e-3)


def test_neither_cue_nor_event_alone_tells_what_is_after_a_long_gap() -> None:
    def seen(scene: Scene) -> list[Floats]:
        ground = coarse(scene.frames[30:60])
        parts = [coarse(scene.frames[part]) - ground for part in (slice(3, 18), slice(80, 95))]
        return [*parts, spectrum(scene.audio)]

    (cue, event, sound), labels, scenes = gathered("long-gap", 2, seen)
    for features in (cue, event, sound, np.concatenate([cue, event, sound], 1)):
        # The last is any mean over clips that each see one of both: a sum of what each tells.
        assert is_at_chance(probed(features, labels), 1 / 2)
    # Else this would only show that the probe is blind.
    cues = np.array([scene.attributes["cue"] == "green" for scene in scenes]).astype(int)
    kinds = np.array([scene.attributes["event"] == "swell" for scene in scenes]).astype(int)
    assert probed(cue, cues) > 0.9 and probed(event, kinds) > 0.9
    green = cue.reshape(len(cue), -1, 3).mean(1) @ [-1, 2, -1]
    warm = event.reshape(len(event), -1, 3).mean(1) @ [1, 0, -1]
    assert probed((green * warm)[:, None], labels) > 0.8


def test_no_clip_sees_both_cue_and_event() -> None:
    clip = 15 * FPS // 5 + 1  # 16 frames, 5 a second
    last_of_cue = CUE_BEGINS[1] - 1 + SHOWN_FRAMES - 1
    assert EVENT_BEGINS[0] - last_of_cue + 1 > clip
    for seed in range(8):
        scene = render("long-gap", seed, seed % 2)
        assert EVENT_BEGINS[0] <= int(scene.attributes["event_frame"])
        saturation = np.ptp(scene.frames.astype(int), axis=-1).max((1, 2))
        shown = np.flatnonzero(saturation > 110)
        assert shown.min() < EVENT_BEGINS[0] <= shown.max()
        assert not ((shown > last_of_cue) & (shown < EVENT_BEGINS[0])).any()


# --- a label a frame


def labels_of(scene: Scene) -> Labels:
    """The class of each frame, by the spans."""
    times = np.arange(len(scene.frames)) / FPS
    labels = np.full(len(times), -1)
    for span in json.loads(str(scene.attributes["spans"])):
        within = (span["start_seconds"] <= times) & (times < span["end_seconds"])
        assert (labels[within] == -1).all(), "spans overlap"
        labels[within] = CHANGES.index(span["label"])
    return labels


def sizes(frames: NDArray[np.uint8]) -> Floats:
    """How much of each frame the glyph covers, about as its square root."""
    shares: Floats = (frames.max(-1) > 190).mean((1, 2))
    return np.sqrt(shares)


def test_one_frame_does_not_tell_how_a_glyph_changes() -> None:
    moments = np.array([4, 25, 50, 80])

    def seen(scene: Scene) -> list[Floats]:
        frames = scene.frames
        told = labels_of(scene)[moments]
        grown = sizes(frames[moments + 3]) - sizes(frames[moments - 3])
        single = [np.append(coarse(frames[at][None]), sizes(frames[at][None])) for at in moments]
        return [np.stack(single), grown, told.astype(float), spectrum(scene.audio)]

    (single, grown, told, sound), first, _ = gathered("switch", len(CHANGES), seen)
    labels = told.astype(np.int64)
    assert all(is_at_chance((labels == each).mean(), 1 / 3, labels.size) for each in range(3))
    for place in range(len(moments)):
        assert is_at_chance(probed(single[:, place], labels[:, place]), 1 / 3)
    assert is_at_chance(probed(sound, first), 1 / 3)
    # Two frames tell, but for those where size jumps or the change itself changes.
    clear = np.abs(grown) < 0.1
    together = np.concatenate([grown[:TRAINED][clear[:TRAINED]], grown[TRAINED:][clear[TRAINED:]]])
    truth = np.concatenate([labels[:TRAINED][clear[:TRAINED]], labels[TRAINED:][clear[TRAINED:]]])
    assert probed(together[:, None], truth, int(clear[:TRAINED].sum())) > 0.75


def test_every_frame_of_a_switch_has_one_label() -> None:
    for seed in range(12):
        scene = render("switch", seed, seed % 3, size=SMALL)
        labels = labels_of(scene)
        assert (labels >= 0).all() and labels[0] == seed % 3
        spans = json.loads(str(scene.attributes["spans"]))
        names = [span["label"] for span in spans]
        assert len(spans) >= 3 and all(a != b for a, b in itertools.pairwise(names))
        lengths = np.diff([0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)])
        assert (lengths[:-1] >= SPAN_FRAMES[0]).all() and (lengths < SPAN_FRAMES[1]).all()


# --- what is seen against what is heard


def test_neither_eye_nor_ear_alone_tells_whether_they_agree() -> None:
    def seen(scene: Scene) -> list[Floats]:
        bright = scene.frames[:12].max(-1)
        cuts = []
        for frame in bright:
            rows, columns = np.nonzero(frame > 190)
            y, x = (int(np.mean(at)) if len(at) else SMALL // 2 for at in (rows, columns))
            cuts.append(np.pad(frame, 8)[y : y + 16, x : x + 16])
        return [np.mean(cuts, 0).ravel(), coarse(scene.frames), spectrum(scene.audio)]

    (cut, ground, sound), labels, scenes = gathered("av-joint", 2, seen)
    for features in (cut, ground, sound, np.concatenate([cut, ground, sound], 1)):
        assert is_at_chance(probed(features, labels), 1 / 2)
    digits, tones = (
        np.array([int(scene.attributes[name]) for scene in scenes]) for name in ("digit", "tone")
    )
    assert ((digits == tones) == (labels == 0)).all()
    assert probed(cut, digits) > 0.9 and probed(sound, tones) > 0.9


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_tone_is_that_of_the_digit_or_of_another(difficulty: str) -> None:
    for seed in range(10):
        for label in (0, 1):
            scene = render("av-joint", seed, label, difficulty=difficulty, size=SMALL)
            power = np.abs(np.fft.rfft(scene.audio))
            hertz = power.argmax() * AUDIO_RATE / len(scene.audio)
            heard = round(3 * np.log2(hertz / hertz_of(0)))
            assert heard == scene.attributes["tone"]
            assert heard < DIFFICULTIES[difficulty].digits
            assert (heard == scene.attributes["digit"]) == (label == 0)
