"""Worlds of events that come and go: their order, and what an earlier one makes of a later one.

What must not tell the label (place, colour, ground, noise, sound) is drawn without looking at it.
"""

import numpy as np

from clipmill.worlds import draw
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import Floats, Rng
from clipmill.worlds.scene import (
    FPS,
    FRAMES,
    Attributes,
    Difficulty,
    Path,
    Scene,
    drifting_ground,
)

EVENTS = ("swell", "slide")
EVENT_FRAMES = 15

CUES = ("green", "violet")
LONG_FRAMES = 108
# From the cue's last frame to the event's first: more than a clip of 16 frames, 5 a second.
SHOWN_FRAMES = 18  # of cue and event: 3 frames even of 2.5 a second
CUE_BEGINS, EVENT_BEGINS = (0, 4), (72, 85)  # from and below


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
    return Scene(np.concatenate(parts), draw.room_sound(rng, FRAMES / FPS), attributes)


def render_long_gap(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """A green glyph announces a swell, a violet one a slide; the label says whether it comes.

    Each cue is followed by each event as often, so neither tells anything without the other.
    """
    cue = int(rng.integers(2))
    kinds = CUES[cue], EVENTS[cue ^ label]
    digits = rng.integers(10, size=2)
    begins = int(rng.integers(*CUE_BEGINS)), int(rng.integers(*EVENT_BEGINS))
    ground = drifting_ground(rng, size, difficulty, LONG_FRAMES)
    attributes: Attributes = {"cue": kinds[0], "event": kinds[1], "event_frame": begins[1]}
    named = ("cue", "event")
    for name, kind, digit, first in zip(named, kinds, digits.tolist(), begins, strict=True):
        glyph, number = writing.pick(rng, digit)
        part = ground[:, first : first + SHOWN_FRAMES]
        add = _with_cue if kind in CUES else _with_event
        add(rng, part, kind, glyph, difficulty.height(rng, size))
        attributes |= {f"{name}_digit": digit, f"{name}_handwriting": number}
    frames = draw.through_sensor(ground, rng, difficulty.noise)
    return Scene(frames, draw.room_sound(rng, LONG_FRAMES / FPS), attributes)


def _part_lengths(rng: Rng) -> tuple[int, int, int, int, int]:
    """Choose frames for gap, event, gap, event, gap: events of 15, gaps of at least 3."""
    first, second = np.sort(rng.choice(np.arange(1, 6), 2, replace=False)) * 3
    gaps = FRAMES - 2 * EVENT_FRAMES
    return int(first), EVENT_FRAMES, int(second - first), EVENT_FRAMES, int(gaps - second)


def _loop(rng: Rng, length: int, size: int) -> Path:
    """Go once around a circle that begins and ends at the same place."""
    turn = np.arange(length) * (2 * np.pi / length) * rng.choice([-1, 1])
    start = rng.uniform(0, 2 * np.pi)
    radius = 0.03 * size
    around = np.stack([np.sin(turn + start), np.cos(turn + start)], axis=1)
    moved: Path = radius * (around - around[0])
    return moved


def _with_event(rng: Rng, ground: Floats, kind: str, glyph: Floats, height: float) -> Floats:
    """Let a warm glyph swell or a cool one slide; changes the ground."""
    length, size = ground.shape[1:3]
    centres = np.tile(rng.uniform(0, size, 2), (length, 1))
    heights = np.full(length, height)
    colour = np.array([rng.uniform(225, 255), rng.uniform(120, 180), rng.uniform(20, 70)])
    if kind == "swell":
        heights = height * (0.25 + 0.95 * _rise(length))
    else:
        away = rng.choice([-1, 1]) * np.linspace(-0.35, 0.35, length) * size
        centres[:, 1] += away
        colour = colour[::-1]
    cover = draw.glyph_cover(glyph, centres, heights, size)
    return draw.painted(ground, cover * _shown(length), colour)


def _with_cue(rng: Rng, ground: Floats, kind: str, glyph: Floats, height: float) -> Floats:
    """Let a glyph stand for a while, green or violet; changes the ground."""
    length, size = ground.shape[1:3]
    low, high, lower = rng.uniform(40, 90), rng.uniform(225, 255), rng.uniform(40, 110)
    colour = np.array([low, high, lower] if kind == "green" else [high - 40, lower, high])
    centres = np.tile(rng.uniform(0, size, 2), (length, 1))
    cover = draw.glyph_cover(glyph, centres, np.full(length, height), size)
    return draw.painted(ground, cover * _shown(length), colour)


def _rise(length: int) -> Path:
    """From nothing to all and back."""
    rise: Path = np.sin((np.arange(length) + 0.5) * np.pi / length)
    return rise


def _shown(length: int) -> Floats:
    """How much is seen of what comes and goes: [T, 1, 1]."""
    return np.minimum(1, 1.5 * _rise(length)).astype(np.float32)[:, None, None]
