"""An evaluation as pictures: confusion, classes, calibration, and the worst errors with frames.

Drawn from a result's plain data; only the worst errors open videos.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import feed, storage, video
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError
from clipmill.evaluate import pairs
from clipmill.evaluate.figures import BINS
from clipmill.video import sheet

NAME_WIDTH, BAR_WIDTH, LINE_HEIGHT, TITLE_HEIGHT = 200, 300, 24, 26
CELL_SIDE, SMALLEST_SIDE, MATRIX_SIDE = 44, 4, 960  # pixels
PLOT_SIDE = 300
FRAMES, FRAME_SIDE, GAP = 4, 112, 4
FULL = np.array((96, 160, 240), np.float64)  # the colour of a whole; words on it stay readable
LINE = np.array((208, 208, 208), np.uint8)

Picture = NDArray[np.uint8]


def draw(result: Mapping[str, Any], folder: str, catalog: Catalog | None = None) -> list[str]:
    """Write the pictures of an evaluation into a folder; with the catalog the worst errors, too."""
    told = result.get("figures")
    if not told:
        return []
    made = {}
    if "distances" in told:
        made["distances.png"] = pairs.drawn(told["distances"])
        if catalog is not None:
            made["hardest.png"] = pairs.hardest(told["hardest"], catalog)
    if "by_class" in told:
        made["classes.png"] = classes(told["by_class"])
        made["calibration.png"] = calibration(told["calibration"])
    if "confusion" in told:  # what has several classes is in no such matrix
        made["confusion.png"] = confusion(told["confusion"])
    if catalog is not None and told.get("worst"):
        made["worst.png"] = worst(told["worst"], catalog)
    files = []
    for name, picture in made.items():
        files.append(storage.join(storage.absolute(folder), name))
        storage.put(files[-1], sheet.encoded(picture, ".png"))
    return files


def confusion(told: Mapping[str, Any]) -> Picture:
    """A row a true class, a column a told one by its number; the colour is the share of the row."""
    counts, names = np.array(told["counts"]), told["classes"]
    side = max(SMALLEST_SIDE, min(CELL_SIDE, MATRIX_SIDE // len(names)))
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    colours = sheet.PAPER + shares[..., None] * (FULL - sheet.PAPER)
    cells = colours.astype(np.uint8).repeat(side, axis=0).repeat(side, axis=1)
    title = ["rows: true classes, columns: told ones"]
    if side < LINE_HEIGHT:
        return _below(title, [cells])
    cells[side - 1 :: side], cells[:, side - 1 :: side] = LINE, LINE
    for row, column in np.argwhere(counts).tolist():
        place = cells[row * side :, column * side :][: side - 1, : side - 1]
        words = sheet.written([str(counts[row, column])], side, side)[: side - 1, : side - 1]
        np.minimum(place, words, out=place)
    rows = [sheet.written([f"{at} {name}"], side, NAME_WIDTH) for at, name in enumerate(names, 1)]
    heads = [sheet.written([str(at)], LINE_HEIGHT, side) for at in range(1, len(names) + 1)]
    top = sheet.beside([sheet.paper(LINE_HEIGHT, NAME_WIDTH), *heads], gap=0)
    return _below(title, [top, sheet.beside([np.concatenate(rows), cells], gap=0)])


def classes(told: Sequence[Mapping[str, Any]]) -> Picture:
    """A bar a class: how many of its videos or frames are told rightly, the worst first."""
    rows = []
    for share, each in sorted(((_right(row), row) for row in told), key=_by_share_and_name):
        words = [f"{share:.1%} of {each.get('videos', each.get('frames'))}"]
        bar = _bar(share, BAR_WIDTH, LINE_HEIGHT - 4)
        bar = np.concatenate([bar, sheet.paper(4, BAR_WIDTH)])
        name = sheet.written([each["name"]], LINE_HEIGHT, NAME_WIDTH)
        rows.append(sheet.beside([name, bar, sheet.written(words, LINE_HEIGHT, NAME_WIDTH)], gap=0))
    return _below(["rightly told, by class"], rows)


def _right(row: Mapping[str, Any]) -> float:
    """The share of a class that is told rightly; of one that no video has nothing is."""
    return float(row.get("accuracy", row.get("recall")) or 0.0)


def _by_share_and_name(pair: tuple[float, Mapping[str, Any]]) -> tuple[float, str]:
    return pair[0], str(pair[1]["name"])


def calibration(told: Mapping[str, Any]) -> Picture:
    """How often answers of a confidence are right: on the line where it is as often as it says."""
    plot = sheet.paper(PLOT_SIDE, PLOT_SIDE)
    width = PLOT_SIDE // BINS
    for each in told["bins"]:
        left = round(each["low"] * BINS) * width
        height = round(each["accuracy"] * PLOT_SIDE)
        plot[PLOT_SIDE - height :, left + 1 : left + width - 1] = FULL.astype(np.uint8)
    along = np.arange(PLOT_SIDE)
    plot[PLOT_SIDE - 1 - along, along] = 0
    plot[[0, -1]], plot[:, [0, -1]] = LINE, LINE
    title = [f"right over confidence, expected error {told['error']:.3f}"]
    return _below(title, [sheet.wide(plot, PLOT_SIDE + BAR_WIDTH)])


def worst(told: Sequence[Mapping[str, Any]], catalog: Catalog) -> Picture:
    """A row an error: what it is, what it was told to be, and some frames of the video."""
    place_of = {key: place for place, key in enumerate(catalog.keys)}
    rows = []
    for each in told:
        words = [
            _true(each),
            f"told as {each['label']} ({each['probability']:.1%})",
            each["key"],
        ]
        row = catalog.row(place_of[each["key"]]) if each["key"] in place_of else None
        if row and "frame" in each:
            words.append(f"at {each['frame'] / row['fps']:.1f} s")
        strip = _frames(row, each.get("frame")) if row else None
        strip = sheet.paper(FRAME_SIDE, FRAME_SIDE) if strip is None else strip
        rows += [sheet.beside([sheet.written(words, FRAME_SIDE, BAR_WIDTH), strip], gap=0)]
        rows += [sheet.paper(GAP, 1)]
    return _below(["wrong answers, the surest first"], rows)


def _true(each: Mapping[str, Any]) -> str:
    share = each.get("target_probability")
    return str(each["target"]) if share is None else f"{each['target']} ({share:.1%})"


def _frames(row: Mapping[str, Any], middle: int | None = None) -> Picture | None:
    """Frames of a video, or of the second around one of them."""
    first, last = 0, row["frames"] - 1
    if middle is not None:
        reach = max(1, round(row["fps"] / 2))
        first, last = max(first, middle - reach), min(last, middle + reach)
    numbers = np.linspace(first, last, FRAMES).round().astype(np.int64)
    height, width = video.scaled_size(row["height"], row["width"], FRAME_SIDE)
    try:
        frames = feed.Stored(row).pictures(numbers, FRAME_SIDE, (0, 0, height, width))
    except ClipmillError:
        return None
    upright = np.concatenate(list(frames), axis=1)
    return upright[:FRAME_SIDE]  # of a portrait the upper part


def _bar(share: float, width: int, height: int) -> Picture:
    bar = np.full((height, width, 3), LINE, np.uint8)
    bar[:, : round(share * width)] = FULL.astype(np.uint8)
    return bar


def _below(title: Sequence[str], rows: Sequence[Picture]) -> Picture:
    width = max(NAME_WIDTH + BAR_WIDTH, *(row.shape[1] for row in rows))
    rows = [sheet.wide(row, width) for row in rows]
    return np.concatenate([sheet.written(title, TITLE_HEIGHT, width), *rows])
