"""An evidence as one picture: a bar a model on a world with chance and spread, then the claims.

Drawn from plain data.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.evidence.pages import percent, short, verdict_words
from clipmill.video import sheet

NAME_WIDTH, BAR_WIDTH, WORDS_WIDTH, LINE_HEIGHT = 200, 320, 620, 24
VERDICT_WIDTH, CLAIM_WIDTH = 170, 450
WIDTH = NAME_WIDTH + BAR_WIDTH + WORDS_WIDTH
BAR = np.array((96, 160, 240), np.uint8)
GROUND = np.array((232, 232, 232), np.uint8)
COLOURS = {"shown": (200, 236, 200), "refuted": (248, 196, 196), "not run": (232, 232, 232)}

Picture = NDArray[np.uint8]
Row = Mapping[str, Any]


def drawn(told: Row) -> Picture:
    """Draw results and claims below each other."""
    rows: list[Picture] = []
    for world in dict.fromkeys(row["world"] for row in told["rows"]):
        own = [row for row in told["rows"] if row["world"] == world]
        rows.append(_line(_title(world, own[0])))
        rows += [_result(row) for row in own]
    done = f"claims, after {told['trials_done']} of {told['trials']} trials"
    rows.append(_line(done))
    rows += [_claim(row) for row in told["claims"]]
    return np.concatenate(rows)


def _title(world: str, row: Row) -> str:
    chance = "" if row["chance"] is None else f", chance {row['chance']:.1%} (line)"
    return f"{world}: {row['videos']} test videos{chance}"


def _result(row: Row) -> Picture:
    paces = [short(row[name]) for name in ("training_clips_per_second", "test_clips_per_second")]
    seeds = f"{len(row['values'])} seed{'s' if len(row['values']) > 1 else ''}"
    words = (
        f"{percent(row)}, {seeds}, {short(row['parameters'])} parameters,"
        f" {short(row['flops'])}FLOPs a clip, {' and '.join(paces)} clips/s"
    )
    parts = [_words(row["model"], NAME_WIDTH), _bar(row), _words(words, WORDS_WIDTH)]
    return np.concatenate(parts, axis=1)


def _bar(row: Row) -> Picture:
    """The mean as a bar, the spread as a line across its end, chance as an upright line."""
    bar = sheet.paper(LINE_HEIGHT, BAR_WIDTH)
    inner = bar[2:-2]
    inner[:] = GROUND
    inner[:, : _at(row["mean"])] = BAR
    low, high = _at(row["mean"] - row["spread"]), _at(row["mean"] + row["spread"])
    middle = LINE_HEIGHT // 2
    bar[middle - 1 : middle + 1, low : high + 1] = sheet.INK
    if row["chance"] is not None:
        at = min(BAR_WIDTH - 2, _at(row["chance"]))
        bar[:, at : at + 2] = sheet.INK
    return bar


def _at(share: float) -> int:
    return round(min(1.0, max(0.0, share)) * BAR_WIDTH)


def _claim(row: Row) -> Picture:
    verdict = _words(verdict_words(row), VERDICT_WIDTH)
    verdict = np.minimum(verdict, np.array(COLOURS[row["verdict"]], np.uint8))
    figures = _words(row["figures"], WIDTH - VERDICT_WIDTH - CLAIM_WIDTH)
    return np.concatenate([verdict, _words(row["claim"], CLAIM_WIDTH), figures], axis=1)


def _line(title: str) -> Picture:
    """A title with some air above it."""
    air = sheet.paper(LINE_HEIGHT // 2, WIDTH)
    return np.concatenate([air, _words(title, WIDTH)])


def _words(text: str, width: int) -> Picture:
    return sheet.written([text], LINE_HEIGHT, width)
