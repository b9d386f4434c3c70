"""Spans of classes: from seconds of a source to frames of a record, and what is odd about them.

A span that reaches beyond its video is cut there, one that lies beyond is left out. Spans may
overlap: what a frame's class is then is for readers to say (see catalog.frame_targets). Frames
that no span covers have no class, unless the ingest was given one for them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.ingest.sources import Span

Told = dict[str, Any]
ROUNDING_SECONDS = 0.1  # of those who write down where a video ends


def in_frames(
    spans: Iterable[Told], times_seconds: NDArray[np.float64], background: str | None = None
) -> list[Told]:
    """Spans in seconds of the source as first and last frames of the record, in their order."""
    told = []
    for span in spans:
        first = int(np.searchsorted(times_seconds, span["start_seconds"], "left"))
        last = int(np.searchsorted(times_seconds, span["end_seconds"], "left")) - 1
        if first <= last:
            told.append(_span(span["label"], first, last))
    if background is None:
        return told
    return sorted([*told, *_between(told, len(times_seconds), background)], key=_first)


def _span(label: str, first: int, last: int) -> Told:
    return {"label": label, "first_frame": first, "last_frame": last}


def _first(span: Told) -> int:
    return int(span["first_frame"])


def _between(spans: Iterable[Told], frames: int, label: str) -> Iterator[Told]:
    """Spans of all that no other covers."""
    bare = np.ones(frames, np.bool_)
    for span in spans:
        bare[span["first_frame"] : span["last_frame"] + 1] = False
    edges = np.flatnonzero(np.diff(bare, prepend=False, append=False)).tolist()
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        yield _span(label, first, end - 1)


def beyond(spans: Sequence[Span], duration_seconds: float) -> int:
    """How many spans reach beyond the end of their video."""
    return sum(span.end_seconds > duration_seconds + ROUNDING_SECONDS for span in spans)


def overlapping(spans: Sequence[Span]) -> int:
    """How many spans begin before one that began earlier has ended; they come in order."""
    count, latest = 0, 0.0
    for span in spans:
        count += span.start_seconds < latest
        latest = max(latest, span.end_seconds)
    return count
