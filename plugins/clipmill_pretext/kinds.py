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
ASKED = "asked"  # and whether it could be asked, of tasks that need more than a video has
GUESS = 0.5  # what a video is worth of which nothing could be asked: one of two is right


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
    """The own task over all questions, and over those of each kind where there are some.

    Figures are numbers from 0 to 1 of each question. Those that could not be asked are left out.
    """

    def __init__(self, chance: float | None = None, **figures: str) -> None:
        super().__init__(chance, **figures)
        self.kinds: dict[str, list[float]] = {
            f"{kind}_{figure.removeprefix('own_')}": [] for figure in figures for kind in KINDS
        }

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video."""
        super().update(self._told(answer), target)
        asked, far = _asked(answer), _each(answer, "is_far")
        for figure, name in self.figures.items():
            told = _each(answer, name)
            for kind, number in KINDS.items():
                if (chosen := asked & (far == number)).any():
                    own = self.kinds[f"{kind}_{figure.removeprefix('own_')}"]
                    own.append(float(told[chosen].mean()))

    def score(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> float:
        """What one video adds to the metric, which is the mean of it."""
        return super().score(self._told(answer), target)

    def _told(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The answer with its figures of those questions alone that could be asked."""
        asked, names = _asked(answer), self.figures.values()
        kept = {name: _each(answer, name)[asked] if asked.any() else GUESS for name in names}
        return {**answer, **kept}

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        super().merge(other)
        for kind, told in other.kinds.items():
            self.kinds[kind] += told

    def compute(self) -> dict[str, float]:
        """All figures, and each of both kinds: `far_accuracy`, `foreign_accuracy`."""
        means = {kind: math.fsum(told) / len(told) for kind, told in self.kinds.items() if told}
        return {**super().compute(), **means}


def _each(answer: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(answer[name], np.float64))


def _asked(answer: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which questions could be asked; where nothing is told of it, all."""
    if ASKED not in answer:
        return np.ones(len(_each(answer, "is_far")), np.bool_)
    return _each(answer, ASKED) > 0
