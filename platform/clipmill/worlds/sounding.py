"""Worlds whose sound says something about what is seen.

`unlabelled` sounds as it moves; `av-joint` asks whether the tone is that of the digit.
"""

import numpy as np
import numpy.typing as npt

from clipmill.worlds import draw
from clipmill.worlds.crowd import Body, camera_way, covers_of, painted, panned_ground
from clipmill.worlds.digits import Handwriting
from clipmill.worlds.draw import AUDIO_RATE, Floats, Rng
from clipmill.worlds.glyphs import wandering
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
    straight,
)

MOTIONS = ("drift", "bounce", "orbit", "pulse")
SAMPLES = round(FRAMES / FPS * AUDIO_RATE)
MATCHES = ("same", "different")

GLYPHS = (0.55, 0.25, 0.2)  # shares of the videos without labels that show one, two and three
FURTHER = 0.4  # how loud those behind the nearest are
MOVING_CAMERA = 0.4  # share of them
CAMERA_SPEED = (0.5, 1.0)  # of a glyph's


def render_unlabelled(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Move digits in several ways; the sound of each tells digit, height, speed and turns.

    Most often one alone; of several the nearest is the loudest, and is what the attributes tell
    of. In a share of the videos the camera moves, which is seen and heard as motion of all.
    """
    moves = bool(rng.uniform() < MOVING_CAMERA)
    speed = difficulty.pixels_a_frame(rng, size) * rng.uniform(*CAMERA_SPEED) * moves
    camera = camera_way(rng, FRAMES, speed)
    motions = rng.choice(MOTIONS, 1 + int(rng.choice(len(GLYPHS), p=GLYPHS))).tolist()
    bodies = [_body(rng, writing, motion, camera, size, difficulty) for motion in motions]
    ground = panned_ground(rng, size, difficulty, camera)
    seen = painted(rng, ground, covers_of(bodies, size, around=True))
    sound = draw.hiss(rng, SAMPLES, 0.01)
    for body in bodies:
        sound += _telling_sound(rng, body, size) * (1 if body is bodies[0] else FURTHER)
    attributes: Attributes = {
        "digit": bodies[0].digit,
        "handwriting": bodies[0].handwriting,
        "motion": motions[0],
        "glyphs": len(bodies),
        "camera": "moving" if moves else "still",
    }
    frames = draw.through_sensor(seen, rng, difficulty.noise)
    return Scene(frames, np.clip(sound, -1, 1), attributes)


def render_av_joint(
    rng: Rng, writing: Handwriting, label: int, size: int, difficulty: Difficulty
) -> Scene:
    """Show any digit and sound its own tone, or that of any other.

    Whatever the label, every digit is as likely to be seen, and every tone to be heard.
    """
    digit = int(rng.integers(difficulty.digits))
    other = (digit + int(rng.integers(1, difficulty.digits))) % difficulty.digits
    heard = (digit, other)[label]
    glyph, number = writing.pick(rng, digit)
    centres, heights = wandering(rng, size, difficulty)
    frames = one_glyph(rng, glyph, centres, heights, size, difficulty)
    audio = _tone_of(rng, heard)
    return Scene(frames, audio, {"digit": digit, "handwriting": number, "tone": heard})


def hertz_of(digit: int) -> float:
    """The tone of a digit: three to an octave."""
    return float(250 * 2 ** (digit / 3))


def _tone_of(rng: Rng, digit: int) -> Floats:
    """Sound a digit's tone, a little off and unsteady, in noise."""
    seconds = np.arange(SAMPLES) / AUDIO_RATE
    tremble = np.sin(rng.uniform(0, 2 * np.pi) + 2 * np.pi * rng.uniform(2, 6) * seconds)
    hertz = hertz_of(digit) * 2 ** (rng.uniform(-0.04, 0.04) + 0.02 * tremble)
    tone = draw.tone(hertz, rng.uniform(0.1, 0.3))
    return tone + draw.hiss(rng, SAMPLES, rng.uniform(0.005, 0.03))


def _body(
    rng: Rng, writing: Handwriting, motion: str, camera: Path, size: int, difficulty: Difficulty
) -> Body:
    """Any digit that moves in one way, below a camera that moves in its own."""
    digit = int(rng.integers(10))
    glyph, number = writing.pick(rng, digit)
    centres, heights = _motion(rng, motion, difficulty.height(rng, size), size, difficulty)
    return Body(digit, number, glyph, centres - camera, heights)


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
    velocity = heading(rng.uniform(0, 2 * np.pi)) * speed * 0.3
    return straight(start, velocity, FRAMES), heights * (1 + 0.35 * beat)


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


def _telling_sound(rng: Rng, body: Body, size: int) -> Floats:
    """Sound what is seen: height and digit by pitch, speed by loudness, turns by knocks.

    Height is the larger part of pitch: what is seen without knowing any digit tells most of it.
    """
    centres, heights = body.centres, body.heights
    samples = np.arange(SAMPLES) / AUDIO_RATE
    frame_seconds = np.arange(FRAMES) / FPS

    def at_samples(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.interp(samples, frame_seconds, values)

    velocity = np.gradient(centres, axis=0)
    moving = np.hypot(*velocity.T) + np.abs(np.gradient(heights))
    octaves = body.digit / 8 + 0.8 * np.cos(2 * np.pi * centres[:, 0] / size)
    loudness = 0.04 + 0.2 * np.minimum(1, moving * REFERENCE_SIZE / size / 2.5)
    sound = draw.tone(220 * 2 ** at_samples(octaves), at_samples(loudness))
    jolt = np.hypot(*np.gradient(velocity, axis=0).T) * REFERENCE_SIZE / size
    knocks = np.where(jolt >= 0.5, np.minimum(jolt, 2), 0)
    struck = at_samples(knocks).astype(np.float32) * draw.hiss(rng, len(samples), 0.2)
    return sound + struck
