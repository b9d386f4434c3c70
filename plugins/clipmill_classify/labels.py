"""The rules for labels: one class a video, several, or one a frame, and what a record must have.

A record without them may be answered, but neither trained nor validated on. A video that has one
class has that as its only one where several are asked for; of frames only spans tell.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import PlanError, PluginError
from clipmill.plugin import Catalog, Info, Stage

Labels = Literal["one", "several", "frames"]

NO_LABEL = -1
METRICS: Mapping[Labels, str] = {
    "one": "accuracy", "several": "mean_average_precision", "frames": "frame_accuracy"
}  # fmt: skip
# What a record must have of each kind, and what to do where it has not.
NEEDED: Mapping[Labels, tuple[str, str]] = {
    "one": ("label", "label them, or leave them out with data.where"),
    "several": ("labels", "label them, or leave them out with data.where"),
    "frames": ("spans", "give them spans, or leave them out with data.where='spans != None'"),
}


def refuse_unlabelled(catalog: Catalog, stage: Stage, labels: Labels = "one") -> None:
    """Stop a plan that would learn from, or be judged by, records without a class."""
    if stage == "test":
        return
    missing = np.flatnonzero(~_is_labelled(catalog, labels))
    if len(missing):
        key = catalog.row(int(missing[0]))["key"]
        kind, todo = NEEDED[labels]
        raise PlanError(
            f"{len(missing)} of {len(catalog)} records have no {kind} to {stage} on, such as {key}",
            "a class for each",
            todo,
        )


def _is_labelled(catalog: Catalog, labels: Labels) -> NDArray[np.bool_]:
    """Which records have what a kind of labels needs."""
    one = catalog.labels >= 0
    if labels == "one":
        return one
    many = catalog.column("spans" if labels == "frames" else "labels")
    there = np.array([each is not None and len(each) > 0 for each in many], np.bool_)
    return there if labels == "frames" else there | one


def several_targets(record: Mapping[str, Any]) -> NDArray[np.int8]:
    """Whether each class is among the record's: 1 or 0; all are NO_LABEL where it has none."""
    told = np.full(record["class_count"], 0 if record["targets"] else NO_LABEL, np.int8)
    told[list(record["targets"])] = 1
    return told


def class_count(info: Info, plugin: str) -> int:
    """How many classes the network must tell apart."""
    if not info.classes:
        raise PluginError(
            f"plugin {plugin!r} was given data without classes",
            "at least one class name",
            "ingest the videos with their labels",
        )
    return len(info.classes)


def weights_of(by_name: Mapping[str, float], info: Info) -> tuple[float, ...]:
    """The weight of each class in the order of the classes; none where none is told."""
    if unknown := [name for name in by_name if name not in info.classes]:
        raise PluginError(
            f"class_weights of {unknown[0]!r}", f"names of classes: {', '.join(info.classes[:20])}"
        )
    return tuple(by_name.get(name, 1.0) for name in info.classes) if by_name else ()
