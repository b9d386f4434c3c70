"""Words on pictures, pictures side by side and as files, for contact sheets. Knows no videos."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError, VideoError
from clipmill.video.picture import jpeg

Picture = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg")
INK, PAPER = (24, 24, 24), 255
LINE_PIXELS, LETTER_PIXELS, MARGIN_PIXELS = 18, 14, 6
GAP_PIXELS = 4  # between pictures side by side


def paper(height: int, width: int) -> Picture:
    """An empty sheet."""
    return np.full((height, width, 3), PAPER, np.uint8)


def wide(picture: Picture, width: int) -> Picture:
    """A picture with paper on its right up to a width."""
    return np.concatenate([picture, paper(len(picture), width - picture.shape[1])], axis=1)


def beside(parts: Sequence[Picture], gap: int = GAP_PIXELS) -> Picture:
    """Pictures side by side, with a gap between them, and paper below what is lower."""
    height = max(map(len, parts))
    columns = []
    for part in parts:
        rest = paper(height - len(part), part.shape[1])
        columns += [np.concatenate([part, rest]), paper(height, gap)]
    return np.concatenate(columns[:-1], axis=1)


def written(lines: Sequence[str], height: int, width: int) -> Picture:
    """Write lines on white, from the top; what does not fit is cut, and an ellipsis says so."""
    import cv2  # takes a while to load, and few need it

    picture = paper(height, width)
    face = cv2.FontFace("sans")
    room = max(0, (height - MARGIN_PIXELS) // LINE_PIXELS)
    for place, line in enumerate(lines[:room]):
        text = _fitted(line, face, width - 2 * MARGIN_PIXELS)
        at = (MARGIN_PIXELS, MARGIN_PIXELS // 2 + place * LINE_PIXELS + LETTER_PIXELS)
        cv2.putText(picture, text, at, INK, face, LETTER_PIXELS)
    return picture


def _fitted(line: str, face: Any, width: int) -> str:
    import cv2

    def is_within(text: str) -> bool:
        left, _, extent, _ = cv2.getTextSize((0, 0), text, (0, 0), face, LETTER_PIXELS)
        return bool(left + extent <= width)

    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if is_within(line):
        return line
    while line and not is_within(f"{line}…"):
        line = line[:-1]
    return f"{line}…"


def encoded(picture: Picture, suffix: str) -> bytes:
    """Encode an RGB picture for a file of this suffix."""
    import cv2

    if suffix not in SUFFIXES:
        raise UsageError(f"a picture as {suffix or 'nothing'}", f"one of {', '.join(SUFFIXES)}")
    if suffix != ".png":
        return jpeg(picture, 92)
    made, data = cv2.imencode(".png", picture[..., ::-1])
    if not made:
        raise VideoError(f"a picture of {picture.shape} cannot be a PNG", "height, width, 3")
    return bytes(data)
