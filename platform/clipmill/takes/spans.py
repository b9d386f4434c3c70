"""Sampling of spans: where in its record a take begins and ends, and what of the frame it shows.

Arrays in, takes out. Knows neither catalogs nor video.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clipmill.takes.chance import BLOCK, Draw
from clipmill.takes.table import Numbers, Takes, narrow
from clipmill.takes.view import View

CROPS = {1: (0,), 3: (1, 2, 3)}  # places of the crop by how many there are


def _table(view: str, record: Numbers, first: Numbers, last: Numbers) -> Takes:
    column = (slice(None), None)
    # The plan gives the seeds, by position. What is one value for all takes takes no memory.
    seeds = np.broadcast_to(np.uint64(0), len(record))
    views = np.broadcast_to(np.int8(0), (len(record), 1))
    record, first, last = (narrow(numbers)[column] for numbers in (record, first, last))
    return Takes((view,), record, views, first, last, seeds)


def random_spans(
    frames: NDArray[np.int64], fps: NDArray[np.float64], view: View, draw: Draw, name: str = "train"
) -> Takes:
    """One span a record, at a random place; a record shorter than the span starts at 0."""
    first, last = np.empty((2, len(frames)), np.int64)
    for at in range(0, len(frames), BLOCK):  # blocks stay in the processor's cache
        block = slice(at, at + BLOCK)
        length = view.span_frames(fps[block])
        first[block] = draw.below("start", np.maximum(1, frames[block] - length + 1), at)
        last[block] = first[block] + length - 1
    return _table(name, np.arange(len(frames)), first, last)


def even_spans(
    frames: NDArray[np.int64],
    fps: NDArray[np.float64],
    view: View,
    clips: int,
    name: str = "test",
    crops: int = 1,
) -> Takes:
    """`clips` spans a record, evenly spread from start to end, each at `crops` places."""
    takes = clips * crops
    length = np.repeat(view.span_frames(fps), takes)
    record = np.repeat(np.arange(len(frames)), takes)
    share = np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])
    room = np.maximum(0, frames[record] - length)
    first = np.floor(room * np.tile(np.repeat(share, crops), len(frames))).astype(np.int64)
    made = _table(name, record, first, first + length - 1)
    if crops > 1:
        places = np.tile(np.array(CROPS[crops], np.int8), clips * len(frames))
        made = replace(made, crop=places)
    return made


def snapped(takes: Takes, every: Numbers) -> Takes:
    """Move each span back to where a multiple of `every` (one number a span) begins it."""
    back = takes.first % np.maximum(every, 1)
    first, last = takes.first - back, takes.last - back
    return replace(takes, first=narrow(first), last=narrow(last))


def frame_numbers(first: int, last: int, count: int, available: int) -> NDArray[np.int64]:
    """The frames of a span that a view shows; past the end the last frame stands still."""
    numbers = np.rint(np.linspace(first, last, count)).astype(np.int64)
    return np.minimum(numbers, available - 1)


def crop_box(
    height: int, width: int, size: int, seed: int, random: bool, crop: int = 0
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop.

    A take that says where (1 to 3) has it at the start, middle or end of the longer side, and
    in the middle of the other; else it lies by the take's seed, or in the middle.
    """
    rooms = max(0, height - size), max(0, width - size)
    if crop:
        along = (crop - 1) / 2
        shares = (along, 0.5) if height > width else (0.5, along)
        top, left = (int(share * room) for share, room in zip(shares, rooms, strict=True))
    elif random:
        drawn = Draw(seed).uniform("crop", 2)
        top, left = (min(int(s * (room + 1)), room) for s, room in zip(drawn, rooms, strict=True))
    else:
        top, left = rooms[0] // 2, rooms[1] // 2
    return top, left, min(size, height), min(size, width)
