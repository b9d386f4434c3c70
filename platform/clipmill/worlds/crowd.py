"""Several glyphs on one ground under one camera: the nearer hides what is behind it.

Knows neither how glyphs move nor what they are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipmill.worlds import draw
from clipmill.worlds.draw import Floats, Rng
from clipmill.worlds.scene import REFERENCE_SIZE, Difficulty, Path, heading

SWAY = 1.2  # radians that a camera's heading turns by, either way
TURNS = (0.5, 1.5)  # times that it does so in a video


@dataclass(frozen=True, eq=False)
class Body:
    """One glyph on its way through what the camera sees."""

    digit: int
    handwriting: int
    glyph: Floats
    centres: Path  # [T, 2], in the picture
    heights: Path  # [T], pixels


def camera_way(rng: Rng, frames: int, speed: float) -> Path:
    """Pan at one speed, pixels a frame, along a bending way: [T, 2], from nowhere."""
    swing = np.sin(
        rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi * rng.uniform(*TURNS), frames)
    )
    headings = rng.uniform(0, 2 * np.pi) + SWAY * swing
    steps = np.stack([np.sin(headings), np.cos(headings)], axis=1) * speed
    way: Path = np.cumsum(steps, axis=0) - steps[0]
    return way


def panned_ground(rng: Rng, size: int, difficulty: Difficulty, camera: Path) -> Floats:
    """A ground that drifts its own slow way below a camera: [3, T, size, size]."""
    drift = heading(rng.uniform(0, 2 * np.pi)) * rng.uniform(0.05, 0.4) * size / REFERENCE_SIZE
    tile = draw.texture(rng, size, difficulty.contrast)
    steps = np.arange(len(camera))[:, None]
    return draw.drifting(tile, rng.uniform(0, size, 2) + steps * drift + camera)


def covers_of(bodies: Sequence[Body], size: int, *, around: bool) -> list[Floats]:
    """How much of each pixel each of them would cover alone, around the edges or cut by them."""
    return [
        draw.glyph_cover(body.glyph, body.centres, body.heights, size, around=around)
        for body in bodies
    ]


def painted(rng: Rng, ground: Floats, covers: Sequence[Floats]) -> Floats:
    """Paint glyphs, the first one nearest, each in a colour of its own; changes the ground."""
    for cover in reversed(covers):
        draw.painted(ground, cover, draw.bright_colour(rng))
    return ground
