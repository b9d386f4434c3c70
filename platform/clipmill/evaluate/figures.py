"""What class probabilities tell beside a metric: confusion, classes, worst errors, calibration.

Of videos with one class, with several (which are in no confusion matrix), and with one a frame.
Plain numbers from plain numbers. Knows neither videos nor plugins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORST = 24  # errors and pairs of classes that are listed
BINS = 15  # of confidence


def figures(
    keys: Sequence[str],
    probabilities_NK: NDArray[np.float64],
    target_N: NDArray[np.int64],
    classes: Sequence[str],
) -> dict[str, Any]:
    """All figures of videos: their keys, answers and true classes."""
    told_N = probabilities_NK.argmax(1)  # of equal ones the first, as meters have it
    errors = np.flatnonzero(told_N != target_N)
    return {
        **_confusion(probabilities_NK, target_N, classes, "videos"),
        "worst": _worst(keys, probabilities_NK, target_N, errors, classes),
    }


def _confusion(
    probabilities_NK: NDArray[np.float64],
    target_N: NDArray[np.int64],
    classes: Sequence[str],
    what: str,
) -> dict[str, Any]:
    """What is counted of videos or of frames, each with one class."""
    told_N = probabilities_NK.argmax(1)
    confusion_KK = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion_KK, (target_N, told_N), 1)
    return {
        "confusion": {"classes": list(classes), "counts": confusion_KK.tolist()},
        "by_class": _by_class(confusion_KK, classes, what),
        "confused": _confused(confusion_KK, classes, what),
        "calibration": calibration(probabilities_NK.max(1), told_N == target_N, what),
    }


def _by_class(
    confusion_KK: NDArray[np.int64], classes: Sequence[str], what: str
) -> list[dict[str, Any]]:
    """How many there are of each class, and are told rightly; a class without any is not."""
    count_K, right_K = confusion_KK.sum(1).tolist(), confusion_KK.diagonal().tolist()
    return [
        {"name": name, what: count, "right": right, "accuracy": right / count}
        for name, count, right in zip(classes, count_K, right_K, strict=True)
        if count
    ]


def _confused(
    confusion_KK: NDArray[np.int64], classes: Sequence[str], what: str
) -> list[dict[str, Any]]:
    """The classes that are most often taken for another."""
    wrong = confusion_KK * (1 - np.eye(len(classes), dtype=np.int64))
    places = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    pairs = zip(*np.unravel_index(places, wrong.shape), strict=True)
    return [
        {"target": classes[true], "label": classes[told], what: int(wrong[true, told])}
        for true, told in pairs
        if wrong[true, told]
    ]


def _worst(
    keys: Sequence[str],
    probabilities_NK: NDArray[np.float64],
    target_N: NDArray[np.int64],
    errors: NDArray[np.int64],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """The wrong answers, by their places, that were given with the most confidence."""
    sure_N, told_N = probabilities_NK.max(1), probabilities_NK.argmax(1)
    ranked = sorted(errors.tolist(), key=lambda place: (-sure_N[place], keys[place]))
    return [
        {
            "key": keys[place],
            "target": classes[target_N[place]],
            "label": classes[told_N[place]],
            "probability": float(sure_N[place]),
            "target_probability": float(probabilities_NK[place, target_N[place]]),
        }
        for place in ranked[:WORST]
    ]


def calibration(
    sure_N: NDArray[np.float64], right_N: NDArray[np.bool_], what: str = "videos"
) -> dict[str, Any]:
    """The expected calibration error (Guo et al., 2017) over equal bins of confidence."""
    bin_N = np.minimum((sure_N * BINS).astype(np.int64), BINS - 1)
    bins, error = [], 0.0
    for place in np.unique(bin_N).tolist():
        mine = bin_N == place
        confidence, accuracy = float(sure_N[mine].mean()), float(right_N[mine].mean())
        error += int(mine.sum()) / len(sure_N) * abs(confidence - accuracy)
        edges = {"low": place / BINS, "high": (place + 1) / BINS}
        told = {what: int(mine.sum()), "confidence": confidence, "accuracy": accuracy}
        bins.append({**edges, **told})
    return {"error": error, "bins": bins}


# --- a class for each frame


@dataclass(frozen=True)
class Moments:
    """A video's answer and truth at those of its moments that have a class."""

    key: str
    numbers_T: NDArray[np.int64]  # of its frames
    probabilities_TK: NDArray[np.float64]
    target_T: NDArray[np.int64]


def frame_figures(videos: Sequence[Moments], classes: Sequence[str]) -> dict[str, Any]:
    """All figures of frames; of the worst errors one a video, with the frame it is at."""
    probabilities_NK = np.concatenate([video.probabilities_TK for video in videos])
    target_N = np.concatenate([video.target_T for video in videos])
    surest = [found for video in videos if (found := _surest_error(video, classes))]
    ranked = sorted(surest, key=lambda row: (-row["probability"], row["key"]))
    return {
        **_confusion(probabilities_NK, target_N, classes, "frames"),
        "worst": ranked[:WORST],
    }


def _surest_error(video: Moments, classes: Sequence[str]) -> dict[str, Any] | None:
    wrong = np.flatnonzero(video.probabilities_TK.argmax(1) != video.target_T)
    if not len(wrong):
        return None
    place = wrong[video.probabilities_TK[wrong].max(1).argmax()]
    keys = [video.key] * len(video.target_T)
    (row,) = _worst(keys, video.probabilities_TK, video.target_T, np.array([place]), classes)
    return {**row, "frame": int(video.numbers_T[place])}


# --- several classes a video


def several_figures(
    keys: Sequence[str],
    presence_NK: NDArray[np.float64],
    true_NK: NDArray[np.bool_],
    classes: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """All figures of videos that have several classes: each class is a question of its own."""
    told_NK = presence_NK >= threshold
    rows = zip(classes, true_NK.T, told_NK.T, strict=True)
    return {
        "by_class": [_found(*row) for row in rows if row[1].any() or row[2].any()],
        "worst": _worst_decisions(keys, presence_NK, true_NK, told_NK, classes),
        "calibration": calibration(presence_NK.ravel(), true_NK.ravel(), "decisions"),
    }


def _found(name: str, true_N: NDArray[np.bool_], told_N: NDArray[np.bool_]) -> dict[str, Any]:
    """What is told of a class: how many videos have it, in how many it is told, and is rightly."""
    videos, told, right = (int(each.sum()) for each in (true_N, told_N, true_N & told_N))
    return {
        "name": name, "videos": videos, "told": told, "right": right,
        "recall": right / videos if videos else None, "precision": right / told if told else None,
    }  # fmt: skip


def _worst_decisions(
    keys: Sequence[str],
    presence_NK: NDArray[np.float64],
    true_NK: NDArray[np.bool_],
    told_NK: NDArray[np.bool_],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """The classes that were most surely told, or left out, wrongly."""
    sure_NK = np.where(told_NK, presence_NK, 1 - presence_NK)
    pairs = np.argwhere(told_NK != true_NK).tolist()
    ranked = sorted(pairs, key=lambda pair: (-sure_NK[pair[0], pair[1]], keys[pair[0]], pair[1]))
    return [
        {
            "key": keys[video],
            "target": ", ".join(
                name for name, is_one in zip(classes, true_NK[video], strict=True) if is_one
            ),
            "label": classes[place] if told_NK[video, place] else f"not {classes[place]}",
            "probability": float(sure_NK[video, place]),
        }
        for video, place in ranked[:WORST]
    ]
