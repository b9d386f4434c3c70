"""The meter of all pretexts: means over videos of numbers that their answers hold.

Merging is exact, whatever the order and the cut of the videos. Free of torch; knows no labels.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from clipmill.errors import DataError, PluginError
from clipmill_pretext.health import Health

VECTORS = ("embedding", "projection", "sound")  # kinds that answers may hold


class OwnTask:
    """Means over videos, by the figure's name: `OwnTask(own_accuracy="right")`.

    A figure is the mean of what the answers hold under its number's name; of an array, such as
    one number a clip, a video counts with the mean. The first figure is the metric.
    """

    def __init__(self, **figures: str) -> None:
        self.figures = figures
        self.told: dict[str, list[float]] = {name: [] for name in figures}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: its answer and its catalog row."""
        for name, number in self.figures.items():
            self.told[name].append(_number(answer, number, target))

    def score(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> float:
        """What one video adds to the metric, which is the mean of it."""
        return _number(answer, next(iter(self.figures.values())), target)

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        for name, told in other.told.items():
            self.told[name] += told

    def compute(self) -> dict[str, float]:
        """The mean of each figure over all videos."""
        if not all(self.told.values()):
            raise DataError("no video was measured", "at least one")
        # The exact sum, rounded once: the same in any order.
        return {name: math.fsum(told) / len(told) for name, told in self.told.items()}


class HealthTask(OwnTask):
    """The same beside the chance of the first figure, and with the spread of the embeddings."""

    def __init__(self, chance: float | None = None, **figures: str) -> None:
        super().__init__(**figures)
        self.chance, self.health = chance, Health(VECTORS)

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video."""
        super().update(answer, target)
        self.health.update(answer, target)

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        super().merge(other)
        self.health.merge(other.health)

    def compute(self) -> dict[str, float]:
        """The figures, the first one's chance, over how many videos, and the health."""
        own = super().compute()
        chance = {} if self.chance is None else {"own_chance": self.chance}
        videos = {"own_videos": float(len(next(iter(self.told.values()))))}
        return {**own, **chance, **videos, **self.health.compute()}


def _number(answer: Mapping[str, Any], name: str, target: Mapping[str, Any]) -> float:
    if name not in answer:
        raise PluginError(f"an answer of {', '.join(answer) or 'nothing'}", f"{name!r} among them")
    value = float(np.mean(np.asarray(answer[name], np.float64)))
    if not math.isfinite(value):
        raise DataError(
            f"the {name} of video {target.get('key')} is {value}",
            "a finite number",
            "the network's weights are damaged, or its training went wrong",
        )
    return value
