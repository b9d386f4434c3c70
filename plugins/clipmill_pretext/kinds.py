"""Tasks that tell a moment from what stands against it: far ones of its video, and foreign ones.

The answer keeps each question with its kind, so that figures of either are told beside the whole.
Free of torch.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Decoded
from clipmill_pretext.meters import HealthTask

KINDS = {"foreign": 0.0, "far": 1.0}  # of what stands against a moment, by `is_far`
EACH = ("right", "is_far")  # what answers keep of each question


def video_number(row: Mapping[str, Any]) -> np.int64:
    """A number that parts of one video share."""
    return np.int64(zlib.crc32(str(row.get("parent") or row["key"]).encode()))


def is_far(decoded: Decoded, other: int) -> NDArray[np.float32]:
    """Whether the span that stands against the first is of the same record."""
    keys = decoded.records[0]["key"], decoded.records[other]["key"]
    return np.asarray(keys[0] == keys[1], np.float32)


def joined(
    outputs: Sequence[Mapping[str, NDArray[Any]]], each: Sequence[str] = EACH
) -> dict[str, Any]:
    """The answer of a video: of some outputs those of every take, of others the mean."""
    return {
        name: np.stack([o[name] for o in outputs])
        if name in each
        else np.mean([o[name] for o in outputs], axis=0)
        for name in outputs[0]
    }


class KindTask(HealthTask):
    """The own task over all questions, and over those of each kind where there are some."""

    def __init__(self, chance: float | None = None, **figures: str) -> None:
        super().__init__(chance, **figures)
        self.kinds: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video."""
        super().update(answer, target)
        right, far = (np.atleast_1d(np.asarray(answer[name], np.float64)) for name in EACH)
        for kind, number in KINDS.items():
            if (far == number).any():
                self.kinds[kind].append(float(right[far == number].mean()))

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        super().merge(other)
        for kind, told in other.kinds.items():
            self.kinds[kind] += told

    def compute(self) -> dict[str, float]:
        """All figures, and `far_accuracy` and `foreign_accuracy`."""
        means = {
            f"{kind}_accuracy": math.fsum(told) / len(told)
            for kind, told in self.kinds.items()
            if told
        }
        return {**super().compute(), **means}
