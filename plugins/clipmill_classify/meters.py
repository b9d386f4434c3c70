"""The meters of classifiers: one class a video, several, or one a frame; merging them is exact.

Free of torch. Which class has which name is learnt from the records that are counted.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError, PluginError
from clipmill_classify.frame_labels import NO_LABEL, frame_targets, segments

TOP = 5  # the second figure of most papers, meaningful with more classes than that
OVERLAPS = (0.1, 0.25, 0.5)  # of segments, from which on they are the same


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
            raise _other_classes(classes, len(self.confusion))


def _ranked(answer: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[int, NDArray[np.int64]]:
    """The true class of a video, and all classes by its answer, the likeliest first."""
    scores_K = np.asarray(answer["probabilities"], np.float64)
    true = int(target["target"])
    if not 0 <= true < len(scores_K):
        raise _no_class(target, true, len(scores_K))
    _check_finite(scores_K, target)
    # Stable, so that equal scores always rank alike: the class of the lower number first.
    return true, np.argsort(-scores_K, kind="stable")


class SeveralMeter:
    """Average precision of each class, and what a threshold finds; for videos of several classes.

    Scores are kept, and sorted in the end: equal whatever the order and the cut of the videos.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.scores: list[NDArray[np.float64]] = []  # of each video [classes]
        self.true: list[NDArray[np.bool_]] = []
        self.names: dict[int, str] = {}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: the probability of each class, and its catalog row."""
        scores_K, classes = np.asarray(answer["presence"], np.float64), list(target["targets"])
        if not classes or not all(0 <= each < len(scores_K) for each in classes):
            raise _no_class(target, classes, len(scores_K))
        _check_finite(scores_K, target)
        if self.scores and len(self.scores[0]) != len(scores_K):
            raise _other_classes(len(scores_K), len(self.scores[0]))
        self.scores.append(scores_K)
        self.true.append(np.isin(np.arange(len(scores_K)), classes))
        told = dict.fromkeys(name for name in (target["label"], *(target["labels"] or ())) if name)
        self.names |= dict(zip(classes, told, strict=True))

    def merge(self, other: Self) -> None:
        """Add another meter's videos."""
        self.scores += other.scores
        self.true += other.true
        self.names |= other.names

    def compute(self) -> dict[str, float]:
        """The mean of the classes' average precision, what the threshold finds, each class."""
        if not self.scores:
            raise DataError("no video was measured", "at least one labelled video")
        scores_NK, true_NK = np.stack(self.scores), np.stack(self.true)
        told_NK = scores_NK >= self.threshold
        right = int((told_NK & true_NK).sum())
        told, there = int(told_NK.sum()), int(true_NK.sum())
        of_class = precisions(scores_NK, true_NK)
        return {
            "mean_average_precision": _mean(of_class.values()),
            "precision": right / told if told else 0.0,
            "recall": right / there,
            "f1": 2 * right / (told + there),
            **_named("average_precision", of_class, self.names),
        }


