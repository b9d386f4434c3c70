"""One class a frame: targets from a record's spans, takes that cover whole videos, answers joined.

A classifier that can do so has "frames" among its `label_kinds`; then, with labels=frames, its
network gives logits [B, T, K], and all the rest is here. Frames that no span covers have no label,
and where spans overlap the one that begins later holds. Free of torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Catalog, Decoded, Sample, Takes, View, frame_targets

__all__ = [
    "NO_LABEL",
    "covering_spans",
    "frame_sample",
    "frame_targets",
    "joined_frames",
    "segments",
]

NO_LABEL = -1  # of a frame: it counts for nothing
OVERLAP = 0.5  # share of a clip that the next one sees again
CROPS = {1: (0,), 3: (1, 2, 3)}  # places of the crop by how many there are

Numbers = NDArray[np.int64]


# --- what is true


def frame_sample(decoded: Decoded) -> Sample:
    """What the sample of a take has where each frame has a class: whose frames, and their classes.

    The streams come beside it; `frame_numbers` goes through `predict`, as FrameJudge.answer has it.
    """
    frames = decoded.frames[0]
    return {"target": frame_targets(decoded.records[0], frames), "frame_numbers": frames}


# --- what is looked at


def covering_spans(
    catalog: Catalog, view: View, *, overlap: float = OVERLAP, crops: int = 1, name: str = "test"
) -> Takes:
    """Takes that together see all of every record, each a share of it again; at `crops` places.

    They begin at multiples of the frames' own distance, so that overlapping ones see the same.
    """
    frames, fps = catalog.column("frames"), catalog.column("fps")
    length, distance = view.span_frames(fps), fps / view.rate
    step = np.maximum(1, max(1, round(view.frames * (1 - overlap))) * distance)
    reach = np.ceil(np.maximum(0, frames - length) / distance - 1e-9) * distance
    reach = np.minimum(reach, frames - 1)
    counts = np.ceil(reach / step - 1e-9).astype(np.int64) + 1
    record = np.repeat(np.arange(len(frames)), counts)
    turn = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.rint(np.minimum(turn * step[record], reach[record])).astype(np.int64)
    fresh = np.diff(first, prepend=-1) != 0  # rounding may give the last place twice
    record, first = record[fresh | (turn == 0)], first[fresh | (turn == 0)]
    made = _table(name, record, first, first + length[record] - 1)
    places = np.arange(len(record)).repeat(len(CROPS[crops]))
    crop = np.tile(np.array(CROPS[crops], np.int8), len(record))
    return replace(made[places], crop=crop)


def _table(view: str, record: Numbers, first: Numbers, last: Numbers) -> Takes:
    seeds, views = np.zeros(len(record), np.uint64), np.zeros((len(record), 1), np.int8)
    return Takes((view,), record[:, None], views, first[:, None], last[:, None], seeds)


# --- what is answered


def joined_frames(
    outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes
) -> dict[str, NDArray[Any]]:
    """One row of probabilities for each moment of a video: the mean of all takes that saw it.

    Frames nearer to one another than half the distance of a clip's frames are one moment, which
    has the number of the first of them. Gives `frame_probabilities` [moments, classes] and
    `frame_numbers` [moments].
    """
    seen = np.concatenate([np.rint(each["frame_numbers"]) for each in outputs]).astype(np.int64)
    told = np.concatenate([each["frame_probabilities"] for each in outputs]).astype(np.float64)
    frames = len(outputs[0]["frame_numbers"])
    distance = max(1.0, int(takes.last[0, 0] - takes.first[0, 0]) / max(1, frames - 1))
    moments, moment = np.unique(np.floor(seen / distance + 0.5), return_inverse=True)
    total = np.zeros((len(moments), told.shape[1]))
    np.add.at(total, moment, told)
    numbers = np.full(len(moments), np.iinfo(np.int64).max)
    np.minimum.at(numbers, moment, seen)
    mean = total / np.bincount(moment)[:, None]
    return {"frame_probabilities": mean, "frame_numbers": numbers}


def segments(labels: Sequence[int] | Numbers) -> Iterator[tuple[int, int, int]]:
    """Runs of the same label: (label, first place, place behind the last); NO_LABEL has none."""
    array = np.asarray(labels)
    cuts = [0, *(np.flatnonzero(array[1:] != array[:-1]) + 1).tolist(), len(array)]
    for first, end in pairwise(cuts):
        if first < end and array[first] != NO_LABEL:
            yield int(array[first]), first, end
