"""What distances of pairs tell beside a metric: how they lie, and the pairs that are hardest.

Plain numbers from plain numbers, and pictures of them; only the hardest pairs open videos. Kinds
are numbers: 0 is two of one identity, all others are of two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.evaluate.stills import still
from clipmill.video import sheet

HARDEST = 12  # pairs that are shown, of those of one and of those of two each
BINS = 40
PLOT_HEIGHT, BAR_WIDTH = 160, 14
TITLE_HEIGHT, WORDS_WIDTH, SIDE, GAP = 26, 300, 128, 4
KINDS = ("of one", "of two alike", "of two")
COLOURS = np.array([(96, 160, 240), (232, 120, 88), (240, 196, 120)], np.uint8)

Picture = NDArray[np.uint8]
Row = Mapping[str, Any]


def pair_figures(
    rows: Sequence[Row], answers: Sequence[Row], threshold: float | None
) -> dict[str, Any]:
    """How the distances of each kind of pair lie, and those that are most misleading."""
    pairs = [pair for row, answer in zip(rows, answers, strict=True) for pair in _led(row, answer)]
    away = np.concatenate([answer["distances"] for answer in answers])
    kinds = np.concatenate([answer["kinds"] for answer in answers])
    edges = np.linspace(away.min(), max(away.max(), away.min() + 1e-9), BINS + 1)
    counts = [np.histogram(away[kinds == at], edges)[0].tolist() for at in range(len(KINDS))]
    same = sorted((p for p in pairs if p["kind"] == KINDS[0]), key=lambda p: -p["distance"])
    others = sorted((p for p in pairs if p["kind"] != KINDS[0]), key=lambda p: p["distance"])
    return {
        "distances": {"edges": edges.tolist(), "counts": counts, "threshold": threshold},
        "hardest": [*_once(same), *_once(others)],
    }


def _led(row: Row, answer: Row) -> list[dict[str, Any]]:
    """The pairs that a video leads."""
    columns = (answer[name].tolist() for name in ("others", "distances", "kinds", "frames"))
    return [
        {"key": row["key"], "other": other, "distance": away, "kind": KINDS[kind], "frames": frames}
        for other, away, kind, frames in zip(*columns, strict=True)
    ]


def _once(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first pairs, each two videos once."""
    found: dict[frozenset[str], dict[str, Any]] = {}
    for pair in pairs:
        found.setdefault(frozenset((pair["key"], pair["other"])), pair)
        if len(found) == HARDEST:
            break
    return list(found.values())


# --- pictures


def drawn(told: Row) -> Picture:
    """How many pairs of each kind lie at each distance; the line is the threshold."""
    counts = np.array(told["counts"], np.float64)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    tallest, width = max(shares.max(), 1e-9), BINS * BAR_WIDTH
    plot = sheet.paper(PLOT_HEIGHT, width)
    heights = np.rint(shares / tallest * (PLOT_HEIGHT - 4)).astype(int)
    third = BAR_WIDTH // len(KINDS)
    for kind, column in np.ndindex(heights.shape):
        left = column * BAR_WIDTH + kind * third
        plot[PLOT_HEIGHT - heights[kind, column] :, left : left + third - 1] = COLOURS[kind]
    low, high = told["edges"][0], told["edges"][-1]
    title = f"distances of pairs, {low:.3g} to {high:.3g}"
    if told["threshold"] is not None:
        at = round((told["threshold"] - low) / (high - low) * (width - 2))
        at = min(max(at, 0), width - 2)
        plot[:, at : at + 2] = sheet.INK
        title += f"; up to the line, {told['threshold']:.3g}, two are told to be one"
    words = [f"{name}: {int(count)}" for name, count in zip(KINDS, counts.sum(1), strict=True)]
    legend = [_legend(word, colour) for word, colour in zip(words, COLOURS, strict=True)]
    rows = [
        sheet.written([title], TITLE_HEIGHT, width),
        plot,
        sheet.wide(sheet.beside(legend), width),
    ]
    return np.concatenate(rows)


def _legend(word: str, colour: NDArray[np.uint8]) -> Picture:
    words = sheet.written([word], TITLE_HEIGHT, 180)
    words[4:-4, :4] = colour
    return words


def hardest(told: Sequence[Row], catalog: Catalog) -> Picture:
    """A row a pair: both videos at the frames that were compared, and what they are."""
    place_of = {key: place for place, key in enumerate(catalog.keys)}
    rows = [sheet.written(["hardest pairs: those of one far apart, then those of two near"],
                          TITLE_HEIGHT, WORDS_WIDTH + 2 * SIDE)]  # fmt: skip
    for each in told:
        sides = [
            catalog.row(place_of[each[side]]) if each[side] in place_of else None
            for side in ("key", "other")
        ]
        words = [f"{each['kind']}, {each['distance']:.3f} apart", *map(_words, sides)]
        stills = [
            still(row, at, SIDE) if row else sheet.paper(SIDE, SIDE)
            for row, at in zip(sides, each["frames"], strict=True)
        ]
        rows += [sheet.beside([sheet.written(words, SIDE, WORDS_WIDTH), *stills])]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [part for row in rows for part in (sheet.wide(row, width), sheet.paper(GAP, width))]
    )


def _words(row: Row | None) -> str:
    if row is None:
        return "not in this dataset"
    who = row["identity"] if row["identity"] is not None else "no identity"
    return " · ".join(filter(None, (who, row["label"], row["key"])))
