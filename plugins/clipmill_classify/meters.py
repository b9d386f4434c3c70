"""The classification meter: a confusion matrix of whole numbers, so that merging is exact.

Free of torch. Which class has which name is learnt from the records that are counted.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError, PluginError

TOP = 5  # the second figure of most papers, meaningful with more classes than that


class ClassMeter:
    """Counts rightly told videos; equal whatever the order and the cut of the videos."""

    def __init__(self) -> None:
        self.confusion: NDArray[np.int64] = np.zeros((0, 0), np.int64)  # [true class, told class]
        self.top_hits = 0
        self.names: dict[int, str] = {}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: its class probabilities and its catalog row."""
        true, ranked_K = _ranked(answer, target)
        self._grow(len(ranked_K))
        self.confusion[true, ranked_K[0]] += 1
        self.top_hits += int(true in ranked_K[:TOP])
        if target.get("label") is not None:
            self.names[true] = str(target["label"])

    def score(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> float:
        """What one video adds to the accuracy, which is the mean of it."""
        true, ranked_K = _ranked(answer, target)
        return float(true == ranked_K[0])

    def merge(self, other: Self) -> None:
        """Add another meter's counts."""
        if not len(other.confusion):
            return
        self._grow(len(other.confusion))
        self.confusion += other.confusion
        self.top_hits += other.top_hits
        self.names |= other.names

    def compute(self) -> dict[str, float]:
        """Accuracy over all videos, then by class; top 5 where there are more classes."""
        videos = int(self.confusion.sum())
        if not videos:
            raise DataError("no video was measured", "at least one labelled video")
        of_class = self._of_class()
        figures = {"accuracy": int(np.trace(self.confusion)) / videos}
        if len(self.confusion) > TOP:
            figures["top5_accuracy"] = self.top_hits / videos
        figures["mean_class_accuracy"] = sum(of_class.values()) / len(of_class)
        return figures | {f"accuracy/{name}": share for name, share in of_class.items()}

    def _of_class(self) -> dict[str, float]:
        videos_K = self.confusion.sum(axis=1)
        return {
            self.names.get(place, str(place)): int(self.confusion[place, place]) / int(videos)
            for place, videos in enumerate(videos_K)
            if videos
        }

    def _grow(self, classes: int) -> None:
        if not len(self.confusion):
            self.confusion = np.zeros((classes, classes), np.int64)
        if len(self.confusion) != classes:
            raise PluginError(
                f"an answer has {classes} classes", f"{len(self.confusion)}, as those before it"
            )


def _ranked(answer: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[int, NDArray[np.int64]]:
    """The true class of a video, and all classes by its answer, the likeliest first."""
    scores_K = np.asarray(answer["probabilities"], np.float64)
    true = int(target["target"])
    if not 0 <= true < len(scores_K):
        raise DataError(
            f"record {target.get('key', '?')} has label {target.get('label')!r} (class {true})",
            f"one of the model's {len(scores_K)} classes",
            "leave such records out with data.where",
        )
    if not np.isfinite(scores_K).all():
        raise PluginError(f"probabilities of record {target.get('key', '?')} are not finite")
    # Stable, so that equal scores always rank alike: the class of the lower number first.
    return true, np.argsort(-scores_K, kind="stable")
