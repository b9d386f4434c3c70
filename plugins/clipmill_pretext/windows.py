"""Windows of videos where much moves, and the takes whose spans lie in them.

A share from 0 to 1 says where in its record a window lies: at that quantile of all motion, or of
time where motion was not measured. Arrays in, takes out; opens no video.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipmill.plugin import Catalog, Draw, Stage, Takes
from clipmill.takes import CROPS
from clipmill.video import CURVE_SECONDS

Numbers = NDArray[np.int64]
Shares = NDArray[np.float64]
MOST_TURNS = 1 << 20  # of a record at test


@dataclass(frozen=True)
class Slots:
    """The takes of an epoch before they have spans."""

    stage: Stage
    row: Numbers  # of the catalog, for each take
    turn: Numbers  # which of its record's takes it is
    turns: int  # how many of them there are, places of the crop aside
    crop: NDArray[np.int8]
    draw: Draw
    number: Numbers  # of each record of the catalog, by its key; none in training

    def __len__(self) -> int:
        return len(self.row)

    def shares(self, name: str) -> Shares:
        """Numbers from 0 to 1: by chance in training, in the middle of even parts at test.

        A test's come in an order of their own for each name and record, so that nothing asked in
        turn is asked at one place of all videos, or is told by another share.
        """
        if self.stage == "train":
            return self.draw.uniform(name, len(self))
        numbers = self.number[:, None] * MOST_TURNS + np.arange(self.turns)
        chance = Draw(0).bits(f"turn of {name}", numbers.ravel()).reshape(numbers.shape)
        place = chance.argsort(1, kind="stable").argsort(1, kind="stable")
        return np.asarray((place[self.row, self.turn] + 0.5) / self.turns)

    def kinds(self, name: str, count: int, every: int = 1) -> Numbers:
        """Numbers below `count`: by chance in training; at test each has its turn for `every` takes.

        So a test asks each kind as often, and the same of a video whatever is tested beside it.
        """
        if self.stage == "train":
            return self.draw.below(name, np.full(len(self), count))
        return np.asarray(self.turn // every % count)

    def takes(self, views: tuple[str, ...], view: Numbers, first: Numbers, last: Numbers) -> Takes:
        """The takes with their spans [takes, spans]; `view` are places in `views`."""
        record = np.repeat(self.row[:, None], first.shape[1], axis=1)
        kinds = np.broadcast_to(view, first.shape).astype(np.int8)
        # The plan gives the seeds, by position.
        return Takes(views, record, kinds, first, last, np.zeros(len(self), np.uint64), self.crop)


def slots(catalog: Catalog, stage: Stage, draw: Draw, clips: int, crops: int) -> Slots:
    """One take a record in training, `clips` of them at test, each at `crops` places."""
    if stage == "train":
        clips = crops = 1
    row = np.repeat(np.arange(len(catalog)), clips * crops)
    turn = np.tile(np.repeat(np.arange(clips), crops), len(catalog))
    crop = np.tile(np.array(CROPS[crops], np.int8), clips * len(catalog))
    keys = [] if stage == "train" else catalog.keys.picked(np.arange(len(catalog)))
    number = np.array([zlib.crc32(key.encode()) for key in keys], np.int64)
    # Of its own: a plan puts takes in order by chance of such names.
    return Slots(stage, row, turn, clips, crop, draw.apart("slots"), number)


def starts(catalog: Catalog, lengths: Numbers, row: Numbers, shares: Shares) -> Numbers:
    """First frames of windows in records, one for each share; `lengths` are those of each record.

    Windows begin where they are chosen with a chance that grows as what moves in them.
    """
    room = np.maximum(0, catalog.column("frames") - lengths)
    even = np.minimum((shares * (room[row] + 1)).astype(np.int64), room[row])
    edges, curve = catalog.lists("motion_curve")
    if not len(curve):
        return np.asarray(even)
    step = catalog.column("fps").astype(np.float64) * CURVE_SECONDS  # frames that a score is of
    upto = np.concatenate([[0.0], np.cumsum(_scores(edges, curve, lengths, room, step))])
    before, total = upto[edges[:-1]], np.diff(upto[edges])
    wanted = before[row] + shares * total[row]
    place = np.clip(np.searchsorted(upto, wanted, side="right") - 1, 0, len(curve) - 1)
    own = upto[place + 1] - upto[place]
    inside = (wanted - upto[place]) / np.where(own > 0, own, 1.0)
    moved = ((place - edges[row] + np.clip(inside, 0, 1)) * step[row]).astype(np.int64)
    return np.asarray(np.where(total[row] > 0, np.clip(moved, 0, room[row]), even))


def _scores(
    edges: Numbers, curve: NDArray[np.float32], lengths: Numbers, room: Numbers, step: Shares
) -> Shares:
    """What moves in the window from each half second on; 0 where none can begin."""
    owner = np.repeat(np.arange(len(lengths)), np.diff(edges))
    place = np.arange(len(curve))
    covered = np.maximum(1, np.rint(lengths / step)).astype(np.int64)[owner]
    upto = np.concatenate([[0.0], np.cumsum(curve, dtype=np.float64)])
    moves = upto[np.minimum(place + covered, edges[1:][owner])] - upto[place]
    begins = (place - edges[:-1][owner]) * step[owner]
    return np.where(begins <= room[owner], np.maximum(moves, 0.0), 0.0)


def unmeasured(catalog: Catalog) -> list[str]:
    """Say of how many records it is not known where they move, for `Plugin.remarks`."""
    count = int(np.count_nonzero(np.diff(catalog.lists("motion_curve")[0]) == 0))
    told = "their takes lie anywhere, not where much moves; run ingest with --motion"
    return [f"of {count} of {len(catalog)} videos motion was never measured: {told}"] * bool(count)