class FrameMeter:
    """Frame accuracy, average precision over frames, and F1 of segments; for a class a frame.

    Frames without a label count for nothing and part segments. Segments are matched as Lea et
    al. have it ("Temporal Convolutional Networks for Action Segmentation", 2017): a told one is
    right if it overlaps a true one of its class by so much of what both cover, each one once.
    """

    def __init__(self) -> None:
        self.confusion: NDArray[np.int64] = np.zeros((0, 0), np.int64)  # [true, told] frames
        self.matched = np.zeros((len(OVERLAPS), 3), np.int64)  # right, told, true segments
        self.scores: list[NDArray[np.float32]] = []  # of each video [frames, classes]
        self.true: list[NDArray[np.int64]] = []
        self.names: dict[int, str] = {}

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: the class probabilities of its frames, and its catalog row."""
        scores_TK = np.asarray(answer["frame_probabilities"], np.float64)
        numbers = [int(span["target"]) for span in target["spans"] or ()]
        classes = scores_TK.shape[1]
        if not numbers or not all(0 <= each < classes for each in numbers):
            raise _no_class(target, numbers, classes)
        _check_finite(scores_TK, target)
        self._grow(classes)
        true_T = frame_targets(target, np.asarray(answer["frame_numbers"], np.int64))
        labelled_T, told_T = true_T != NO_LABEL, scores_TK.argmax(1)
        np.add.at(self.confusion, (true_T[labelled_T], told_T[labelled_T]), 1)
        told_T = np.where(labelled_T, told_T, NO_LABEL)
        self.matched += [matches(told_T, true_T, overlap) for overlap in OVERLAPS]
        self.scores.append(scores_TK[labelled_T].astype(np.float32))
        self.true.append(true_T[labelled_T])
        self.names |= {int(span["target"]): str(span["label"]) for span in target["spans"]}

    def merge(self, other: Self) -> None:
        """Add another meter's frames."""
        if not len(other.confusion):
            return
        self._grow(len(other.confusion))
        self.confusion += other.confusion
        self.matched += other.matched
        self.scores += other.scores
        self.true += other.true
        self.names |= other.names

    def compute(self) -> dict[str, float]:
        """Accuracy over all labelled frames, F1 of segments by overlap, then each class."""
        frames = int(self.confusion.sum())
        if not frames:
            raise DataError("no frame was measured", "at least one labelled frame")
        true_N = np.concatenate(self.true)
        true_NK = true_N[:, None] == np.arange(len(self.confusion))
        of_class = precisions(np.concatenate(self.scores), true_NK)
        right = self.confusion.diagonal() / np.maximum(1, self.confusion.sum(1))
        shares = {place: float(right[place]) for place in of_class}
        return {
            "frame_accuracy": int(np.trace(self.confusion)) / frames,
            **self._segments(),
            "mean_average_precision": _mean(of_class.values()),
            **_named("frame_accuracy", shares, self.names),
            **_named("average_precision", of_class, self.names),
        }

    def _segments(self) -> dict[str, float]:
        return {
            f"segment_f1_{round(100 * overlap)}": 2 * right / (told + true)
            for overlap, (right, told, true) in zip(OVERLAPS, self.matched.tolist(), strict=True)
        }

    def _grow(self, classes: int) -> None:
        if not len(self.confusion):
            self.confusion = np.zeros((classes, classes), np.int64)
        if len(self.confusion) != classes:
            raise _other_classes(classes, len(self.confusion))


# --- figures


def average_precision(scores_N: NDArray[Any], true_N: NDArray[np.bool_]) -> float:
    """The mean of the precision at each recall that a threshold reaches; equal scores come at once.

    The area under the steps, without interpolation; something must be true.
    """
    order = np.argsort(-scores_N, kind="stable")
    ranked, hits = scores_N[order], np.cumsum(true_N[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    recall = hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits[ends] / (ends + 1)))


def precisions(scores_NK: NDArray[Any], true_NK: NDArray[np.bool_]) -> dict[int, float]:
    """The average precision of each class that there is, by its number."""
    there = np.flatnonzero(true_NK.any(0)).tolist()
    return {k: average_precision(scores_NK[:, k], true_NK[:, k]) for k in there}


def matches(
    told_T: NDArray[np.int64], true_T: NDArray[np.int64], overlap: float
) -> tuple[int, int, int]:
    """How many told segments are right, of how many, and how many there are truly."""
    told, true = list(segments(told_T)), list(segments(true_T))
    free = set(range(len(true)))
    for label, first, end in told:
        shares = [_overlap((first, end), (a, b)) if own == label else 0.0 for own, a, b in true]
        best = int(np.argmax(shares)) if shares else 0
        if best in free and shares[best] >= overlap:
            free.remove(best)
    return len(true) - len(free), len(told), len(true)


def _overlap(one: tuple[int, int], two: tuple[int, int]) -> float:
    """What two stretches share of all that either covers."""
    both = max(0, min(one[1], two[1]) - max(one[0], two[0]))
    return both / (one[1] - one[0] + two[1] - two[0] - both)


def _mean(values: Iterable[float]) -> float:
    told = list(values)
    return math.fsum(told) / len(told)


def _named(what: str, of_class: Mapping[int, float], names: Mapping[int, str]) -> dict[str, float]:
    return {f"{what}/{names.get(place, place)}": share for place, share in of_class.items()}


# --- what cannot be counted


def _no_class(target: Mapping[str, Any], numbers: object, classes: int) -> DataError:
    return DataError(
        f"record {target.get('key', '?')} has label {target.get('label')!r} (class {numbers})",
        f"one of the model's {classes} classes",
        "leave such records out with data.where",
    )


def _other_classes(got: int, wanted: int) -> PluginError:
    return PluginError(f"an answer has {got} classes", f"{wanted}, as those before it")


def _check_finite(scores: NDArray[np.float64], target: Mapping[str, Any]) -> None:
    if not np.isfinite(scores).all():
        raise PluginError(f"probabilities of record {target.get('key', '?')} are not finite")
