"""Moments of videos: near one another, far apart in the same video, or of another video.

Where spans begin, as whole arrays; the plans of several pretexts are put together of them. Knows
rows and frame numbers, and opens no video.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import PlanError
from clipmill.plugin import Catalog, Draw, Takes, pairs

Rows = NDArray[np.int64]
PARTS = ("anchor", "near", "other")  # the spans of a take, and what their frames are called
NONE = -1


def spans(view: str, record: Rows, first: Rows, length: Rows | int = 1) -> Takes:
    """One span a take; the plan of a run gives the seeds."""
    seeds, places = np.zeros(len(record), np.uint64), np.zeros((len(record), 1), np.int8)
    last = first + np.maximum(length, 1) - 1
    return Takes((view,), record[:, None], places, first[:, None], last[:, None], seeds)


def frames_of(catalog: Catalog, seconds: float, least: int = 1) -> Rows:
    """How many frames of each record so many seconds are, at its own rate; so many at least."""
    fps = catalog.column("fps").astype(np.float64)
    return np.asarray(np.maximum(least, np.rint(seconds * fps)), np.int64)


def videos_of(catalog: Catalog) -> Rows:
    """A number a row that is the same for all parts of one video."""
    names, parent = catalog.numbered("parent")
    return np.where(parent >= 0, parent, len(names) + catalog.records)


def of_other_videos(catalog: Catalog, draw: Draw) -> Rows:
    """A row of another video than each row's own, any with the same chance; NONE without any."""
    videos = videos_of(catalog)
    drawn = pairs(videos, draw, same=0.0)
    found = np.full(len(videos), NONE, np.int64)
    found[drawn.first[~drawn.same]] = drawn.second[~drawn.same]
    return found


def near(first: Rows, rooms: Rows, reach: Rows, draw: Draw) -> Rows:
    """A start at most so many frames from each, before or after it, and never the same one."""
    low, high = np.maximum(0, first - reach), np.minimum(rooms, first + reach)
    place = low + draw.below("near", np.maximum(1, high - low))
    return np.asarray(np.minimum(place + (place >= first), rooms))


def far(first: Rows, rooms: Rows, gap: Rows, draw: Draw) -> Rows:
    """A start at least so many frames from each, any with the same chance.

    Where there is none, that end of the record that is farther away.
    """
    before, after = np.maximum(0, first - gap + 1), np.maximum(0, rooms - first - gap + 1)
    place = draw.below("far", np.maximum(1, before + after))
    found = np.where(place < before, place, first + gap + place - before)
    end = np.where(2 * first > rooms, 0, rooms)
    return np.where(before + after > 0, found, end)


def apart(rooms: Rows, gap: Rows, draw: Draw) -> tuple[Rows, Rows]:
    """Two starts of each record at least so many frames apart, where it has room for that.

    Either is the earlier one as often, so that neither tells by its place in the video which it is.
    """
    free = np.maximum(0, rooms - gap) + 1
    drawn = np.stack([draw.below(f"apart {turn}", free) for turn in (0, 1)])
    early, late = drawn.min(0), np.minimum(drawn.max(0) + gap, rooms)
    turned = draw.uniform("turned", len(rooms)) < 0.5
    return np.where(turned, late, early), np.where(turned, early, late)


@dataclass(frozen=True)
class Against:
    """Moments, and what stands against each: a far one of its video, or one of another video."""

    record: Rows
    first: Rows
    other_record: Rows
    other_first: Rows

    def __len__(self) -> int:
        return len(self.record)

    @property
    def is_far(self) -> NDArray[np.bool_]:
        """Which are of the same video, far in time."""
        return np.asarray(self.record == self.other_record)


def against(
    catalog: Catalog, draw: Draw, *, length: Rows | int, gap: Rows, far_share: float
) -> Against:
    """One moment a record and what stands against it, in this share a far one of its own video.

    A record that has none of the kind drawn has one of the other kind; one that has neither is
    left out. Over all, moments and what stands against them have the same places in their videos.
    """
    rooms = np.maximum(0, catalog.column("frames") - length)
    foreign = of_other_videos(catalog, draw)
    has_far, has_foreign = rooms >= gap, foreign >= 0
    wished = draw.uniform("far kind", len(rooms)) < far_share
    is_far = np.where(wished, has_far, has_far & ~has_foreign)
    first = draw.below("moment", rooms + 1)
    one, other = apart(rooms, gap, draw)
    partner = np.where(is_far, np.arange(len(rooms)), foreign)
    elsewhere = draw.apart("foreign").below("moment", rooms[np.maximum(partner, 0)] + 1)
    there = np.flatnonzero(has_far | has_foreign)
    if not len(there):
        raise lonely(catalog, gap)
    found = Against(
        np.arange(len(rooms)),
        np.where(is_far, one, first),
        partner,
        np.where(is_far, other, elsewhere),
    )
    return Against(*(getattr(found, name)[there] for name in found.__dataclass_fields__))


def against_evenly(
    catalog: Catalog,
    draw: Draw,
    *,
    clips: int,
    length: Rows | int,
    gap: Rows,
    far_share: float,
) -> Against:
    """Evenly spread moments of each record for a test, against far and foreign ones in turn.

    Where training has far ones alone, or none (`far_share` 1 and 0), so has a test.

    Every record is there: one of a single video that is short stands against its farther end.
    """
    rooms = np.maximum(0, catalog.column("frames") - length)
    row = np.repeat(np.arange(len(rooms)), clips)
    turn = np.tile(np.arange(clips), len(rooms))
    first = np.floor(rooms[row] * (turn + 0.5) / clips).astype(np.int64)
    foreign = _of_others_each(catalog, draw, clips)
    away = far(first, rooms[row], gap[row], draw)
    has_far = np.abs(away - first) >= gap[row]
    wished = (turn % 2 == 0) & (far_share > 0) | (far_share == 1)
    is_far = np.where(wished, has_far | (foreign < 0), foreign < 0)
    partner = np.where(is_far, row, foreign)
    elsewhere = draw.apart("foreign").below("moment", rooms[partner] + 1)
    return Against(row, first, partner, np.where(is_far, away, elsewhere))


def _of_others_each(catalog: Catalog, draw: Draw, clips: int) -> Rows:
    """Rows of other videos, one for each of the clips of each record."""
    drawn = [of_other_videos(catalog, draw.apart(f"clip {clip}")) for clip in range(clips)]
    return np.stack(drawn, axis=1).reshape(-1)


def lonely(catalog: Catalog, gap: Rows) -> PlanError:
    """A single video, and too short to have moments that are far apart."""
    seconds = float(catalog.column("frames")[0] / catalog.column("fps")[0])
    wanted = float(gap[0] / catalog.column("fps")[0])
    return PlanError(
        f"one single video of {seconds:.1f} s",
        f"several, or one with moments {wanted:g} s apart",
        "give more videos, or lower model.far_seconds",
    )
