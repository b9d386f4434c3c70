"""Kinds of answers: one class a video, several, or one a frame; what is true of each, its figures.

A model's kind is what its plugin learns, and what it answers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipmill.catalog import Catalog, frame_targets
from clipmill.evaluate.figures import Moments, figures, frame_figures, several_figures
from clipmill.evaluate.pairs import pair_figures
from clipmill.evaluate.pixels import pixel_figures
from clipmill.plugin import Plugin
from clipmill.readable import THRESHOLD

Answer = Mapping[str, Any]
Row = Mapping[str, Any]


def class_counts(catalog: Catalog, plugin: Plugin) -> Mapping[str | None, int]:
    """How many records have each class, of those that a plugin learns; None is no class at all.

    Of one that learns none, or those of masks, there are none: it may be asked about records with
    and without.
    """
    labels = plugin.learns
    if labels in ("none", "masks"):
        return {}
    if labels == "one":
        return catalog.counts("label")
    counts: Counter[str | None] = Counter()
    if labels == "frames":
        for spans in catalog.column("spans"):
            counts.update({span["label"] for span in _list(spans)} or {None})
    else:
        columns = catalog.column("label"), catalog.column("labels")
        for label, several in zip(*columns, strict=True):
            counts.update({label, *_list(several)} - {None} or {None})
    return counts


def _list(value: Any) -> Sequence[Any]:
    return () if value is None else list(value)


def truth(answer: Answer, row: Row) -> Any:
    """What is true of a video, in the form of its answer: a class, several, or a timeline."""
    if "frame_probabilities" in answer:
        fps = row["fps"]
        return [
            {
                "label": span["label"],
                "start_seconds": span["first_frame"] / fps,
                "end_seconds": (span["last_frame"] + 1) / fps,
            }
            for span in row["spans"] or ()
        ]
    if "presence" in answer:
        names = (row["label"], *(row["labels"] or ()))
        return list(dict.fromkeys(name for name in names if name is not None))
    return row["label"]


def figures_of(
    rows: Sequence[Row],
    answers: Sequence[Answer],
    classes: Sequence[str],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """The figures of answers: of probabilities, of pairs that were compared, of pixels; or none."""
    keys = [str(row["key"]) for row in rows]
    if _all_have(answers, "probabilities", classes):
        scores = np.stack([np.asarray(each["probabilities"], np.float64) for each in answers])
        targets = np.array([row["target"] for row in rows])
        return {"figures": figures(keys, scores, targets, classes)}
    if _all_have(answers, "presence", classes):
        scores = np.stack([np.asarray(each["presence"], np.float64) for each in answers])
        true = np.stack([np.isin(np.arange(len(classes)), row["targets"]) for row in rows])
        threshold = float(answers[0].get("threshold", THRESHOLD))
        return {"figures": several_figures(keys, scores, true, classes, threshold)}
    if classes and all("frame_probabilities" in each for each in answers):
        pairs = zip(rows, answers, strict=True)
        return {"figures": frame_figures([_moments(*pair) for pair in pairs], classes)}
    if all({"distances", "kinds", "others", "frames"} <= each.keys() for each in answers):
        return {"figures": pair_figures(rows, answers, metrics.get("threshold"))}
    return pixel_figures(answers, classes)


def _all_have(answers: Sequence[Answer], name: str, classes: Sequence[str]) -> bool:
    shape = (len(classes),)
    return bool(classes) and all(np.shape(each.get(name, ())) == shape for each in answers)


def _moments(row: Row, answer: Answer) -> Moments:
    numbers = np.asarray(answer["frame_numbers"], np.int64)
    targets = frame_targets(row, numbers)
    there = targets >= 0
    scores = np.asarray(answer["frame_probabilities"], np.float64)
    return Moments(str(row["key"]), numbers[there], scores[there], targets[there])
