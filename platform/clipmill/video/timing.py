"""When each frame is on screen: mends time stamps and lays frames on a grid of constant rate.

Pure arithmetic on numbers; knows no file and no pixels. All times are seconds since the first
frame shown.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Picture = TypeVar("Picture")

# Matroska and others round both a frame's time and the first frame's to a millisecond: without
# this slack a 30 fps file would show one frame twice and leave out the next.
ROUNDING_SECONDS = 0.001
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
    shown: Iterable[tuple[float, Picture]], clock: Clock, rate: float | None
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
