"""Stills with masks and heat over them, and rows of what is alike: arrays to one picture.

Knows neither models nor videos.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.picture.nearest import CUT, Alike, sized
from clipmill.picture.paint import edge, painted, with_things
from clipmill.picture.seeing import Seen
from clipmill.video import VOID, sheet

WORDS_WIDTH, TITLE_HEIGHT, LINE_HEIGHT, GAP = 220, 26, 24, 4
LEAST_SIDE = 128  # pixels; smaller stills are enlarged
GREEN = np.array((0, 224, 64), np.uint8)
TINT = 1 / 3  # of the colour inside a mask
HEAT = 0.5  # of the colour over a still
COLOURS = np.array([(0, 0, 128), (0, 160, 255), (64, 255, 128), (255, 224, 0), (224, 0, 0)])
TRUTH_NAMES = {"mask": "true mask", "motion": "pseudo mask"}

Picture = NDArray[np.uint8]


def over_stills(shown: Sequence[Seen]) -> list[Picture]:
    """A row a video: the still, its mask or heat over it, and what is known of it."""
    rows = []
    for each in shown:
        pictures = list(_overlays(each))
        heads = [sheet.written([name], LINE_HEIGHT, p.shape[1]) for name, p in pictures]
        columns = [
            np.concatenate([head, picture])
            for head, (_, picture) in zip(heads, pictures, strict=True)
        ]
        rows.append(sheet.beside([_words(each.row, len(columns[0]), each.words), *columns]))
    return rows


def _overlays(each: Seen) -> Iterator[tuple[str, Picture]]:
    still = enlarged(each.picture)
    yield "still", still
    if "heat" in each.outputs:
        yield "heat", heated(still, each.outputs["heat"])
    if "mask" in each.outputs:
        yield "its mask", masked(still, each.outputs["mask"] >= CUT)
        for kind, truth in each.truths.items():
            yield TRUTH_NAMES[kind], masked(still, (truth > 0) & (truth != VOID))
    if "class_scores" in each.outputs:
        yield "its classes", painted(still, each.outputs["class_scores"].argmax(0))
    if each.things is not None:
        yield "its things", with_things(still, each.things, each.classes)
    if "mask" in each.truths and "mask" not in each.outputs:
        yield "true classes", painted(still, each.truths["mask"])


def neighbours(found: Sequence[Alike]) -> list[Picture]:
    """A row a video: the video on the left, those most alike on the right."""
    rows = [sheet.written(["query, and what it finds most alike (cosine)"], TITLE_HEIGHT, 480)]
    for each in found:
        columns = [_named(each.query, "query"), sheet.paper(1, 4 * GAP)]
        columns += [_named(other, f"{cosine:.2f}") for other, cosine in each.found]
        height = max(map(len, columns))
        rows.append(sheet.beside([_words(each.query.row, height), *columns]))
    return rows


def _named(seen: Seen, word: str) -> Picture:
    still = enlarged(seen.picture)
    label = seen.row["label"]
    words = f"{word} {label}" if label is not None else word
    return np.concatenate([still, sheet.written([words], LINE_HEIGHT, still.shape[1])])


def _words(row: Mapping[str, Any], height: int, more: Sequence[str] = ()) -> Picture:
    return sheet.written([row["label"] or "no label", row["key"], *more], height, WORDS_WIDTH)


def masked(still: Picture, mask_HW: NDArray[np.bool_]) -> Picture:
    """A still with a mask as a green tint and a green edge."""
    inside = sized(mask_HW, still.shape[:2]).astype(bool)
    tinted = np.where(inside[..., None], (1 - TINT) * still + TINT * GREEN, still)
    made = tinted.astype(np.uint8)
    made[edge(inside)] = GREEN
    return made


def heated(still: Picture, heat_hw: NDArray[Any]) -> Picture:
    """A still with values over it, from blue, the lowest, to red, the highest."""
    low, high = float(heat_hw.min()), float(heat_hw.max())
    shares = (smooth(heat_hw, still.shape[:2]) - low) / max(high - low, 1e-12)
    stops = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(shares, stops, COLOURS[:, at]) for at in range(3)], axis=-1)
    return np.asarray(((1 - HEAT) * still + HEAT * colours).clip(0, 255), np.uint8)


def smooth(x_hw: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Values at a larger size, straight between the middles of the given places."""
    down, across = (
        ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        for new, old in zip(shape, x_hw.shape, strict=True)
    )
    rows = np.stack([np.interp(across, np.arange(x_hw.shape[1]), row) for row in x_hw])
    columns = [np.interp(down, np.arange(x_hw.shape[0]), column) for column in rows.T]
    return np.stack(columns, axis=1)


# --- the sheet


def enlarged(picture: Picture) -> Picture:
    """A picture as large as can be looked at."""
    times = -(-LEAST_SIDE // min(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def below(title: str, rows: Sequence[Picture]) -> Picture:
    """Rows below a title."""
    width = max(480, *(row.shape[1] for row in rows))
    parts = [sheet.written([title], TITLE_HEIGHT, width)]
    for row in rows:
        parts += [sheet.paper(GAP, width), sheet.wide(row, width)]
    return np.concatenate(parts)
