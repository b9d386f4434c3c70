"""The worlds: each lets one ability decide, and says which.

A world renders one video from a random generator, a split's handwriting and a label. What must
not tell the label (place, colour, ground, noise, sound) is drawn without looking at it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from clipmill.worlds import draw
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import AUDIO_RATE, Floats, Frames, Rng

FPS = 15
FRAMES = 48
SECONDS = FRAMES / FPS
REFERENCE_SIZE = 64  # speeds are in pixels a frame at this size and grow with the size

Attributes = dict[str, str | int | float]
Path = npt.NDArray[np.float64]  # [T, 2]: y, x


@dataclass(frozen=True)
class Difficulty:
    """How hard a world is to see, whatever it asks."""

    noise: float  # grey levels, half the range
    contrast: float  # of the ground, in grey levels
    glyph: tuple[float, float]  # shares of the frame's height
    speed: tuple[float, float]  # pixels a frame in a frame of 64

    def height(self, rng: Rng, size: int) -> float:
        """Choose a glyph's height in pixels."""
        return rng.uniform(*self.glyph) * size

    def pixels_a_frame(self, rng: Rng, size: int) -> float:
        """Choose a speed."""
        return rng.uniform(*self.speed) * size / REFERENCE_SIZE


DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType(
    {
        "easy": Difficulty(noise=4, contrast=20, glyph=(0.44, 0.54), speed=(0.9, 1.1)),
        "default": Difficulty(noise=8, contrast=40, glyph=(0.38, 0.52), speed=(0.75, 1.25)),
        "hard": Difficulty(noise=24, contrast=70, glyph=(0.30, 0.50), speed=(0.7, 1.3)),
    }
)


@dataclass(frozen=True, eq=False)
class Scene:
    """One rendered video."""

    frames: Frames  # [T, size, size, 3]
    audio: Floats
    attributes: Attributes


Render = Callable[[Rng, Handwriting, int, int, Difficulty], Scene]


@dataclass(frozen=True)
class World:
    """A controlled video set; `render` takes rng, handwriting, label, size and difficulty."""

    name: str
    about: str
    classes: tuple[str, ...]  # none where there is nothing to tell
    attributes: tuple[str, ...]
    render: Render

    @property
    def chance(self) -> float | None:
        """The share right of one who guesses."""
        return 1 / len(self.classes) if self.classes else None


DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
EVENTS = ("swell", "slide")
MOTIONS = ("drift", "bounce", "orbit", "pulse")


