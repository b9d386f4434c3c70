"""Worlds of one glyph: which it is, which way it goes, how its size changes.

What must not tell the label (place, colour, ground, noise, sound) is drawn without looking at it.
"""

import json

import numpy as np
import numpy.typing as npt

from clipmill.worlds import draw
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import Rng
from clipmill.worlds.scene import (
    FPS,
    FRAMES,
    REFERENCE_SIZE,
    Attributes,
    Difficulty,
    Path,
    Scene,
    heading,
    one_glyph,
    reflected,
    straight,
)

DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
CHANGES = ("grows", "shrinks", "stays")
STEPS = (1, -1, 0)  # of size, by change

SWITCH_FRAMES = 96
SPAN_FRAMES = (18, 33)  # of one change, from and below: at least 6 of 5 a second
SWELL_FRAMES = 24  # from the smallest to the largest
SIZES = (0.6, 1.4)  # shares of the glyph's height


def render_appearance(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Show the digit that is the label; it wanders anyhow, always whole."""
    glyph, number = writing.pick(rng, label)
    centres, heights = wandering(rng, size, difficulty)
    frames = one_glyph(rng, glyph, centres, heights, size, difficulty)
    audio = draw.room_sound(rng, FRAMES / FPS)
    return Scene(frames, audio, {"digit": label, "handwriting": number})


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
    centres = straight(start, heading(label * np.pi / 4) * speed, FRAMES)
    frames = one_glyph(rng, glyph, centres, np.full(FRAMES, height), size, difficulty)
    attributes: Attributes = {"digit": digit, "handwriting": number, "speed": round(speed, 4)}
    return Scene(frames, draw.room_sound(rng, FRAMES / FPS), attributes)


def render_switch(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Let a glyph grow, shrink or stay, and change its mind at any time; the label comes first.

    Sizes go around a ring, from the largest to the smallest at once and back, from anywhere on
    it: so every size is as likely in every frame of every change.
    """
    digit = int(rng.integers(10))
    glyph, number = writing.pick(rng, digit)
    changes = _changing(rng, label)
    around = (rng.uniform() + np.cumsum(np.array(STEPS)[changes]) / SWELL_FRAMES) % 1
    heights = difficulty.height(rng, size) * (SIZES[0] + np.ptp(SIZES) * around)
    velocity = heading(rng.uniform(0, 2 * np.pi)) * rng.uniform(0, 0.3) * size / REFERENCE_SIZE
    centres = straight(rng.uniform(0, size, 2), velocity, SWITCH_FRAMES)
    frames = one_glyph(rng, glyph, centres, heights, size, difficulty)
    audio = draw.room_sound(rng, SWITCH_FRAMES / FPS)
    return Scene(
        frames, audio, {"digit": digit, "handwriting": number, "spans": spans_of(changes, CHANGES)}
    )


def spans_of(labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> str:
    """Tell a label a frame as spans in seconds, as a table of videos has them.

    They meet midway between two frames, so that no rounding of times moves a frame.
    """
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    seconds = [round(max(0, edge - 0.5) / FPS, 6) for edge in edges]
    spans = [
        {"label": classes[int(labels[first])], "start_seconds": start, "end_seconds": end}
        for first, start, end in zip(edges, seconds, seconds[1:], strict=False)
    ]
    return json.dumps(spans)


def wandering(rng: Rng, size: int, difficulty: Difficulty) -> tuple[Path, Path]:
    """Wander anywhere, always whole: centres and heights."""
    height = difficulty.height(rng, size)
    velocity = heading(rng.uniform(0, 2 * np.pi)) * difficulty.pixels_a_frame(rng, size)
    path = straight(rng.uniform(0, size, 2), velocity, FRAMES)
    return reflected(path, height / 2, size), np.full(FRAMES, height)


def _changing(rng: Rng, first: int) -> npt.NDArray[np.int64]:
    """A change a frame: each lasts a while, then comes any other."""
    label, labels = first, list[int]()
    while len(labels) < SWITCH_FRAMES:
        labels += [label] * int(rng.integers(*SPAN_FRAMES))
        label = (label + int(rng.integers(1, len(CHANGES)))) % len(CHANGES)
    return np.array(labels[:SWITCH_FRAMES])
