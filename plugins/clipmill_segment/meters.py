"""How well the classes of pixels are told: overlaps and accuracies over the pixels of all frames.

Counts are whole numbers: merging parts gives exactly the whole. Knows masks as arrays, and neither
videos nor networks.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError
from clipmill.video import VOID

Counts = NDArray[np.int64]  # [classes that are true, classes that were told]


def confusion(told_HW: NDArray[Any], truth_HW: NDArray[Any], classes: int) -> Counts:
    """Count the pixels by their true class and the one that was told; void counts nowhere."""
    known = truth_HW != VOID
    truth, told = truth_HW[known].astype(np.int64), told_HW[known].astype(np.int64)
    counts = np.bincount(truth * classes + told, minlength=classes**2)
    return counts.reshape(classes, classes)


class SegmentMeter:
    """Mean intersection over union of the classes, over the pixels of all frames."""

    def __init__(self) -> None:
        self.counts: Counts | None = None

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video; one of whose pixels nothing is known counts nothing."""
        if "confusion" in answer:
            self._add(np.asarray(answer["confusion"], np.int64))

    def merge(self, other: Self) -> None:
        """Add another meter's counts."""
        if other.counts is not None:
            self._add(other.counts)

    def _add(self, counts: Counts) -> None:
        self.counts = counts if self.counts is None else self.counts + counts

    def compute(self) -> dict[str, float]:
        """The figures; `iou_0` is of what no mask names, `iou_1` of the first class.

        The mean overlap is over classes that are true or told of any pixel, the class average over
        those that are true of any. `constant` is the mean overlap of the one class that is the best to
        tell of all pixels.
        """
        if self.counts is None or not self.counts.any():
            raise DataError("no pixel of a known class was measured", "videos with masks")
        right, true, told = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        either = true + told - right
        overlaps = {
            f"iou_{place}": float(right[place] / either[place])
            for place in np.flatnonzero(either).tolist()
        }
        seen = true > 0
        constant = true.max() / true.sum() / np.count_nonzero(seen)
        return {
            "miou": float(np.mean(list(overlaps.values()))),
            "class_average": float(np.mean(right[seen] / true[seen])),
            "pixel_accuracy": float(right.sum() / true.sum()),
            "constant": float(constant),
            **overlaps,
        }
