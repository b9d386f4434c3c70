"""Whether a claim holds, from the figures of trials: shown, refuted, or not run.

Means and spreads over seeds; numbers in, verdicts out. Knows neither models nor videos.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from clipmill.evidence.asked import Asked, Claim

Verdict = Literal["shown", "refuted", "not run"]
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Measured:
    """One figure of a model on a world, a value a seed."""

    values: tuple[float, ...]
    videos: int  # of the test
    chance: float | None = None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; 0 of a single one."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of a mean that may be a share, at one test's videos: more seeds bring no further ones."""
        return interval(self.mean, self.videos) if 0 <= self.mean <= 1 else None

    def __str__(self) -> str:
        spread = f" ± {self.spread:.1%}" if len(self.values) > 1 else ""
        return f"{self.mean:.1%}{spread}"


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict and the figures behind it."""

    claim: Claim
    verdict: Verdict
    figures: str
    seeds: int  # of the pair that has fewest
    is_whole: bool  # as many seeds as the file asks for


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % binomial interval of a share (Wilson, 1927)."""
    z, n = NORMAL_95, count
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def judged(claim: Claim, sides: Sequence[Measured | None], asked: Asked) -> Judged:
    """Judge a claim by what was measured of its model, and of the other where it names one."""
    seeds = min(len(side.values) if side else 0 for side in sides)
    first, *others = sides
    if first is None or None in others:
        return Judged(claim, "not run", "", 0, is_whole=False)
    if claim.kind == "at_chance":
        verdict, figures = _at_chance(first, asked.videos_for_chance)
    elif claim.kind in ("above", "below"):
        verdict, figures = _beside_level(claim, first)
    else:
        assert others[0] is not None
        verdict, figures = _compared(claim, first, others[0])
    return Judged(claim, verdict, figures, seeds, is_whole=seeds >= asked.seeds)


def _at_chance(measured: Measured, least_videos: int) -> tuple[Verdict, str]:
    chance = measured.chance
    if measured.interval is None:
        return "not run", f"{measured}; it is no share"
    low, high = measured.interval
    figures = f"{measured}, 95 % interval {low:.1%} to {high:.1%} at {measured.videos} videos"
    if chance is None:
        return "not run", f"{figures}; the chance level is not known"
    figures += f", chance {chance:.1%}"
    if measured.videos < least_videos:
        return "not run", f"{figures}; that takes {least_videos} test videos"
    return ("shown" if low <= chance <= high else "refuted"), figures


def _beside_level(claim: Claim, measured: Measured) -> tuple[Verdict, str]:
    level = claim.level or 0.0
    holds = measured.mean > level if claim.kind == "above" else measured.mean < level
    return ("shown" if holds else "refuted"), f"{measured}, asked {claim.kind} {level:.0%}"


def _compared(claim: Claim, ours: Measured, theirs: Measured) -> tuple[Verdict, str]:
    """Apart by more than both spreads together, or not."""
    margin = ours.spread + theirs.spread
    other = f"{claim.than}'s {claim.than_metric}" if claim.than_metric else claim.than
    figures = f"{claim.model} {ours}, {other} {theirs}"
    if claim.kind == "beats":
        return ("shown" if ours.mean - theirs.mean > margin else "refuted"), figures
    return ("shown" if ours.mean >= theirs.mean - margin else "refuted"), figures
