"""One measured figure, and the fair way to compare: variants in turns, round by round.

Knows nothing of what is measured.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Row:
    """A figure, what it is set against, what it must reach, and how others did."""

    name: str
    value: float
    unit: str
    against: str | None = None
    at_least: float | None = None
    rivals: Mapping[str, float] = field(default_factory=dict)


def cpu_seconds_in_turns(
    variants: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Time every variant once a round, after a round to warm up, in process CPU seconds.

    In turns, so that what else the machine does meets all of them alike; every second round
    runs backwards, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        order = list(variants) if turn % 2 else list(reversed(variants))
        for name in order:
            began = time.process_time()
            variants[name]()
            if turn > 0:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """Return the median of the rounds' own ratios: a slow round slows both its parts."""
    return median(a / b for a, b in zip(slower, faster, strict=True))
