"""A transfer as a plot: the metric over the fraction of labels, a line a protocol and beginning.

Spreads are upright bars, chance is a grey line, probes are dashed. Drawn from plain data.
"""

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.evidence.pages import percent
from clipmill.video import sheet

WIDTH, HEIGHT = 520, 360  # of the plot, in pixels
LEFT, LINE_HEIGHT, WORDS_WIDTH, LABEL_WIDTH, EDGE = 70, 24, 420, 64, 40
DASH, MARK, BAR = 6, 3, 5  # pixels
TICKS = 5
COLOURS = {"pretrained": (32, 104, 208), "random": (208, 104, 32)}
GREY = (200, 200, 200)

Picture = NDArray[np.uint8]
Row = Mapping[str, Any]
Point = tuple[int, int]  # across, down


def drawn(told: Row) -> Picture:
    """Draw all rows, their legend beside them and the verdict below."""
    rows = told["rows"]
    title = f"{told['source']} on {told['data']}: {rows[0]['metric'] if rows else ''} over labels"
    middle = np.concatenate([_axis(rows), _plot(told), _legend(rows)], axis=1)
    width = middle.shape[1]
    below = [_across(rows, width), *(_words(line, width) for line in told["verdict"])]
    return np.concatenate([_words(title, width), middle, *below])


def series(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The points of each line, by their fraction."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["protocol"], row["begins"]), []).append(row)
    return {name: sorted(own, key=lambda row: float(row["share"])) for name, own in found.items()}


def _plot(told: Row) -> Picture:
    rows = told["rows"]
    canvas = sheet.paper(HEIGHT, WIDTH)
    canvas[[0, -1]], canvas[:, [0, -1]] = GREY, GREY
    low, high = limits(rows)
    if told["chance"] is not None and low <= told["chance"] <= high:
        down = _down(told["chance"], low, high)
        _stroke(canvas, (0, down), (WIDTH - 1, down), GREY)
    for (protocol, begins), own in series(rows).items():
        colour, dashed = COLOURS[begins], protocol == "probe"
        points = [(across(row["share"], rows), _down(row["mean"], low, high)) for row in own]
        for one, other in pairwise(points):
            _stroke(canvas, one, other, colour, dashed=dashed)
        for (x, y), row in zip(points, own, strict=True):
            ends = [_down(row["mean"] + s * row["spread"], low, high) for s in (1, -1)]
            _stroke(canvas, (x, ends[0]), (x, ends[1]), colour)
            for end in ends:
                _stroke(canvas, (x - BAR, end), (x + BAR, end), colour)
            canvas[y - MARK : y + MARK + 1, x - MARK : x + MARK + 1] = colour
    return canvas


def limits(rows: Iterable[Row]) -> tuple[float, float]:
    """What the axis holds: shares from none to all, other figures from the least to the most."""
    ends = [row["mean"] + sign * row["spread"] for row in rows for sign in (1, -1)]
    means = [row["mean"] for row in rows]
    if not ends or (min(means) >= 0 and max(means) <= 1):
        return 0.0, 1.0
    return min(ends), max(max(ends), min(ends) + 1e-9)


def across(share: float, rows: Iterable[Row]) -> int:
    """Where a fraction stands: by its logarithm."""
    logs = [math.log10(row["share"]) for row in rows]
    reach = max(logs) - min(logs)
    place = (math.log10(share) - min(logs)) / reach if reach else 0.5
    return EDGE + round(place * (WIDTH - 2 * EDGE))


def _down(value: float, low: float, high: float) -> int:
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return MARK + round((1 - share) * (HEIGHT - 1 - 2 * MARK))


def _stroke(
    canvas: Picture, one: Point, other: Point, colour: Iterable[int], *, dashed: bool = False
) -> None:
    """A line two pixels wide."""
    count = max(abs(other[0] - one[0]), abs(other[1] - one[1])) + 1
    steps = np.linspace(0, 1, count)
    if dashed:
        steps = steps[(np.arange(count) // DASH) % 2 == 0]
    x, y = (np.rint(a + (b - a) * steps).astype(int) for a, b in zip(one, other, strict=True))
    for right, lower in ((0, 0), (1, 0), (0, 1), (1, 1)):
        canvas[(y + lower).clip(0, HEIGHT - 1), (x + right).clip(0, WIDTH - 1)] = tuple(colour)


def _axis(rows: list[Row]) -> Picture:
    """The figures of the upright axis."""
    low, high = limits(rows)
    canvas = sheet.paper(HEIGHT, LEFT)
    for value in np.linspace(low, high, TICKS).tolist():
        words = f"{value:.0%}" if (low, high) == (0.0, 1.0) else f"{value:.3g}"
        top = min(max(0, _down(value, low, high) - LINE_HEIGHT // 2), HEIGHT - LINE_HEIGHT)
        canvas[top : top + LINE_HEIGHT] = _words(words, LEFT)
    return canvas


def _across(rows: list[Row], width: int) -> Picture:
    """The figures of the lower axis."""
    line = sheet.paper(LINE_HEIGHT, width)
    for share in sorted({row["share"] for row in rows}):
        left = LEFT + across(share, rows) - LABEL_WIDTH // 2
        words = _words(f"{100 * share:.3g} %", LABEL_WIDTH)
        line[:, left : left + LABEL_WIDTH] = np.minimum(line[:, left : left + LABEL_WIDTH], words)
    return line


def _legend(rows: Iterable[Row]) -> Picture:
    """The name of each line with a piece of it, and its last figure."""
    canvas = sheet.paper(HEIGHT, WORDS_WIDTH)
    for place, ((protocol, begins), own) in enumerate(series(rows).items()):
        top = (place + 1) * LINE_HEIGHT
        words = f"{protocol}, {begins}: {percent(own[0])} to {percent(own[-1])}"
        canvas[top : top + LINE_HEIGHT, 50:] = _words(words, WORDS_WIDTH - 50)
        piece = canvas[top + LINE_HEIGHT // 2 - 1 : top + LINE_HEIGHT // 2 + 1, 10:46]
        shown = (np.arange(36) // DASH) % 2 == 0 if protocol == "probe" else np.full(36, True)
        piece[:, shown] = COLOURS[begins]
    return canvas


def _words(text: str, width: int) -> Picture:
    return sheet.written([text], LINE_HEIGHT, width)
