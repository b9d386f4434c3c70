"""Masks as COCO's JSON tells them: polygons or run lengths of each thing of each frame.

Of things that cover the same pixels the smaller is in front; a crowd is void, as nobody says which
thing it is. A thing keeps its number where `track_id` (or `instance_id`) tells it. Numbers and
outlines in, planes out; knows no video.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from clipmill.errors import ClipmillError, VideoError
from clipmill.video.masks import MOST_CLASSES, MOST_THINGS, VOID, Planes
from clipmill.video.source import MAX_PIXELS

JSON_BYTES = 1 << 28
LARGEST = 1 << 15  # side of a picture, and how far a corner may lie outside
LEAST_CORNERS = 3
WANTED = "COCO's lists: images, annotations, categories"
TRACKS = ("track_id", "instance_id")

Plane = npt.NDArray[np.bool_]
Size = tuple[int, int]  # height, width


def is_json(path: str) -> bool:
    """Tell whether a file is JSON, by what it begins with."""
    with open(path, "rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"


@dataclass(frozen=True)
class Shape:
    """A thing in a frame, as it is told."""

    kind: int  # class
    thing: int
    told: Any
    what: str  # it is called in an error


@dataclass(frozen=True)
class Drawn:
    """The frames of a video, each with what is in it."""

    sizes: Sequence[Size]
    shapes: Sequence[Sequence[Shape]]

    def __len__(self) -> int:
        return len(self.sizes)

    def at(self, numbers: Sequence[int]) -> Iterator[Planes]:
        """Draw some of them."""
        for number in numbers:
            yield planes_of_shapes(self.shapes[number], self.sizes[number])


def read_drawn(path: str, classes: Mapping[str, int], order: Callable[[str], Any]) -> Drawn:
    """Read a file; `classes` are the numbers of names, without which a category's id is its number.

    Frames are in the order of `frame_id`, where all have one, or of their files' names.
    """
    if os.path.getsize(path) > JSON_BYTES:
        raise VideoError("its masks are too large", f"at most {JSON_BYTES} bytes of JSON")
    try:
        return _drawn(json.loads(Path(path).read_bytes()), classes, order)
    except ClipmillError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise VideoError(f"its masks cannot be read as JSON: {told:.200}", WANTED) from error


def _drawn(data: Any, classes: Mapping[str, int], order: Callable[[str], Any]) -> Drawn:
    images = _ordered(list(data["images"]), order)
    numbers = {_number(each["id"], "id of an image"): at for at, each in enumerate(images)}
    if len(numbers) < len(images):
        raise VideoError("two images of its masks have the same id", "one for each frame")
    known = {each["id"]: _class_of(each, classes) for each in data["categories"]}
    sizes = [_size(each["height"], each["width"]) for each in images]
    shapes: list[list[Shape]] = [[] for _ in images]
    told = list(data["annotations"])
    tracked = all(_track(each) is not None for each in told)
    for place, each in enumerate(told, 1):
        what = f"annotation {each.get('id', place)} of its masks"
        if each["image_id"] not in numbers or each["category_id"] not in known:
            _refuse(what, "is of an image or a category that is not told")
        kind = VOID if each.get("iscrowd") else known[each["category_id"]]
        thing = _track(each) if tracked else place
        if kind == VOID:
            thing = 0
        elif not 1 <= (thing or 0) <= MOST_THINGS:
            _refuse(what, f"is the thing {thing}", f"a track_id from 1 to {MOST_THINGS}")
        shapes[numbers[each["image_id"]]].append(
            Shape(kind, thing or 0, each["segmentation"], what)
        )
    return Drawn(sizes, shapes)


def _ordered(images: list[Any], order: Callable[[str], Any]) -> list[Any]:
    """The images as the frames come."""
    if all("frame_id" in each for each in images):
        return sorted(images, key=lambda each: _number(each["frame_id"], "frame_id"))
    return sorted(images, key=lambda each: order(str(each["file_name"])))


def _class_of(category: Any, classes: Mapping[str, int]) -> int:
    name, number = str(category["name"]), _number(category["id"], "id of a category")
    if classes and name not in classes:
        names = ", ".join(classes)
        raise VideoError(f"its masks have the category {name!r}", f"its mask_classes: {names}")
    number = classes.get(name, number)
    if not 0 <= number <= MOST_CLASSES and number != VOID:
        raise VideoError(f"its masks have the category {number}", f"1 to {MOST_CLASSES}")
    return number


def _track(annotation: Any) -> int | None:
    """The number of a thing through the video, where it is told."""
    told = next((annotation[name] for name in TRACKS if annotation.get(name) is not None), None)
    return None if told is None else _number(told, "track_id")


def _number(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise VideoError(f"the {what} {value!r:.40} in its masks", "a whole number")
    return value


def _size(height: Any, width: Any) -> Size:
    size = _number(height, "height"), _number(width, "width")
    if not all(1 <= side <= LARGEST for side in size) or size[0] * size[1] > MAX_PIXELS:
        raise VideoError(f"its masks are of {size[1]} x {size[0]} pixels", "a picture's size")
    return size


def _refuse(what: str, got: str, wanted: str = "polygons or run lengths of a picture") -> NoReturn:
    raise VideoError(f"{what} {got}", wanted)


# --- drawing


def planes_of_shapes(shapes: Sequence[Shape], size: Size) -> Planes:
    """Draw the things of a frame, the larger ones first."""
    classes, things = np.zeros(size, np.uint8), np.zeros(size, np.int16)
    drawn = [(shape, plane_of(shape.told, size, shape.what)) for shape in shapes]
    for shape, plane in sorted(drawn, key=lambda pair: -np.count_nonzero(pair[1])):
        classes[plane], things[plane] = shape.kind, shape.thing
    return Planes(classes, things)


def plane_of(told: Any, size: Size, what: str = "a mask") -> Plane:
    """The pixels of polygons, or of run lengths down the columns, packed into text or not."""
    if isinstance(told, Mapping) and isinstance(told.get("counts"), str | list):
        counts = told["counts"]
        if list(told.get("size", ())) != list(size):
            _refuse(
                what, f"is of {told.get('size')}", f"its image's height and width, {list(size)}"
            )
        runs = unpacked_runs(counts, what) if isinstance(counts, str) else counts
        return _of_runs(runs, size, what)
    if isinstance(told, list):
        return _of_polygons(told, size, what)
    _refuse(what, f"is told by {type(told).__name__}")


def _of_runs(runs: Sequence[Any], size: Size, what: str) -> Plane:
    """Runs of pixels that are none and are some of it in turn."""
    lengths = np.array([_number(run, "run length") for run in runs], np.int64)
    if (lengths < 0).any():
        _refuse(what, f"has the run length {lengths.min()}")
    if int(lengths.sum()) != size[0] * size[1]:
        _refuse(what, f"has runs of {int(lengths.sum())} pixels", f"{size[0] * size[1]} in all")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size[1], size[0]).T


def unpacked_runs(text: str, what: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a letter, from the fourth on less the one before last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            _refuse(what, "has run lengths that are none of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        _refuse(what, "has run lengths that are cut off")
    return runs


def _of_polygons(told: Sequence[Any], size: Size, what: str) -> Plane:
    """The pixels of outlines, each x, y, x, y, ..., as COCO's own code draws them."""
    from pycocotools import mask as run_lengths

    outlines = [np.asarray(each, np.float64) for each in told]
    for each in outlines:
        if each.ndim != 1 or len(each) % 2 or len(each) < 2 * LEAST_CORNERS:
            _refuse(what, "has an outline", "x, y, x, y, ... of three corners at the least")
        if not (np.abs(each) <= 2 * LARGEST).all():  # nor is it no number
            _refuse(what, "has a corner far from the picture", "pixels of the picture")
    if not outlines:
        return np.zeros(size, np.bool_)
    parts = run_lengths.frPyObjects([each.tolist() for each in outlines], *size)
    counts = run_lengths.merge(parts)["counts"].decode("ascii")
    return _of_runs(unpacked_runs(counts, what), size, what)
