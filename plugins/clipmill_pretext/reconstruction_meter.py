"""How well hidden tubelets are told, beside answers that need no network.

Errors are means over videos; their ratios are of those means, as a video without any detail has
no error to divide by. Merging is exact. Knows numbers by name, and neither videos nor networks.
"""

from collections.abc import Mapping
from typing import Any, Self

from clipmill_pretext.meters import HealthTask

METRIC = "error_ratio"
SIMPLE = ("copy", "mean", "flat")  # need no network: the nearest shown, the mean of all, no detail
LEAST_ERROR = 1e-9  # of an answer that needs no network, where videos are empty


class ReconstructionMeter:
    """The error of hidden tubelets as a share of that of copying the nearest that is shown."""

    def __init__(self) -> None:
        self.errors = HealthTask(
            error="error", copy_error="copy_error", mean_error="mean_error", flat_error="flat_error"
        )

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video."""
        self.errors.update(answer, target)

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        self.errors.merge(other.errors)

    def compute(self) -> dict[str, float]:
        """The error over that of copying, and over those of a mean and of no detail at all."""
        told = self.errors.compute()
        copy, mean, flat = (
            told["error"] / max(told[f"{answer}_error"], LEAST_ERROR) for answer in SIMPLE
        )
        return {METRIC: copy, "mean_ratio": mean, "flat_ratio": flat, **told}


def hardest(metrics: Mapping[str, float]) -> str:
    """The ratio to the best of the answers that need no network."""
    return max((METRIC, "mean_ratio", "flat_ratio"), key=lambda name: metrics[name])
