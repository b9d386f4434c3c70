"""Masks as others bring them: a picture for each frame of a video, and what of them is at fault.

They come as PNGs in a folder or a zip, in the order of their names (frame 2 before frame 10), as a
video that was written without loss, or as COCO's JSON. Their pixels are those of the frames as shown
upright. Knows neither records nor where files come from.
"""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from clipmill.errors import VideoError
from clipmill.video.facts import (
    Look,
    clockwise_rotation,
    first_frame,
    look_at_all,
    look_at_packets,
    times,
)
from clipmill.video.kept_masks import MaskHead, mask_member
from clipmill.video.mask_json import is_json, read_drawn
from clipmill.video.masks import VOID, Colours, Planes, PngReader, nearest, planes_of, turned
from clipmill.video.read import from_key_frames
from clipmill.video.scan import Scan, scan
from clipmill.video.source import Opened, decoded_frames, opened

Numbers = npt.NDArray[np.int64]

PICTURE_BYTES = 1 << 28  # of one PNG
MOST_PICTURES = 1 << 20
ROT = (zlib.error, lzma.LZMAError, OSError)  # what unpacking damaged data raises


class MaskSource(Protocol):
    """Masks that were opened."""

    def __len__(self) -> int:
        """How many there are."""

    def at(self, numbers: Sequence[int]) -> Iterator[Planes]:
        """Give some of them, by rising numbers."""


@dataclass(frozen=True)
class _Pictures:
    """PNGs."""

    names: list[str]
    read: Callable[[str], bytes]
    colours: Colours | None

    def __len__(self) -> int:
        return len(self.names)

    def at(self, numbers: Sequence[int]) -> Iterator[Planes]:
        """Give some of them."""
        decode = PngReader(self.colours)
        for number in numbers:
            name = self.names[number]
            yield decode(self.read(name), f"its mask {os.path.basename(name)}")


@dataclass(frozen=True)
class _Film:
    """A video; without a table where its packets do not tell its frames."""

    path: str
    video: Opened
    table: Scan | None
    colours: Colours | None

    def __len__(self) -> int:
        if self.table is not None:
            return len(self.table.shown)
        with opened(self.path) as again:
            return sum(1 for _ in decoded_frames(again))

    def at(self, numbers: Sequence[int]) -> Iterator[Planes]:
        """Give some of them."""
        for frame in self._frames(numbers) if len(numbers) else ():
            yield planes_of(frame, "its mask video", self.colours)

    def _frames(self, numbers: Sequence[int]) -> Iterator[VideoFrame]:
        """From the key frames before them; from the beginning where the packets do not tell."""
        if self.table is not None:
            for _, frame in from_key_frames(self.video, self.table, np.asarray(numbers)):
                yield frame
            return
        wanted = set(numbers)
        with opened(self.path) as again:
            shown = islice(decoded_frames(again), max(wanted) + 1)
            yield from (frame for number, frame in enumerate(shown) if number in wanted)


@contextmanager
def opened_masks(path: str, colours: Colours | None = None) -> Iterator[MaskSource]:
    """Open masks, whatever they come as."""
    if os.path.isdir(path):
        names = [str(each) for each in Path(path).rglob("*") if each.is_file()]
        yield _Pictures(_in_order(names), lambda name: Path(name).read_bytes(), colours)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = _in_order(archive.namelist())
            yield _Pictures(names, lambda name: _unzipped(archive, name), colours)
    elif is_json(path):
        yield read_drawn(path, colours or {}, _by_numbers)
    else:
        with opened(path) as film:
            yield _Film(path, film, scan(film, path), colours)


def _in_order(names: Sequence[str]) -> list[str]:
    """PNGs, by the numbers in their names; what others put beside them is passed over."""
    kept = [name for name in names if is_mask_name(name)]
    if len(kept) > MOST_PICTURES:
        raise VideoError(f"{len(kept)} masks", f"at most {MOST_PICTURES}", "cut the video")
    return sorted(kept, key=_by_numbers)


def _by_numbers(name: str) -> tuple[list[tuple[int, str]], str]:
    """What sorts by the numbers in names, and equal ones by the names."""
    return [_rank(part) for part in re.split(r"(\d+)", name)], name


def _rank(part: str) -> tuple[int, str]:
    digits = part.lstrip("0")  # by length, then by text, is by number, however long it is
    return (len(digits), digits) if part.isdecimal() else (-1, part)


