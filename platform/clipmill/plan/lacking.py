"""What records lack of what takes ask for, in sentences; the feed keeps to these rules.

Told by the takes themselves: whoever fits takes to videos is told of no short ones. Knows no feed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.plan.epochs import Plan
from clipmill.takes import Draw, Numbers, Takes, View

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class _Spans:
    """The spans of a view, a row each, of all records."""

    record: Numbers
    first: Numbers
    last: Numbers

    def marked(self, which: Flags, catalog: Catalog) -> Flags:
        """The records that have one of these spans."""
        marks = np.zeros(len(catalog), np.bool_)
        marks[self.record[which]] = True
        return marks


def lacking(plan: Plan) -> list[str]:
    """Tell how many videos lack what, and what is done then."""
    # Drawn anew: an epoch of a sampling may leave records out.
    takes = plan.plugin.plan(plan.catalog, plan.stage, Draw(plan.seed))
    views = plan.plugin.views()
    seen = [views[name] for name in takes.views]
    told: dict[str, None] = {}
    for view in dict.fromkeys(seen):
        spans = _spans(takes, np.array([view == each for each in seen]))
        for lacks, text in _rules(plan.catalog, view, spans):
            if count := int(np.count_nonzero(lacks)):
                told[f"{count} of {len(plan.catalog)} videos are {text}"] = None
    return list(told)


def _spans(takes: Takes, of_view: Flags) -> _Spans:
    chosen = (takes.record >= 0) & of_view[takes.view]
    return _Spans(takes.record[chosen], takes.first[chosen], takes.last[chosen])


def _rules(catalog: Catalog, view: View, spans: _Spans) -> Iterator[tuple[NDArray[Any], str]]:
    frames, fps = catalog.column("frames"), catalog.column("fps")
    over = spans.marked(spans.last >= frames[spans.record], catalog)
    if set(view.streams) != {"audio"}:
        length = spans.last - spans.first + 1
        again, asked = length < view.frames, view.span_frames(fps)[spans.record]
        slow = spans.marked(again & (length == asked), catalog)
        few = spans.marked(again & (length != asked), catalog)
        yield over, "shorter than a clip: their last frame stands still"
        yield slow, f"of fewer than {view.rate:g} frames a second: frames repeat"
        yield few, f"of fewer than {view.frames} frames: frames repeat"
    if set(view.streams) - {"audio", "features"}:
        side = np.minimum(catalog.column("height"), catalog.column("width"))
        yield side < view.resize, f"smaller than {view.resize} pixels: they are scaled up"
    if {"mask", "instances"} & set(view.streams):
        yield ~catalog.has("masks_sha256"), "without masks: all is void"
    if "audio" in view.streams:
        yield catalog.column("has_audio") != True, "without sound: it is silence"  # noqa: E712
        yield over, "shorter than a clip: their sound ends in silence"
