"""What a sweep tries: choices and ranges by dotted key, and the values of each trial.

Trial i is a pure function of space, seed and i. Knows neither recipes nor runs.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from clipmill.errors import RecipeError
from clipmill.takes import Draw

FORM = re.compile(r"(log|uniform|int)\(\s*([^,()\s]+)\s*,\s*([^,()\s]+)\s*\)")
EXPONENT = re.compile(r"[+-]?\d+[eE][+-]?\d+")
DIGITS = 4  # of a drawn number: a value that can be read, and typed again
MOST_COMBINATIONS = 100_000

Kind = Literal["log", "uniform", "int"]
Values = dict[str, Any]  # of one trial, by dotted key


@dataclass(frozen=True)
class Range:
    """Numbers between two ends: even in their logarithm, even, or whole with both ends."""

    kind: Kind
    low: float
    high: float

    def __post_init__(self) -> None:
        whole = self.low == int(self.low) and self.high == int(self.high)
        fits = self.low < self.high and (self.kind != "log" or self.low > 0)
        if not fits or (self.kind == "int" and not whole):
            wanted = {"log": "0 < low < high", "uniform": "low < high", "int": "whole low < high"}
            raise RecipeError(
                f"the range {self}", f"{self.kind}(low,high) with {wanted[self.kind]}"
            )

    def at(self, share: float) -> float | int:
        """The value at a share of the way from the low end."""
        if self.kind == "int":
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.kind == "log":
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return min(self.high, max(self.low, float(f"{value:.{DIGITS}g}")))

    def __str__(self) -> str:
        return f"{self.kind}({self.low:g},{self.high:g})"


Axis = Range | tuple[Any, ...]  # a range, or choices
Space = Mapping[str, Axis]


def axis_of(value: object) -> Axis | None:
    """Read `[a, b]`, `log(a,b)`, `uniform(a,b)` or `int(a,b)`; None is a plain value."""
    if isinstance(value, list | tuple):
        return tuple(map(_number, value)) or None
    found = FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        low, high = float(found[2]), float(found[3])
    except ValueError:
        raise RecipeError(f"the range {value}", f"two numbers, such as {found[1]}(1,10)") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RecipeError(f"the range {value}", "finite ends")
    return Range(cast(Kind, found[1]), low, high)


def _number(value: Any) -> Any:
    # YAML takes 1e-3 for a word, as it has no point.
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        return float(value)
    return value


def first_of(axis: Axis) -> Any:
    """A value that stands for all."""
    return axis.at(0.0) if isinstance(axis, Range) else axis[0]


def drawn(space: Space, trials: int | None, seed: int) -> list[Values]:
    """The values of all trials: every combination of choices, or so many of a larger space."""
    if any(isinstance(axis, Range) for axis in space.values()):
        if trials is None:
            raise RecipeError("a sweep over a range", "how many trials", "set sweep.trials=20")
        return [_trial(space, Draw(seed), place) for place in range(trials)]
    return _combinations(space, trials, seed)


def _combinations(space: Space, trials: int | None, seed: int) -> list[Values]:
    """Every combination in order, or some of them, none twice."""
    choices = [cast(tuple[Any, ...], axis) for axis in space.values()]
    count = math.prod(len(each) for each in choices)
    if count > MOST_COMBINATIONS:
        raise RecipeError(f"{count} combinations", f"at most {MOST_COMBINATIONS}", "choose fewer")
    every = [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
    if trials is None or trials >= count:
        return every
    order = np.argsort(Draw(seed).bits("combination", np.arange(count)), kind="stable")
    return [every[place] for place in order[:trials]]


def _trial(space: Space, draw: Draw, place: int) -> Values:
    """One trial of a space with ranges; its chance comes by name and place alone."""
    values: Values = {}
    for key, axis in space.items():
        share = float(draw.uniform(key, 1, place)[0])
        values[key] = axis.at(share) if isinstance(axis, Range) else axis[int(share * len(axis))]
    return values
