"""What a world is, what it renders, and how hard to see it may be made.

Knows no world by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from clipmill.video import Masks
from clipmill.worlds import draw
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import Floats, Frames, Rng

FPS = 15
FRAMES = 48  # of most worlds' videos
REFERENCE_SIZE = 64  # speeds are in pixels a frame at this size and grow with the size

Attributes = dict[str, str | int | float]
Path = npt.NDArray[np.float64]  # [T, 2]: y, x; or [T]


@dataclass(frozen=True)
class Difficulty:
    """How hard a world is to see, whatever it asks."""

    noise: float  # grey levels, half the range
    contrast: float  # of the ground, in grey levels
    glyph: tuple[float, float]  # shares of the frame's height
    speed: tuple[float, float]  # pixels a frame in a frame of 64
    digits: int  # how many digits must be told apart where a tone may be another digit's
    crowd: tuple[int, int]  # how many glyphs there are where there are several, from and to
    camera: float  # pixels a frame in a frame of 64, where it may move

    def height(self, rng: Rng, size: int) -> float:
        """Choose a glyph's height in pixels."""
        return rng.uniform(*self.glyph) * size

    def pixels_a_frame(self, rng: Rng, size: int) -> float:
        """Choose a speed."""
        return rng.uniform(*self.speed) * size / REFERENCE_SIZE


DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType(
    {
        "easy": Difficulty(
            noise=4, contrast=20, glyph=(0.44, 0.54), speed=(0.9, 1.1), digits=2,
            crowd=(2, 2), camera=0.0,
        ),
        "default": Difficulty(
            noise=8, contrast=40, glyph=(0.38, 0.52), speed=(0.75, 1.25), digits=2,
            crowd=(2, 4), camera=0.5,
        ),
        "hard": Difficulty(
            noise=24, contrast=70, glyph=(0.30, 0.50), speed=(0.7, 1.3), digits=10,
            crowd=(3, 6), camera=1.0,
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """One rendered video."""

    frames: Frames  # [T, size, size, 3]
    audio: Floats
    attributes: Attributes
    masks: Masks | None = None


Render = Callable[[Rng, Handwriting, int, int, Difficulty], Scene]


@dataclass(frozen=True)
class World:
    """A controlled video set; `render` takes rng, handwriting, label, size and difficulty.

    Where every frame has its own label, that of the video is the one its first frame has, and
    the attribute `spans` tells all.
    """

    name: str
    about: str
    classes: tuple[str, ...]  # none where there is nothing to tell
    attributes: tuple[str, ...]
    render: Render
    frames: int = FRAMES
    a_label_a_frame: bool = False
    mask_classes: tuple[str, ...] = ()  # what 1, 2, ... are called, where frames have masks
    format: int = 1  # of the pictures: what changes them changes this
    identity_videos: int = 0  # of each handwriting sample, where a split shows some again and again

    @property
    def chance(self) -> float | None:
        """The share right of one who guesses."""
        return 1 / len(self.classes) if self.classes else None


def drifting_ground(rng: Rng, size: int, difficulty: Difficulty, frames: int) -> Floats:
    """A ground that drifts its own slow way: [3, T, size, size]."""
    drift = heading(rng.uniform(0, 2 * np.pi)) * rng.uniform(0.05, 0.4) * size / REFERENCE_SIZE
    tile = draw.texture(rng, size, difficulty.contrast)
    return draw.drifting(tile, straight(rng.uniform(0, size, 2), drift, frames))


def one_glyph(
    rng: Rng, glyph: Floats, centres: Path, heights: Path, size: int, difficulty: Difficulty
) -> Frames:
    """Draw a glyph on a drifting ground, seen through a noisy sensor."""
    ground = drifting_ground(rng, size, difficulty, len(centres))
    cover = draw.glyph_cover(glyph, centres, heights, size)
    painted = draw.painted(ground, cover, draw.bright_colour(rng))
    return draw.through_sensor(painted, rng, difficulty.noise)


def heading(angle: float) -> npt.NDArray[np.float64]:
    """Give the unit step (y, x) of an angle; 0 is right, a quarter turn is down."""
    return np.array([np.sin(angle), np.cos(angle)])


def straight(
    start: npt.NDArray[np.float64], velocity: npt.NDArray[np.float64], frames: int
) -> Path:
    """Go on and on at one velocity."""
    return start + np.arange(frames)[:, None] * velocity


def reflected(path: Path, margin: float, size: int) -> Path:
    """Fold a path back at the edges, a margin inside."""
    room = size - 2 * margin
    return margin + room - np.abs((path - margin) % (2 * room) - room)
