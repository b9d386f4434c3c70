"""A world of things that hide each other, with the mask of every frame: which digit, and which of them.

A pixel is of the nearest glyph that covers half of it or more. A thing keeps its number through the
video, however long it is hidden.
"""

import numpy as np

from clipmill.video import Masks
from clipmill.worlds import draw
from clipmill.worlds.crowd import Body, camera_way, covers_of, painted, panned_ground
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import Floats, Rng
from clipmill.worlds.scene import (
    FPS,
    FRAMES,
    REFERENCE_SIZE,
    Attributes,
    Difficulty,
    Path,
    Scene,
    heading,
    reflected,
    straight,
)

MASK_CLASSES = tuple(str(digit) for digit in range(10))  # class n of a mask is the digit n - 1
SMALLER = 0.7  # than a glyph that is alone
BREATH = 0.15  # share of its height that a glyph grows and shrinks by
OVER_EDGE = 0.3  # of its height: how near to an edge its centre comes
COVERED = 0.5  # of a pixel


def render_objects(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Move several digits past each other, in front of a ground that the camera may pan over."""
    speed = difficulty.camera * rng.uniform(0.5, 1.0) * size / REFERENCE_SIZE
    camera = camera_way(rng, FRAMES, speed)
    fewest, most = difficulty.crowd
    bodies = [
        _body(rng, writing, camera, size, difficulty)
        for _ in range(int(rng.integers(fewest, most + 1)))
    ]
    covers = covers_of(bodies, size, around=False)
    seen = painted(rng, panned_ground(rng, size, difficulty, camera), covers)
    frames = draw.through_sensor(seen, rng, difficulty.noise)
    attributes: Attributes = {
        "glyphs": len(bodies),
        "digits": " ".join(str(body.digit) for body in bodies),
        "camera": "moving" if speed else "still",
    }
    return Scene(frames, draw.room_sound(rng, FRAMES / FPS), attributes, _masks(bodies, covers))


def _body(rng: Rng, writing: Handwriting, camera: Path, size: int, difficulty: Difficulty) -> Body:
    """Any digit on its own way, which the camera's bends; it turns back at the edges."""
    digit = int(rng.integers(10))
    glyph, number = writing.pick(rng, digit)
    height = difficulty.height(rng, size) * SMALLER
    beat = np.sin(rng.uniform(0, 2 * np.pi) + np.arange(FRAMES) * rng.uniform(0.1, 0.3))
    velocity = heading(rng.uniform(0, 2 * np.pi)) * difficulty.pixels_a_frame(rng, size)
    way = straight(rng.uniform(0, size, 2), velocity, FRAMES) - camera
    centres = reflected(way, height * OVER_EDGE, size)
    return Body(digit, number, glyph, centres, height * (1 + BREATH * beat))


def _masks(bodies: list[Body], covers: list[Floats]) -> Masks:
    things = np.zeros(covers[0].shape, np.int16)
    for place in reversed(range(len(bodies))):  # the nearest comes last, over all others
        things[covers[place] >= COVERED] = place + 1
    classes = np.array([0, *(body.digit + 1 for body in bodies)], np.uint8)
    return Masks(classes[things], things)