def render_appearance(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Show the digit that is the label; it wanders anyhow, always whole."""
    glyph, number = writing.pick(rng, label)
    height = difficulty.height(rng, size)
    velocity = _heading(rng.uniform(0, 2 * np.pi)) * difficulty.pixels_a_frame(rng, size)
    centres = _reflected(_straight(rng.uniform(0, size, 2), velocity), height / 2, size)
    frames = _one_glyph(rng, glyph, centres, np.full(FRAMES, height), size, difficulty)
    return Scene(frames, draw.room_sound(rng, SECONDS), {"digit": label, "handwriting": number})


def render_direction(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Move any digit one of 8 ways, from anywhere, around the edges.

    On the torus every place is as likely in every frame of every direction.
    """
    digit = int(rng.integers(10))
    glyph, number = writing.pick(rng, digit)
    height, speed = difficulty.height(rng, size), difficulty.pixels_a_frame(rng, size)
    start = rng.uniform(0, size, 2)
    centres = _straight(start, _heading(label * np.pi / 4) * speed)
    frames = _one_glyph(rng, glyph, centres, np.full(FRAMES, height), size, difficulty)
    attributes: Attributes = {"digit": digit, "handwriting": number, "speed": round(speed, 4)}
    return Scene(frames, draw.room_sound(rng, SECONDS), attributes)


def render_order(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Show a warm glyph that swells and a cool one that slides; the label says which is first.

    The frames are made before the label is looked at and only put in order by it. The ground
    goes once around in each part, so that parts join without a jump in either order; parts are
    multiples of 3 frames, so that sampling every third one sees the same frames too.
    """
    digits = rng.integers(10, size=2)
    glyphs = [writing.pick(rng, int(digit)) for digit in digits]
    lengths = _part_lengths(rng)
    tile = draw.texture(rng, size, difficulty.contrast)
    anchor = rng.uniform(0, size, 2)
    parts = []
    for kind, length in zip(("", "swell", "", "slide", ""), lengths, strict=True):
        part = draw.drifting(tile, anchor + _loop(rng, length, size))
        if kind:
            glyph = glyphs[EVENTS.index(kind)][0]
            part = _with_event(rng, part, kind, glyph, difficulty.height(rng, size))
        parts.append(draw.through_sensor(part, rng, difficulty.noise))
    if label == 1:
        parts[1], parts[3] = parts[3], parts[1]
    attributes: Attributes = {
        "swell_digit": int(digits[0]),
        "swell_handwriting": glyphs[0][1],
        "slide_digit": int(digits[1]),
        "slide_handwriting": glyphs[1][1],
    }
    return Scene(np.concatenate(parts), draw.room_sound(rng, SECONDS), attributes)


def render_unlabelled(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Move any digit in one of several ways; its sound tells digit, height, speed and turns."""
    digit, motion = int(rng.integers(10)), MOTIONS[rng.integers(len(MOTIONS))]
    glyph, number = writing.pick(rng, digit)
    height = difficulty.height(rng, size)
    centres, heights = _motion(rng, motion, height, size, difficulty)
    frames = _one_glyph(rng, glyph, centres, heights, size, difficulty)
    audio = _telling_sound(rng, digit, centres, heights, size)
    return Scene(frames, audio, {"digit": digit, "handwriting": number, "motion": motion})


def _one_glyph(
    rng: Rng, glyph: Floats, centres: Path, heights: Path, size: int, difficulty: Difficulty
) -> Frames:
    """Draw a glyph on a ground that drifts its own way, seen through a noisy sensor."""
    drift = _heading(rng.uniform(0, 2 * np.pi)) * rng.uniform(0.05, 0.4) * size / REFERENCE_SIZE
    tile = draw.texture(rng, size, difficulty.contrast)
    ground = draw.drifting(tile, _straight(rng.uniform(0, size, 2), drift))
    cover = draw.glyph_cover(glyph, centres, heights, size)
    painted = draw.painted(ground, cover, draw.bright_colour(rng))
    return draw.through_sensor(painted, rng, difficulty.noise)


def _heading(angle: float) -> npt.NDArray[np.float64]:
    """Give the unit step (y, x) of an angle; 0 is right, a quarter turn is down."""
    return np.array([np.sin(angle), np.cos(angle)])


def _straight(start: npt.NDArray[np.float64], velocity: npt.NDArray[np.float64]) -> Path:
    return start + np.arange(FRAMES)[:, None] * velocity


def _reflected(path: Path, margin: float, size: int) -> Path:
    """Fold a path back at the edges, a margin inside."""
    room = size - 2 * margin
    return margin + room - np.abs((path - margin) % (2 * room) - room)


def _part_lengths(rng: Rng) -> tuple[int, int, int, int, int]:
    """Choose frames for gap, event, gap, event, gap: events of 15, gaps of at least 3."""
    first, second = np.sort(rng.choice(np.arange(1, 6), 2, replace=False)) * 3
    gaps = FRAMES - 30
    return int(first), 15, int(second - first), 15, int(gaps - second)


def _loop(rng: Rng, length: int, size: int) -> Path:
    """Go once around a circle that begins and ends at the same place."""
    turn = np.arange(length) * (2 * np.pi / length) * rng.choice([-1, 1])
    start = rng.uniform(0, 2 * np.pi)
    radius = 0.03 * size
    around = np.stack([np.sin(turn + start), np.cos(turn + start)], axis=1)
    moved: Path = radius * (around - around[0])
    return moved


def _with_event(rng: Rng, ground: Floats, kind: str, glyph: Floats, height: float) -> Floats:
    length, size = ground.shape[1:3]
    rise = np.sin((np.arange(length) + 0.5) * np.pi / length)
    centres = np.tile(rng.uniform(0, size, 2), (length, 1))
    heights = np.full(length, height)
    colour = np.array([rng.uniform(225, 255), rng.uniform(120, 180), rng.uniform(20, 70)])
    if kind == "swell":
        heights = height * (0.25 + 0.95 * rise)
    else:
        away = rng.choice([-1, 1]) * np.linspace(-0.35, 0.35, length) * size
        centres[:, 1] += away
        colour = colour[::-1]
    cover = draw.glyph_cover(glyph, centres, heights, size)
    shown = np.minimum(1, 1.5 * rise).astype(np.float32)[:, None, None]
    return draw.painted(ground, cover * shown, colour)


def _motion(
    rng: Rng, motion: str, height: float, size: int, difficulty: Difficulty
) -> tuple[Path, Path]:
    speed = difficulty.pixels_a_frame(rng, size) * rng.choice([0.6, 1.0, 1.6])
    start, heights = rng.uniform(0, size, 2), np.full(FRAMES, height)
    if motion == "drift":
        legs = np.repeat(rng.uniform(0, 2 * np.pi, 3), FRAMES // 3)
        steps = np.stack([np.sin(legs), np.cos(legs)], axis=1) * speed
        return start + np.cumsum(steps, axis=0), heights
    if motion == "bounce":
        return _falling(rng, start, speed, height, size), heights
    if motion == "orbit":
        turn = (
            rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * np.arange(FRAMES) * speed * 6 / size
        )
        radius = np.linspace(*((0.1, 0.35) if rng.integers(2) else (0.35, 0.1)), FRAMES) * size
        return start + radius[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1), heights
    beat = np.sin(rng.uniform(0, 2 * np.pi) + np.arange(FRAMES) * speed * 10 / size)
    velocity = _heading(rng.uniform(0, 2 * np.pi)) * speed * 0.3
    return _straight(start, velocity), heights * (1 + 0.35 * beat)


def _falling(
    rng: Rng, start: npt.NDArray[np.float64], speed: float, height: float, size: int
) -> Path:
    """Fall and bounce ever lower: the one motion that tells which way time runs."""
    floor, pull = size - height / 2, 0.006 * size
    y, rising = floor - rng.uniform(0.35, 0.6) * size, 0.0
    places = []
    for step in range(FRAMES):
        rising += pull
        y += rising
        if y > floor:
            y, rising = 2 * floor - y, -0.75 * rising
        places.append((y, start[1] + step * 0.5 * speed))
    return np.array(places)


def _telling_sound(rng: Rng, digit: int, centres: Path, heights: Path, size: int) -> Floats:
    """Sound what is seen: the digit by pitch, height by glide, speed by loudness, turns by knocks."""
    samples = np.arange(round(SECONDS * AUDIO_RATE)) / AUDIO_RATE
    frame_seconds = np.arange(FRAMES) / FPS

    def at_samples(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.interp(samples, frame_seconds, values)

    velocity = np.gradient(centres, axis=0)
    moving = np.hypot(*velocity.T) + np.abs(np.gradient(heights))
    octaves = digit / 5 + 0.5 * np.cos(2 * np.pi * centres[:, 0] / size)
    loudness = 0.04 + 0.2 * np.minimum(1, moving * REFERENCE_SIZE / size / 2.5)
    sound = draw.tone(220 * 2 ** at_samples(octaves), at_samples(loudness))
    jolt = np.hypot(*np.gradient(velocity, axis=0).T) * REFERENCE_SIZE / size
    knocks = np.where(jolt >= 0.5, np.minimum(jolt, 2), 0)
    struck = at_samples(knocks).astype(np.float32) * draw.hiss(rng, len(samples), 0.2)
    return np.clip(sound + struck + draw.hiss(rng, len(samples), 0.01), -1, 1)


WORLDS: Mapping[str, World] = MappingProxyType(
    {
        world.name: world
        for world in (
            World(
                "appearance",
                "which digit is shown: one frame is enough",
                tuple(str(digit) for digit in range(10)),
                ("digit", "handwriting"),
                render_appearance,
            ),
            World(
                "direction",
                "which of 8 ways a glyph moves: no single frame tells",
                DIRECTIONS,
                ("digit", "handwriting", "speed"),
                render_direction,
            ),
            World(
                "order",
                "which of two events came first: the same frames, in another order",
                ("swell-first", "slide-first"),
                ("swell_digit", "swell_handwriting", "slide_digit", "slide_handwriting"),
                render_order,
            ),
            World(
                "unlabelled",
                "mixed motion with sound tied to it: nothing to tell, much to learn",
                (),
                ("digit", "handwriting", "motion"),
                render_unlabelled,
            ),
        )
    }
)
