"""What class probabilities tell beside a metric: confusion, classes, worst errors, calibration.

Plain numbers from plain numbers. Knows neither videos nor plugins.
"""

from collections.abc import Sequence
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
    confusion_KK = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion_KK, (target_N, told_N), 1)
    return {
        "confusion": {"classes": list(classes), "counts": confusion_KK.tolist()},
        "by_class": _by_class(confusion_KK, classes),
        "confused": _confused(confusion_KK, classes),
        "worst": _worst(keys, probabilities_NK, target_N, told_N, classes),
        "calibration": calibration(probabilities_NK.max(1), told_N == target_N),
    }


def _by_class(confusion_KK: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """How many videos of each class there are, and are told rightly; a class without any is not."""
    videos_K, right_K = confusion_KK.sum(1).tolist(), confusion_KK.diagonal().tolist()
    return [
        {"name": name, "videos": videos, "right": right, "accuracy": right / videos}
        for name, videos, right in zip(classes, videos_K, right_K, strict=True)
        if videos
    ]


def _confused(confusion_KK: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes that are most often taken for another."""
    wrong = confusion_KK * (1 - np.eye(len(classes), dtype=np.int64))
    places = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    pairs = zip(*np.unravel_index(places, wrong.shape), strict=True)
    return [
        {"target": classes[true], "label": classes[told], "videos": int(wrong[true, told])}
        for true, told in pairs
        if wrong[true, told]
    ]


def _worst(
    keys: Sequence[str],
    probabilities_NK: NDArray[np.float64],
    target_N: NDArray[np.int64],
    told_N: NDArray[np.int64],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """The wrong answers that were given with the most confidence."""
    sure_N = probabilities_NK.max(1)
    wrong = np.flatnonzero(told_N != target_N)
    ranked = sorted(wrong.tolist(), key=lambda place: (-sure_N[place], keys[place]))
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


def calibration(sure_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> dict[str, Any]:
    """The expected calibration error (Guo et al., 2017) over equal bins of confidence."""
    bin_N = np.minimum((sure_N * BINS).astype(np.int64), BINS - 1)
    bins, error = [], 0.0
    for place in np.unique(bin_N).tolist():
        mine = bin_N == place
        confidence, accuracy = float(sure_N[mine].mean()), float(right_N[mine].mean())
        error += int(mine.sum()) / len(sure_N) * abs(confidence - accuracy)
        edges = {"low": place / BINS, "high": (place + 1) / BINS}
        told = {"videos": int(mine.sum()), "confidence": confidence, "accuracy": accuracy}
        bins.append({**edges, **told})
    return {"error": error, "bins": bins}
