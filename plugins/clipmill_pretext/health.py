"""Health of what a pretext learnt: how far embeddings spread, and one line about them.

Sums are kept as whole numbers, so that merging parts gives exactly the whole. Knows vectors and
figures by name, and neither videos nor networks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError, PluginError

GRID = 2.0**18  # steps to 1: what is summed are whole numbers, and sums of 2^27 videos still fit
BLOCK = 256  # vectors that are multiplied at once: their sums are whole in float64, too
COLLAPSED = 0.03  # of the spread: a mean cosine of 0.999 between any two videos
NO_VARIANCE = 1e-9
ABOVE_CHANCE = 0.05  # of the way from chance to perfect, which is the least to be called learnt
DEVIATIONS = 2.0  # of a coin's, by which a share of videos must be above chance

Floats = NDArray[np.float64]


class Spread:
    """How unit vectors of videos spread: about their mean, and over how many directions."""

    def __init__(self) -> None:
        self.videos = 0
        self._sum = np.zeros(0, np.int64)
        self._products = np.zeros((0, 0), np.int64)
        self._waiting: list[Floats] = []

    def add(self, vector: Any, key: object = "?") -> None:
        """Count one video's vector, of any length but the same for all."""
        x_D = np.asarray(vector, np.float64)
        if not np.isfinite(x_D).all():
            raise DataError(
                f"the embedding of record {key} is not finite",
                "finite numbers",
                "lower the learning rate or set train.clip_norm",
            )
        if x_D.ndim != 1 or (self.videos and x_D.shape != self._shape):
            raise PluginError(f"an embedding of {list(x_D.shape)}", "vectors of one length")
        self._waiting.append(np.rint(GRID * x_D / max(float(np.linalg.norm(x_D)), 1e-12)))
        self.videos += 1
        if len(self._waiting) == BLOCK:
            self._settle()

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._waiting[0].shape if self._waiting else self._sum.shape

    def _settle(self) -> None:
        """Add what waits to the sums."""
        if not self._waiting:
            return
        x_ND = np.stack(self._waiting)
        if not len(self._sum):
            self._sum = np.zeros(x_ND.shape[1], np.int64)
            self._products = np.zeros((x_ND.shape[1],) * 2, np.int64)
        self._sum += x_ND.sum(0).astype(np.int64)
        self._products += (x_ND.T @ x_ND).astype(np.int64)
        self._waiting = []

    def merge(self, other: Self) -> None:
        """Add another's sums."""
        if not other.videos:
            return
        other._settle()
        self._settle()
        if not self.videos:
            self._sum, self._products = np.zeros_like(other._sum), np.zeros_like(other._products)
        if self._sum.shape != other._sum.shape:
            raise PluginError(f"embeddings of {len(other._sum)}", f"{len(self._sum)} numbers")
        self._sum, self._products = self._sum + other._sum, self._products + other._products
        self.videos += other.videos

    def compute(self) -> dict[str, float]:
        """The spread, from 0 where all are alike to 1; directions in use, and how many could be.

        The spread is the deviation of a number of a unit vector, as a share of 1 / sqrt(D) (Chen
        and He, Exploring Simple Siamese Representation Learning, 2021). Directions are the
        effective rank of the covariance (Roy and Vetterli, The Effective Rank, 2007).
        """
        if not self.videos:
            raise DataError("no embedding was measured", "at least one video")
        self._settle()
        mean_D = self._sum / GRID / self.videos
        covariance_DD = self._products / GRID**2 / self.videos - np.outer(mean_D, mean_D)
        deviation_D = np.sqrt(np.maximum(np.diagonal(covariance_DD), 0))
        size = len(mean_D)
        return {
            "spread": math.sqrt(size) * float(deviation_D.mean()),
            "directions": effective_rank(covariance_DD),
            "room": float(min(size, max(1, self.videos - 1))),
        }


def effective_rank(covariance_DD: Floats) -> float:
    """The exponential of the entropy of a covariance's eigenvalues; 0 where nothing varies."""
    values_D = np.maximum(np.linalg.eigvalsh(covariance_DD), 0)
    total = float(values_D.sum())
    if total < NO_VARIANCE:
        return 0.0
    shares = values_D[values_D > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


class Health:
    """The spread of each kind of vector that answers hold; figures as `embedding_spread`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.spreads = {name: Spread() for name in names}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video's vectors, of those kinds that its answer holds."""
        for name, spread in self.spreads.items():
            if name in answer:
                spread.add(answer[name], target.get("key", "?"))

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        for name, spread in self.spreads.items():
            spread.merge(other.spreads[name])

    def compute(self) -> dict[str, float]:
        """The figures of all kinds that were met."""
        met = {name: spread for name, spread in self.spreads.items() if spread.videos}
        return {
            f"{name}_{what}": value
            for name, spread in met.items()
            for what, value in spread.compute().items()
        }


# --- one line about figures


def told(
    metrics: Mapping[str, float],
    metric: str,
    *,
    chance: float | None,
    higher_is_better: bool = True,
    level: str = "chance",
    todo: str = "lower the learning rate",
) -> str | None:
    """Say whether a pretext has learnt its own task, and what its embeddings are worth.

    `chance` is what needs no training, and `level` its name.
    """
    if metric not in metrics:
        return None
    parts = [_own(metrics, metric, chance, level), *_uses(metrics)]
    if alike := _alike(metrics):
        name, spread = alike
        line = f"collapsed: all videos have nearly the same {name} (spread {spread:.3f})"
        return "; ".join([line, parts[0], todo])
    if chance is None:
        return "; ".join(parts)
    if not _is_above(metrics, metrics[metric], chance, higher_is_better):
        failed = "not learnt" if level == "chance" else f"hardly better than {level}"
        return "; ".join([f"{failed}: {parts[0]}", *parts[1:], "train longer, or on more videos"])
    return "; ".join([f"learnt: {parts[0]}", *parts[1:]])


def _own(metrics: Mapping[str, float], metric: str, chance: float | None, level: str) -> str:
    name = "own task" if metric == "own_accuracy" else metric
    beside = "" if chance is None else f", {level} {chance:.2f}"
    return f"{name} {metrics[metric]:.2f}{beside}"


def _uses(metrics: Mapping[str, float]) -> list[str]:
    """How many directions each kind of vector uses, of those that so many videos could show."""
    names = [name.removesuffix("_directions") for name in metrics if name.endswith("_directions")]
    return [
        f"{name} uses {metrics[f'{name}_directions']:.0f} of {metrics[f'{name}_room']:.0f}"
        " directions"
        for name in names
    ]


def _alike(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The kind of vector that is nearly the same for all videos, if there is one."""
    spreads = {
        name.removesuffix("_spread"): value
        for name, value in metrics.items()
        if name.endswith("_spread") and metrics.get(name.replace("_spread", "_room"), 2) > 1
    }
    name = min(spreads, key=lambda each: spreads[each], default=None)
    return (name, spreads[name]) if name is not None and spreads[name] < COLLAPSED else None


def _is_above(
    metrics: Mapping[str, float], own: float, chance: float, higher_is_better: bool
) -> bool:
    """Whether a figure is better than chance by more than luck."""
    gain, room = (own - chance, 1 - chance) if higher_is_better else (chance - own, chance)
    variance = max(0.0, chance * (1 - chance)) / max(1.0, metrics.get("own_videos", 1.0))
    luck = DEVIATIONS * math.sqrt(variance) if "own_videos" in metrics else 0.0
    return gain > max(ABOVE_CHANCE * abs(room), luck)
