"""Masks: which class, and which thing of it, each pixel of a frame shows; as arrays and as PNG.

Of a frame they are two planes: the class (0 is none of them, 255 is void: nobody says) and the
number of the thing (0 is none; the same number is the same thing in the whole video). As a PNG
that is grey with the class, or, where there are things, red with the class and green + 256 x blue
with the thing; others paint each class in a colour. Pixels are picked, never mixed. Knows no files.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from clipmill.errors import VideoError
from clipmill.video.facts import clockwise_rotation
from clipmill.video.rgb import Crop, Pixels
from clipmill.video.source import MAX_PIXELS, told

Things = npt.NDArray[np.int16]
Colours = Mapping[str, int]  # "#rrggbb" -> class

VOID = 255
MOST_CLASSES = 254
MOST_THINGS = (1 << 15) - 1
VOID_16, CLASS_STEP = (1 << 16) - 1, 1000  # of grey pictures of 16 bits
WANTED = "grey, palette or RGB pictures of 8 bits, or grey ones of 16"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2  # PNG's numbers for kinds of pictures
SPREAD = {2: 85, 4: 17}  # what the decoder multiplies greys of so few bits by


class Planes(NamedTuple):
    """The mask of one frame."""

    classes: Pixels  # [H, W]
    things: Things  # [H, W]


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of some frames."""

    classes: Pixels  # [T, H, W]
    instances: Things  # [T, H, W]


def no_masks(count: int, crop: Crop) -> Masks:
    """Masks of frames that nobody has marked: void."""
    shape = (count, *crop[2:])
    return Masks(np.full(shape, VOID, np.uint8), np.zeros(shape, np.int16))


def picked(extent: int, wanted: int) -> npt.NDArray[np.int64]:
    """The pixel of an axis that each of so many wanted ones lies in with its centre."""
    return ((2 * np.arange(wanted) + 1) * extent) // (2 * wanted)


def nearest(planes: Planes, size: tuple[int, int], crop: Crop | None = None) -> Planes:
    """A mask in another size, and a part of that; numbers are only ever picked."""
    top, left, height, width = crop or (0, 0, *size)
    rows, columns = map(picked, planes.classes.shape, size)
    rows, columns = rows[top : top + height], columns[left : left + width]
    classes, things = (plane.take(rows, 0).take(columns, 1) for plane in planes)
    return Planes(np.asarray(classes, np.uint8), np.asarray(things, np.int16))


# --- pictures


def mask_png(planes: Planes) -> bytes:
    """A mask as a PNG, grey where there are no things; equal masks give equal bytes."""
    kind, pixels = GREY, planes.classes[..., None]
    if planes.things.any():
        low, high = planes.things & 255, planes.things >> 8
        kind, pixels = RGB, np.stack([planes.classes, low, high], axis=-1).astype(np.uint8)
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


class PngReader:
    """Reads masks from PNGs of any kind, one after another."""

    def __init__(self, colours: Colours | None = None) -> None:
        self._colours = colours
        decoder = av.CodecContext.create("png", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        self._decoder = decoder

    def __call__(self, data: bytes, what: str = "a mask") -> Planes:
        """Read one; `what` it is called in an error."""
        if not data.startswith(SIGNATURE):
            raise VideoError(f"{what} is no PNG", "a whole PNG")
        packet: Packet[Any] = Packet(data)
        packet.is_keyframe = True  # else the decoder adds the picture before it
        try:
            (frame,) = self._decoder.decode(packet)
        except (av.FFmpegError, ValueError) as error:
            words = told(error) if isinstance(error, av.FFmpegError) else "no picture"
            raise VideoError(f"{what} cannot be read: {words}", "a whole PNG") from error
        planes = planes_of(frame, what, self._colours)
        is_grey = data[25] == GREY and not self._colours
        if is_grey and (spread := SPREAD.get(data[24])):
            return Planes(planes.classes // spread, planes.things)
        return planes


def planes_of(frame: VideoFrame, what: str, colours: Colours | None = None) -> Planes:
    """Read the numbers of a decoded picture, turned upright."""
    name = frame.format.name
    if colours:
        planes = _of_colours(frame, colours, what)
    elif name in ("pal8", "gray", "gray8"):
        planes = _of_classes(_bytes_of(frame))
    elif name in ("gray16be", "gray16le"):
        kind = ">u2" if name.endswith("be") else "<u2"
        planes = _of_long(_bytes_of(frame, 16).view(kind).astype(np.int64), what)
    elif name == "monob":
        planes = _of_classes(np.unpackbits(_bytes_of(frame, 1), axis=1)[:, : frame.width])
    elif frame.format.is_rgb and max(c.bits for c in frame.format.components) == 8:
        planes = _of_rgb(frame, what)
    else:
        raise VideoError(f"{what} is of {name} pixels", WANTED, "write it without loss")
    return turned(planes, clockwise_rotation(frame))


def turned(planes: Planes, rotation: int) -> Planes:
    """A mask turned clockwise by so many degrees, in quarters."""
    turns = -rotation // 90
    return Planes(np.rot90(planes.classes, turns), np.rot90(planes.things, turns))


def _bytes_of(frame: VideoFrame, pixel_bits: int = 8) -> Pixels:
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return np.ascontiguousarray(lines[: frame.height, : -(-frame.width * pixel_bits // 8)])


def _of_classes(numbers: Pixels) -> Planes:
    return Planes(numbers, np.zeros(numbers.shape, np.int16))


def _of_long(numbers: npt.NDArray[np.int64], what: str) -> Planes:
    """The class x 1000 + the thing, or the class alone, as street scenes are published."""
    classes, things = numbers // CLASS_STEP, numbers % CLASS_STEP + 1
    alone = numbers < CLASS_STEP
    classes, things = np.where(alone, numbers, classes), np.where(alone, 0, things)
    void = numbers == VOID_16
    classes[void], things[void] = VOID, 0
    if classes.max(initial=0) > VOID:
        raise VideoError(f"{what} has the class {classes.max()}", f"at most {MOST_CLASSES}")
    return Planes(classes.astype(np.uint8), things.astype(np.int16))


def _of_rgb(frame: VideoFrame, what: str) -> Planes:
    red, green, blue = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
    things = green.astype(np.int32) + 256 * blue.astype(np.int32)
    if things.max(initial=0) > MOST_THINGS:
        raise VideoError(f"{what} has the thing {things.max()}", f"at most {MOST_THINGS}")
    return Planes(np.ascontiguousarray(red), things.astype(np.int16))


def _of_colours(frame: VideoFrame, colours: Colours, what: str) -> Planes:
    painted = frame.to_ndarray(format="rgb24").astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    found, where = np.unique(painted, return_inverse=True)
    names = [f"#{colour:06x}" for colour in found.tolist()]
    if strange := [name for name in names if name not in colours]:
        raise VideoError(f"{what} has the colour {strange[0]}", "those of its mask_classes")
    numbers = np.array([colours[name] for name in names], np.uint8)
    return _of_classes(numbers[where.reshape(painted.shape)])
