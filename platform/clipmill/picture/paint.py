"""Numbers as colours over a still: classes of places, and things with their numbers.

The same number has the same colour wherever it is drawn. Knows neither models nor videos.
"""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import video
from clipmill.picture.nearest import sized
from clipmill.video import sheet

GOLDEN = (5**0.5 - 1) / 2  # turns of the colour circle that bring ever new colours
STRENGTH = 0.5  # of a colour over the still
NAME_HEIGHT, NAME_WIDTH = 24, 96
GREY = (128, 128, 128)

Picture = NDArray[np.uint8]
Thing = Mapping[str, Any]


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a class or a thing; what is void is grey."""
    if number == video.VOID:
        return GREY
    shares = colorsys.hsv_to_rgb((number * GOLDEN) % 1, 0.9, 1.0)
    red, green, blue = (round(255 * share) for share in shares)
    return red, green, blue


def painted(still: Picture, numbers_HW: NDArray[Any]) -> Picture:
    """A still with each number's places in its colour and with an edge; 0 stays as it is."""
    numbers = sized(np.asarray(numbers_HW).astype(np.int64), still.shape[:2])
    made = still.copy()
    for number in np.unique(numbers[numbers > 0]).tolist():
        _over(made, numbers == number, number)
    return made


def with_things(still: Picture, things: Sequence[Thing], classes: Sequence[str]) -> Picture:
    """A still with the things that have numbers, the surest on top, each with its name."""
    made = still.copy()
    known = [thing for thing in reversed(things) if thing["id"]]
    for thing in known:
        plane = video.plane_of(thing["mask"], tuple(thing["mask"]["size"]))
        _over(made, sized(plane, still.shape[:2]).astype(bool), thing["id"])
    for thing in known:
        _name(made, thing, classes)
    return made


def _over(picture: Picture, inside_HW: NDArray[np.bool_], number: int) -> None:
    colour = np.array(colour_of(number))
    tinted = (1 - STRENGTH) * picture[inside_HW] + STRENGTH * colour
    picture[inside_HW] = tinted.astype(np.uint8)
    picture[edge(inside_HW)] = colour


def edge(inside_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The places of a mask that touch what is none of it; the picture's own edge does not count."""
    around = np.pad(inside_HW, 1, mode="edge")
    deep = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.asarray(inside_HW & ~deep)


def _name(picture: Picture, thing: Thing, classes: Sequence[str]) -> None:
    """Write number and class of a thing above its box, as far as that is within the picture."""
    height, width = picture.shape[:2]
    words = sheet.written(
        [f"{thing['id']}: {classes[thing['class'] - 1]}"], NAME_HEIGHT, NAME_WIDTH
    )
    ink = words.min(2) < 128
    inked = np.flatnonzero(ink.any(0))
    words = words[:, : int(inked.max(initial=0)) + 4]
    left, top, _, _ = thing["box"]
    x = int(np.clip(left * width, 0, max(0, width - words.shape[1])))
    y = int(np.clip(top * height - NAME_HEIGHT, 0, max(0, height - NAME_HEIGHT)))
    place = picture[y : y + NAME_HEIGHT, x : x + words.shape[1]]
    np.copyto(place, words[: place.shape[0], : place.shape[1]])
