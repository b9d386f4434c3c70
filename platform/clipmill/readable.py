"""Answers as plain data: classes by name, those that are there, or a timeline in seconds.

By what an answer holds: `probabilities` [classes] is one class, `presence` [classes] several,
`frame_probabilities` [moments, classes] with `frame_numbers` [moments] one at each moment, `mask`
[height, width] one for each pixel of `frame`, `things` what was found one by one, each a dictionary
with its `class` from 1 on and its `frame`. Other arrays become lists. Knows neither networks nor videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5  # where an answer tells none
FOREGROUND = "foreground"  # what a mask without classes shows


@dataclass(frozen=True)
class Clock:
    """How a video's frames lie in time."""

    fps: float
    frames: int


def readable(
    answer: Mapping[str, Any], classes: Sequence[str], clock: Clock, *, each_frame: bool = False
) -> dict[str, Any]:
    """An answer as plain data; `each_frame` adds the probabilities of every moment."""
    rest = dict(answer)
    made: dict[str, Any] = {}
    if _is_of(classes, rest.get("probabilities")):
        made = _likeliest(rest.pop("probabilities"), classes)
    elif _is_of(classes, rest.get("presence")):
        made = _present(rest.pop("presence"), classes, float(rest.pop("threshold", THRESHOLD)))
    elif "frame_probabilities" in rest and "frame_numbers" in rest:
        scores, numbers = rest.pop("frame_probabilities"), rest.pop("frame_numbers")
        seconds = np.asarray(numbers, np.float64) / clock.fps
        made = {"timeline": timeline(scores, seconds, classes, clock.frames / clock.fps)}
        if each_frame:
            made["moments"] = _moments(scores, seconds, classes)
    if "things" in rest:
        made["things"] = [_thing(each, classes, clock) for each in rest.pop("things")]
    if np.ndim(rest.get("mask", 0)) == 2:
        made["masks"] = masks(np.asarray(rest.pop("mask")), classes)
        if "frame" in rest:
            made["frame_seconds"] = float(rest["frame"]) / clock.fps
    return {**{name: np.asarray(value).tolist() for name, value in rest.items()}, **made}


def timeline(
    scores_TK: Any, seconds_T: NDArray[np.float64], classes: Sequence[str], end_seconds: float
) -> list[dict[str, Any]]:
    """Stretches of the likeliest class; each moment lasts until the next, the last to the end."""
    scores_TK = np.asarray(scores_TK, np.float64)
    told_T = scores_TK.argmax(1)
    begins = np.flatnonzero(np.append(True, told_T[1:] != told_T[:-1]))
    edges = [*seconds_T[begins].tolist(), end_seconds]
    parts = np.split(scores_TK, begins[1:])
    return [
        {
            "label": classes[told_T[begin]],
            "start_seconds": edges[at],
            "end_seconds": edges[at + 1],
            "probability": float(parts[at][:, told_T[begin]].mean()),
        }
        for at, begin in enumerate(begins.tolist())
    ]


def masks(mask_HW: NDArray[Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Each class that a mask shows, with its share of the picture and where it is.

    As COCO has it: lengths of runs down the columns, from the left, of what it is not and what it
    is, in turns. Numbers are classes from 1 on; probabilities tell what is there and what is not.
    """
    numbers = mask_HW if mask_HW.dtype.kind in "ui" else (mask_HW >= THRESHOLD).astype(np.uint8)
    named = mask_HW.dtype.kind in "ui" and bool(classes)
    return [
        {
            "label": classes[number - 1] if named and number <= len(classes) else FOREGROUND,
            "share": float((numbers == number).mean()),
            "size": list(numbers.shape),
            "counts": runs(numbers == number),
        }
        for number in np.unique(numbers).tolist()
        if number
    ]


def runs(there_HW: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs down the columns, the first of what is not there."""
    there = there_HW.ravel(order="F")
    edges = np.flatnonzero(np.diff(there, prepend=False))
    return [int(length) for length in np.diff(edges, prepend=0, append=len(there))]


def _thing(thing: Mapping[str, Any], classes: Sequence[str], clock: Clock) -> dict[str, Any]:
    told = {"label": classes[thing["class"] - 1], "frame_seconds": thing["frame"] / clock.fps}
    return {**thing, **told}


def _is_of(classes: Sequence[str], scores: Any) -> bool:
    return scores is not None and np.shape(scores) == (len(classes),)


def _ranked(scores: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    pairs = zip(np.asarray(scores).tolist(), classes, strict=True)
    ranked = sorted(pairs, key=lambda pair: -pair[0])  # of equal ones the first, as in figures
    return [{"name": name, "probability": p} for p, name in ranked]


def _likeliest(scores: Any, classes: Sequence[str]) -> dict[str, Any]:
    ranked = _ranked(scores, classes)
    return {"classes": ranked, **({"label": ranked[0]["name"]} if ranked else {})}


def _present(scores: Any, classes: Sequence[str], threshold: float) -> dict[str, Any]:
    ranked = _ranked(scores, classes)
    there = [each["name"] for each in ranked if each["probability"] >= threshold]
    return {"classes": ranked, "labels": there, "threshold": threshold}


def _moments(
    scores: Any, seconds: NDArray[np.float64], classes: Sequence[str]
) -> dict[str, list[Any]]:
    told = {"seconds": seconds.tolist(), "classes": list(classes)}
    return {**told, "probabilities": np.asarray(scores).tolist()}