def is_mask_name(name: str) -> bool:
    """Tell whether a file among masks is one, by its name."""
    hidden = os.path.basename(name).startswith(".") or "__MACOSX" in name
    return name.lower().endswith(".png") and not hidden


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > PICTURE_BYTES:
        raise VideoError(f"its mask {name} is too large", f"at most {PICTURE_BYTES} bytes")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, *ROT) as error:
        raise VideoError(f"its mask {name} cannot be read: {error}", "a whole zip") from error


# --- the video that they are of


@dataclass(frozen=True)
class _Shown:
    """The frames of a video as shown: when, and their own pixels, upright."""

    seconds: npt.NDArray[np.float64]
    size: tuple[int, int]
    rotation: int

    @staticmethod
    def of(path: str) -> "_Shown":
        """What decoding all of a video shows."""
        with opened(path) as video:
            return _Shown._seen(video, look_at_all(video))

    @staticmethod
    def by_packets(path: str, frames: int) -> "_Shown":
        """The same without decoding where the packets tell it: each has its time, none is amiss."""
        with opened(path) as video:
            look = look_at_packets(video)
            odd = look.stampless or look.hidden or look.damaged
            if look.first is not None and not odd and len(look.stamps) == frames:
                return _Shown._seen(video, look)
        return _Shown.of(path)

    @staticmethod
    def _seen(video: Opened, look: Look) -> "_Shown":
        rotation = clockwise_rotation(first_frame(video, look.first))
        height, width = video.coded_size
        size = (width, height) if rotation % 180 else (height, width)
        return _Shown(times(video, look)[0], size, rotation)

    def upright(self, planes: Planes, number: int) -> Planes:
        """A mask with the frames' pixels; one of frames before they are turned is turned, too."""
        if planes.classes.shape == self.size:
            return planes
        if self.rotation % 180 and planes.classes.shape == self.size[::-1]:
            return turned(planes, self.rotation)
        height, width = planes.classes.shape
        raise VideoError(
            f"its mask {number} is {width} x {height}, its frames {self.size[1]} x {self.size[0]}",
            "masks of the size of the frames",
        )


def check_masks(masks: str, video: str, classes: int, colours: Colours | None = None) -> None:
    """Refuse masks that are not of a video: another length or size, classes that nobody named."""
    shown, seen = _Shown.of(video), np.zeros(256, np.bool_)
    with _words(), opened_masks(masks, colours) as given:
        if len(given) != len(shown.seconds):
            got = f"{len(given)} masks of a video of {len(shown.seconds)} frames"
            raise VideoError(got, "a mask for each frame")
        for number, planes in enumerate(given.at(range(len(given)))):
            found = np.bincount(shown.upright(planes, number).classes.ravel(), minlength=256) > 0
            beyond = np.flatnonzero(found[classes + 1 : VOID]) + classes + 1
            if len(beyond):
                raise VideoError(
                    f"its mask {number} has the class {beyond[0]}",
                    f"0, 1 to {classes} of its mask_classes, or {VOID} for void",
                )
            seen |= found
    if seen[VOID] and not seen[1:VOID].any():
        raise VideoError("its masks hold no class but 255, which is void", "numbers from 1")


def masks_of_record(
    masks: str,
    video: str,
    times_seconds: npt.NDArray[np.float64],
    size: tuple[int, int],
    colours: Colours | None = None,
) -> bytes:
    """Make the member of a record, by the times of the frames of the video that it shows."""
    with _words(), opened_masks(masks, colours) as given:
        # That there is a mask for each frame was checked: as many packets are those frames.
        shown = _Shown.by_packets(video, len(given))
        middles = (shown.seconds[1:] + shown.seconds[:-1]) / 2
        numbers = np.searchsorted(middles, times_seconds)
        wanted, first = np.unique(numbers, return_index=True)
        upright = map(shown.upright, given.at(wanted.tolist()), wanted.tolist())
        pictures = zip(first.tolist(), (nearest(each, size) for each in upright), strict=True)
        return mask_member(pictures, MaskHead(len(numbers), *size))


@contextmanager
def _words() -> Iterator[None]:
    """Tell what a disk or a broken zip says in our words."""
    try:
        yield
    except (OSError, zipfile.BadZipFile) as error:
        raise VideoError(f"its masks cannot be read: {error}", "PNGs, a zip, or a video") from error
