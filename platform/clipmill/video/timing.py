"""When each frame is on screen: mends time stamps and lays frames on a grid of constant rate.

Pure arithmetic on numbers; knows no file and no pixels. All times are seconds since the first
frame shown.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Picture = TypeVar("Picture")
Stamp = tuple[int | None, int | None]  # pts and duration, in ticks of the stream

# Matroska and others round both a frame's time and the first frame's to a millisecond: without
# this slack a 30 fps file would show one frame twice and leave out the next.
ROUNDING_SECONDS = 0.001
STEADY_SHARE = 0.05  # gaps that differ by less are of one rate
RARE_SHARE = 0.005  # odd gaps that are rarer, and shorter together, do not matter
CLOCK_JUMP_SECONDS = 600.0  # a longer gap is a broken clock, not a long look
CLOCK_RESET_SECONDS = 1.0  # a step back of more than this is a new clock


class Clock:
    """Turns the stamps of frames, in the order shown, into rising seconds."""

    def __init__(self, time_base: Fraction, usual_gap_seconds: float) -> None:
        self._tick = float(time_base)
        self._up, self._down = time_base.numerator, time_base.denominator
        self._usual = usual_gap_seconds / self._tick
        self._first: float | None = None
        self._last = 0.0
        self._gaps = 0.0
        self._longest = 0.0
        self._frames = 0
        self._last_duration = 0.0

    def seconds(self, pts: int | None, duration: int | None) -> float:
        """Take the next frame's stamp and give its time."""
        if self._first is None:
            self._first = float(pts or 0)
        else:
            ticks = self._mended(pts)
            self._longest = max(self._longest, ticks - self._last)
            self._last = ticks
        self._frames += 1
        self._last_duration = float(duration or 0)
        return self._in_seconds(self._last)

    def all_seconds(self, stamps: Sequence[Stamp]) -> npt.NDArray[np.float64]:
        """Take the stamps of all frames at once, and give their times."""
        if self._first is None and stamps and all(pts is not None for pts, _ in stamps):
            pts = np.array([pts for pts, _ in stamps], np.float64)
            steps = np.diff(pts)
            if np.all((steps > 0) & (steps * self._tick <= CLOCK_JUMP_SECONDS)):
                ticks = pts - pts[0]
                self._first, self._last, self._frames = pts[0], float(ticks[-1]), len(stamps)
                self._longest = float(steps.max(initial=0.0))
                self._last_duration = float(stamps[-1][1] or 0)
                seconds: npt.NDArray[np.float64] = ticks * self._up / self._down
                return seconds
        return np.array([self.seconds(pts, duration) for pts, duration in stamps])

    def end_seconds(self) -> float:
        """Give the time at which the last frame leaves the screen."""
        mean = self._last / (self._frames - 1) if self._frames > 1 else self._usual
        limit = max(self._longest, 1.0 / self._tick)  # durations of last frames may lie
        last = min(self._last_duration, limit) if self._last_duration > 0 else mean
        return self._in_seconds(self._last + last)

    def _mended(self, pts: int | None) -> float:
        assert self._first is not None
        expected = self._last + self._usual
        if pts is None:
            return expected
        ticks = pts - self._first
        step_seconds = (ticks - self._last) * self._tick
        if not -CLOCK_RESET_SECONDS <= step_seconds <= CLOCK_JUMP_SECONDS:
            self._first, ticks = pts - expected, expected
        return ticks if ticks > self._last else expected

    def _in_seconds(self, ticks: float) -> float:
        return ticks * self._up / self._down


def clock_for(time_base: Fraction | None, rate: Fraction | None) -> Clock:
    """Make the clock of a stream from what its header says."""
    usual = 1 / float(rate) if rate else 1 / 25
    return Clock(time_base or Fraction(1, 90_000), usual)


class Ending(Protocol):
    """What knows, once all frames were seen, when the last one leaves the screen."""

    def end_seconds(self) -> float:
        """Give that time."""


@dataclass(frozen=True)
class Stopped:
    """An ending that is known."""

    seconds: float

    def end_seconds(self) -> float:
        """Give it."""
        return self.seconds


@dataclass(frozen=True)
class Shifted:
    """An ending on a clock that starts later."""

    ending: Ending
    start_seconds: float

    def end_seconds(self) -> float:
        """Give it."""
        return self.ending.end_seconds() - self.start_seconds


def is_variable(seconds: npt.NDArray[np.float64], time_base: Fraction | None) -> bool:
    """Tell whether frames come at a variable rate, by gaps that no rounding of stamps explains.

    A hiccup in many frames, such as a recorder's first gap, makes no variable rate.
    """
    if len(seconds) < 3:
        return False
    gaps = np.diff(seconds)
    median = float(np.median(gaps))
    near = gaps[np.abs(gaps - median) <= 0.5 * median]
    usual = float(near.mean()) if len(near) else median
    # A rounded stamp errs by less than a tick, and where a tick is a frame, not at all. Stamps
    # may have been rounded to milliseconds in a container they were in before.
    rounding = min(max(float(time_base or 0), ROUNDING_SECONDS), 0.5 * usual)
    odd = gaps[np.abs(gaps - usual) > max(rounding, STEADY_SHARE * usual) * 1.01]
    return bool(len(odd) > RARE_SHARE * len(gaps) or odd.sum() > RARE_SHARE * gaps.sum())


def first_tick(seconds: float, rate: float) -> int:
    """Give the first tick of the grid at which a frame shown from `seconds` on is on screen."""
    return max(0, math.ceil((seconds - ROUNDING_SECONDS) * rate))


def tick_count(duration_seconds: float, rate: float) -> int:
    """Count the ticks of a grid that falls within a video; never less than one."""
    if not rate > 0:
        raise UsageError(f"rate={rate}", "frames a second above 0")
    return max(1, first_tick(duration_seconds, rate))


def frames_at_ticks(
    shown_seconds: npt.NDArray[np.float64], ticks: npt.NDArray[np.int64], rate: float
) -> npt.NDArray[np.int64]:
    """Give the number of the frame on screen at each tick."""
    firsts = np.maximum(0, np.ceil((shown_seconds - ROUNDING_SECONDS) * rate))
    return np.searchsorted(firsts, ticks, side="right").astype(np.int64) - 1


def on_grid(
    shown: Iterable[tuple[float, Picture]], clock: Ending, rate: float | None
) -> Iterator[tuple[int, int, float, Picture]]:
    """Give each frame with the ticks [first, end) at which it is on screen; rate None: one each."""
    held: tuple[int, float, Picture] | None = None
    for number, (seconds, picture) in enumerate(shown):
        tick = number if rate is None else first_tick(seconds, rate)
        if held is not None:
            yield held[0], tick, held[1], held[2]
        held = (tick, seconds, picture)
    if held is not None:
        end = held[0] + 1 if rate is None else tick_count(clock.end_seconds(), rate)
        yield held[0], end, held[1], held[2]
