"""Draws and sounds what worlds are made of: textures, glyphs, sensor noise, tones.

Whole videos at a time, as arrays with the three colour planes first (numpy is several times
faster on them than on pixels). Everything wraps around the edges. Knows no labels.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]
Rng = np.random.Generator

GLYPH_CELLS = 8  # handwriting comes as 8 x 8 cells
AUDIO_RATE = 8_000  # enough for the tones; half the work of 16 000


def texture(rng: Rng, size: int, contrast: float) -> Floats:
    """Make a soft, dark, coloured texture [3, size, size] that tiles."""
    base = rng.uniform(50, 90, 3).astype(np.float32)
    made = np.broadcast_to(base[:, None, None], (3, size, size)).copy()
    for cells, share in ((6, 0.7), (16, 0.3)):
        grid = rng.uniform(-1, 1, (3, cells, cells)).astype(np.float32)
        spread = _spread(size, cells)
        made += contrast * share * (spread @ grid @ spread.T)
    return made


def drifting(tile: Floats, offsets: npt.NDArray[np.float64]) -> Floats:
    """Look at a tile through a window at each of the offsets [T, 2]: [3, T, size, size]."""
    size = tile.shape[1]
    doubled = np.tile(tile, (1, 2, 2))
    corners = np.rint(offsets).astype(np.int64) % size  # whole pixels keep the texture sharp
    return np.stack([doubled[:, y : y + size, x : x + size] for y, x in corners.tolist()], axis=1)


def glyph_cover(
    glyph: Floats,
    centres: npt.NDArray[np.float64],
    heights: npt.NDArray[np.float64],
    size: int,
    *,
    around: bool = True,
) -> Floats:
    """Say how much of each pixel a glyph covers: [T, size, size] for centres [T, 2] (y, x).

    What leaves at an edge comes back at the other one, or is cut where it may not go around.
    """
    rows = _weights(centres[:, 0], heights, size, around)
    columns = _weights(centres[:, 1], heights, size, around)
    cover = rows @ glyph @ columns.transpose(0, 2, 1)
    return np.clip(cover * 1.8 - 0.25, 0, 1)


def painted(ground: Floats, cover: Floats, colour: npt.NDArray[np.float64]) -> Floats:
    """Paint a colour over the ground where the glyph covers it; changes the ground."""
    for plane, level in zip(ground, colour.tolist(), strict=True):
        plane += cover * (np.float32(level) - plane)
    return ground


def through_sensor(planes: Floats, rng: Rng, amplitude: float) -> Frames:
    """Add brightness noise and round to bytes: [T, size, size, 3]; changes the planes."""
    shape = planes.shape[1:]
    raw = np.frombuffer(rng.bytes(int(np.prod(shape))), np.int8).reshape(shape)
    planes += raw.astype(np.float32) * np.float32(amplitude / 128)
    np.clip(planes, 0, 255, out=planes)
    frames = np.empty((*shape, 3), np.uint8)
    for channel, plane in enumerate(planes):
        frames[..., channel] = plane
    return frames


def bright_colour(rng: Rng) -> npt.NDArray[np.float64]:
    """Choose a colour that stands out from every ground."""
    colour = rng.uniform(120, 255, 3)
    colour[rng.integers(3)] = 245
    return colour


def room_sound(rng: Rng, seconds: float) -> Floats:
    """Make a hum in noise that tells nothing."""
    count = round(seconds * AUDIO_RATE)
    hum = tone(np.full(count, rng.uniform(80, 900)), rng.uniform(0.02, 0.1))
    return hum + hiss(rng, count, rng.uniform(0.005, 0.03))


def hiss(rng: Rng, count: int, amplitude: float) -> Floats:
    """Make white noise."""
    raw = np.frombuffer(rng.bytes(count), np.int8)
    return raw.astype(np.float32) * np.float32(amplitude / 128)


def tone(hertz: npt.NDArray[np.float64], amplitude: float | npt.NDArray[np.float64]) -> Floats:
    """Make a tone with one overtone from its frequency at each sample."""
    phase = np.cumsum(hertz * (2 * np.pi / AUDIO_RATE)).astype(np.float32)
    wave = np.sin(phase) + 0.3 * np.sin(2 * phase)
    return (wave * amplitude).astype(np.float32)


def _weights(
    centres: npt.NDArray[np.float64], heights: npt.NDArray[np.float64], size: int, around: bool
) -> Floats:
    """Spread glyph cells over pixels along one axis: [T, size, cells]."""
    away = np.arange(size) - centres[:, None]
    if around:  # the short way
        away = (away + size / 2) % size - size / 2
    cell = away / (heights[:, None] / GLYPH_CELLS) + (GLYPH_CELLS - 1) / 2
    near: Floats = (1 - np.abs(cell[..., None] - np.arange(GLYPH_CELLS))).astype(np.float32)
    return np.maximum(near, 0)


@lru_cache(maxsize=16)
def _spread(size: int, cells: int) -> Floats:
    """Interpolate a ring of cells over pixels: [size, cells]."""
    away = np.abs(np.arange(size)[:, None] * cells / size - np.arange(cells))
    near: Floats = (1 - np.minimum(away, cells - away)).astype(np.float32)
    return np.maximum(near, 0)
