"""Decodes a part of a video and no more: from the key frame before its start up to its end.

Where packets do not tell when frames are shown, from the beginning. Knows nothing of what is
made of the frames.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, takewhile

import numpy as np
from av.video.frame import VideoFrame

from clipmill.errors import UsageError, VideoError
from clipmill.video.audio import stamp_seconds
from clipmill.video.facts import first_frame
from clipmill.video.scan import Scan, is_disposable, scan, unit_prefix_bytes
from clipmill.video.source import (
    Opened,
    Source,
    decoded_frames,
    frames_of,
    last_frames,
    opened,
)
from clipmill.video.timing import ROUNDING_SECONDS, Ending, Stopped, clock_for

RUN_UP_FRAMES = 2  # given before a part, for a filter that looks back

Shown = Iterator[tuple[float, VideoFrame]]  # seconds since the source's first frame, its frame


@dataclass(frozen=True)
class Span:
    """A part of a video, in seconds since its first frame."""

    start_seconds: float = 0.0
    end_seconds: float | None = None  # None: as far as it goes

    def __post_init__(self) -> None:
        start, end = self.start_seconds, self.end_seconds
        if not (0 <= start < np.inf and (end is None or start < end < np.inf)):
            raise UsageError(f"a span from {start} to {end} s", "0 <= start < end")

    def begins_before_end(self, seconds: float) -> bool:
        """Tell whether a frame that is shown from then on is shown within the span."""
        return self.end_seconds is None or seconds < self.end_seconds - ROUNDING_SECONDS

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing is cut."""
        return self.start_seconds == 0 and self.end_seconds is None

    def refuse_beyond(self, name: str, duration_seconds: float) -> None:
        """Refuse a span that the video does not hold."""
        last = self.start_seconds if self.end_seconds is None else self.end_seconds
        slack = ROUNDING_SECONDS if self.end_seconds is not None else -ROUNDING_SECONDS
        if last <= duration_seconds + slack:
            return
        if self.is_whole:
            raise VideoError(
                f"{name}: its frames last {duration_seconds:.3f} s",
                "a video of some time",
                "check that it plays, or leave it out",
            )
        raise VideoError(
            f"{name}: a span from {self.start_seconds:g} s to {last:g} s",
            f"a part of its {duration_seconds:.3f} s",
        )


@dataclass(frozen=True)
class Pictures:
    """The frames of a span, or of all, and the clock on which they come."""

    video: Opened
    shown: Shown  # may begin with frames that are over when the span begins
    first: VideoFrame
    origin_seconds: float  # stamp of the video's first frame
    clock: Ending


def pictures_of(stack: ExitStack, source: Source, span: Span) -> Pictures:
    """Give the frames of a span; files stay open as long as the stack."""
    if not span.is_whole:
        video = stack.enter_context(opened(source))
        assert video.pictures  # its first size is taken before packets change it
        table = scan(video, source)
        if table is not None:
            span.refuse_beyond(video.name, table.duration_seconds)
            if pictures := _sought(video, table, span):
                return pictures
    return _from_the_beginning(stack.enter_context(opened(source)), span)


def _from_the_beginning(video: Opened, span: Span) -> Pictures:
    """Decode from the first frame up to the first one that is shown after the span."""
    frames = decoded_frames(video)
    first = first_frame(video, next(frames, None))
    clock = clock_for(video.pictures.time_base, video.pictures.average_rate)
    shown = ((clock.seconds(f.pts, f.duration), f) for f in chain([first], frames))
    within = takewhile(lambda each: span.begins_before_end(each[0]), shown)
    return Pictures(video, within, first, stamp_seconds(first.pts, video), clock)


def _sought(video: Opened, table: Scan, span: Span) -> Pictures | None:
    """Decode from the key frame before the span; None if that does not give its first frame."""
    low = max(0, int(np.searchsorted(table.seconds, span.start_seconds + ROUNDING_SECONDS)) - 1)
    ends = [span.begins_before_end(seconds) for seconds in table.seconds[low:].tolist()]
    high = max(low + 1, low + sum(ends))
    frames = _frames_between(video, table, low, high)
    before: deque[tuple[float, VideoFrame]] = deque(maxlen=RUN_UP_FRAMES)
    for seconds, frame in frames:
        if seconds >= table.seconds[low]:
            break
        before.append((seconds, frame))
    else:
        return None
    if seconds > table.seconds[low]:
        return None
    shown = chain(before, [(seconds, frame)], frames)
    origin = stamp_seconds(int(table.pts[table.shown[0]]), video)
    return Pictures(video, shown, frame, origin, Stopped(table.duration_seconds))


def _frames_between(video: Opened, table: Scan, low: int, high: int) -> Shown:
    """Decode the frames from number `low` up to `high`, and what they lean on before them."""
    video.undecodable_packets = 0  # a fault elsewhere in the file is none of the span
    start, prefix_bytes = table.start_for(int(table.shown[low])), unit_prefix_bytes(video.pictures)
    wanted = set(table.shown[max(0, low - RUN_UP_FRAMES) : high].tolist())
    seconds = dict(
        zip(table.pts[table.shown[:high]].tolist(), table.seconds.tolist(), strict=False)
    )
    numbered = zip(range(start, max(wanted) + 1), table.packets_from(video, start), strict=False)
    for number, packet in numbered:
        # Frames shown before the key frame lean on what was not fed.
        leading = start > 0 and packet.pts is not None and packet.pts < table.pts[start]
        if leading or (number not in wanted and is_disposable(packet, prefix_bytes)):
            continue
        for frame in frames_of(video, packet):
            if frame.pts in seconds:
                yield seconds[frame.pts], frame
    for frame in last_frames(video):
        if frame.pts in seconds:
            yield seconds[frame.pts], frame
