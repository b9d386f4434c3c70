"""A world of single handwriting samples, each seen again and again and never twice alike.

Who it is does not depend on how it is seen: place, size, turn, colour, ground, light and noise are
drawn without looking at the glyph.
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
    heading,
    reflected,
    straight,
)

IDENTITY_VIDEOS = 4  # of each
LEAN = 0.35  # radians that a glyph stands askew by at most, either way
TURN = 0.15  # and sways by
BREATH = 0.15  # share of its height that it grows and shrinks by
MARGIN = 0.65  # of its height: whole however it is turned
GAIN = (0.6, 1.1)  # of the light
FLICKER = 0.12  # share of the light that comes and goes
SHADE = 0.25  # share of it that one side has more of than the middle


def render_identities(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Show a handwriting sample on its way, turned, breathing, in changing light."""
    glyph, number = writing.pick(rng, label)
    height = difficulty.height(rng, size)
    velocity = heading(rng.uniform(0, 2 * np.pi)) * difficulty.pixels_a_frame(rng, size)
    centres = reflected(straight(rng.uniform(0, size, 2), velocity, FRAMES), height * MARGIN, size)
    heights = height * (1 + BREATH * _sway(rng))
    angles = rng.uniform(-LEAN, LEAN) + TURN * _sway(rng)
    cover = turned_cover(glyph, centres, heights, angles, size)
    ground = drifting_ground(rng, size, difficulty, FRAMES)
    seen = draw.painted(ground, cover, draw.bright_colour(rng))
    seen *= _light(rng, size)
    frames = draw.through_sensor(seen, rng, difficulty.noise)
    attributes: Attributes = {"identity": f"{number:04d}", "digit": label}
    return Scene(frames, draw.room_sound(rng, FRAMES / FPS), attributes)


def turned_cover(glyph: Floats, centres: Path, heights: Path, angles: Path, size: int) -> Floats:
    """Say how much of each pixel a turned glyph covers: [T, size, size]; edges cut it."""
    pixels = np.arange(size)
    y = pixels[None, :, None] - centres[:, 0, None, None]
    x = pixels[None, None, :] - centres[:, 1, None, None]
    sin, cos = (way(angles)[:, None, None] for way in (np.sin, np.cos))
    cells = draw.GLYPH_CELLS / heights[:, None, None]
    row = (cos * y - sin * x) * cells + (draw.GLYPH_CELLS - 1) / 2
    column = (sin * y + cos * x) * cells + (draw.GLYPH_CELLS - 1) / 2
    return np.clip(_between(glyph, row, column) * 1.8 - 0.25, 0, 1).astype(np.float32)


def _between(glyph: Floats, row: Path, column: Path) -> Path:
    """The ink at places between cells, linearly; none outside."""
    ink = np.pad(glyph, 1).astype(np.float64)
    row, column = (np.clip(at + 1, 0, draw.GLYPH_CELLS + 0.999) for at in (row, column))
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    down, right = row - top, column - left
    at, wide, cells = top * ink.shape[1] + left, ink.shape[1], ink.ravel()  # quicker than by pairs
    upper = cells[at] * (1 - right) + cells[at + 1] * right
    lower = cells[at + wide] * (1 - right) + cells[at + wide + 1] * right
    mixed: Path = upper * (1 - down) + lower * down
    return mixed


def _sway(rng: Rng) -> Path:
    """Go to and fro between -1 and 1, at any beat and from anywhere: [T]."""
    swayed: Path = np.sin(rng.uniform(0, 2 * np.pi) + np.arange(FRAMES) * rng.uniform(0.05, 0.3))
    return swayed


def _light(rng: Rng, size: int) -> Floats:
    """How bright each place is at each time: [T, size, size]."""
    across = np.linspace(-1, 1, size)
    side = heading(rng.uniform(0, 2 * np.pi)) * rng.uniform(0, SHADE)
    shade = 1 + side[0] * across[:, None] + side[1] * across[None, :]
    gain = rng.uniform(*GAIN) * (1 + FLICKER * _sway(rng))
    made: Floats = (gain[:, None, None] * shade).astype(np.float32)
    return made
