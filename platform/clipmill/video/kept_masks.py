"""The mask member of a record: a picture for each frame, in a zip that anyone can open.

`KEY.masks.zip` holds PNGs, not packed again, named by the first frame that they are of: each
holds until the next. The zip's comment is JSON with `clipmill masks`, `frames`, `height` and
`width`. The names are of one length and nothing is between the files, so that a reader finds all
by the directory at the end and reads only the pictures that it needs. Knows no shards.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from clipmill.errors import DataError, VideoError
from clipmill.video.masks import VOID, Masks, Planes, PngReader, mask_png, nearest
from clipmill.video.rgb import Crop

Numbers = npt.NDArray[np.int64]
ReadRange = Callable[[int, int], bytes]  # offset and length within the member

MASK_MEMBER = "masks.zip"  # the suffix of the member
VERSION = 1
MOST_PICTURES = (1 << 16) - 2  # of a zip that every reader takes
LAST_READ_BYTES = 32 << 10  # the directory of most, and all of a short record
NAME_BYTES, LOCAL_BYTES = len("000000.png"), 30
END, END_BYTES = b"PK\x05\x06", 22
ENTRY = np.dtype({  # of the directory
    "names": ["signature", "method", "crc", "packed", "length", "name_bytes", "offset", "name"],
    "formats": ["S4", "<u2", "<u4", "<u4", "<u4", "<u2", "<u4", f"S{NAME_BYTES}"],
    "offsets": [0, 10, 16, 20, 24, 28, 42, 46],
    "itemsize": 46 + NAME_BYTES,
})  # fmt: skip


@dataclass(frozen=True)
class MaskHead:
    """What the pictures of a member are of."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        numbers = self.frames, self.height, self.width
        if not all(type(number) is int and number >= 1 for number in numbers):
            raise ValueError(f"its head tells {self}")


# --- making


def mask_member(pictures: Iterable[tuple[int, Planes]], head: MaskHead) -> bytes:
    """Make a member of masks, each with the first frame that it is of; equal ones become one."""
    kept: list[tuple[str, bytes]] = []
    for first, planes in pictures:
        png = mask_png(planes)
        if not kept or png != kept[-1][1]:
            kept.append((f"{first:06d}.png", png))
    if len(kept) > MOST_PICTURES:
        raise VideoError(
            f"its masks are {len(kept)} different pictures",
            f"at most {MOST_PICTURES} a record",
            "cut it with --split-seconds",
        )
    told = {"clipmill masks": VERSION, **asdict(head)}
    return zipped(kept, json.dumps(told).encode())


def zipped(files: Iterable[tuple[str, bytes]], comment: bytes = b"") -> bytes:
    """Put files into a zip without packing them; equal files give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, data in files:
            info = zipfile.ZipInfo(name)  # of 1980, as all that has no time
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()


def zipped_masks(masks: Masks) -> bytes:
    """Masks as anyone reads them: a zip of PNGs, one for each frame, named by its number."""
    both = zip(masks.classes, masks.instances, strict=True)
    return zipped((f"{at:06d}.png", mask_png(Planes(*each))) for at, each in enumerate(both))


# --- reading


class MaskMember:
    """A member that is read in parts, as they are asked for."""

    def __init__(self, read: ReadRange, length: int) -> None:
        self._read, self._length = read, length
        self._begin = max(0, length - LAST_READ_BYTES)
        self._end = read(self._begin, length - self._begin)
        self._decode = PngReader()
        try:
            self.head, self._entries = self._opened()
            self.first = np.array([int(name[:6]) for name in self._entries["name"]], np.int64)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _unreadable(error) from error
        if not len(self.first) or self.first[0] != 0 or (np.diff(self.first) <= 0).any():
            raise _unreadable("its pictures are not in order")

    def at(self, numbers: Numbers, size: tuple[int, int], crop: Crop) -> Masks:
        """The masks of frames, in a part of pictures of this height and width."""
        places = np.searchsorted(self.first, numbers, side="right") - 1
        needed, which = np.unique(places, return_inverse=True)
        seen = [nearest(planes, size, crop) for planes in self.pictures(needed.tolist())]
        classes, things = (np.stack([planes[at] for planes in seen])[which] for at in (0, 1))
        return Masks(np.asarray(classes, np.uint8), np.asarray(things, np.int16))

    def pictures(self, places: Sequence[int]) -> Iterator[Planes]:
        """Pictures by their places, rising, by one read."""
        entries = self._entries[list(places)]
        begins = entries["offset"].astype(np.int64) + LOCAL_BYTES + NAME_BYTES
        ends = begins + entries["length"]
        data = self._bytes(int(begins[0]), int(ends[-1] - begins[0]))
        for begin, end, crc in zip(
            begins - begins[0], ends - begins[0], entries["crc"], strict=True
        ):
            yield self._picture(data[begin:end], int(crc))

    def _picture(self, data: bytes, crc: int) -> Planes:
        if zlib.crc32(data) != crc:
            raise _unreadable("a picture was changed")
        try:
            planes = self._decode(data)
        except VideoError as error:
            raise _unreadable(error) from error
        if planes.classes.shape != (self.head.height, self.head.width):
            raise _unreadable(f"a picture is of {planes.classes.shape}")
        return planes

    def _opened(self) -> tuple[MaskHead, npt.NDArray[np.void]]:
        at = self._end.rfind(END)
        if at < 0 or len(self._end) < at + END_BYTES:
            raise ValueError("it is no zip")
        count, length, offset, words = np.frombuffer(
            self._end[at + 10 : at + END_BYTES], np.dtype("<u2,<u4,<u4,<u2")
        )[0].tolist()
        told = json.loads(self._end[at + END_BYTES : at + END_BYTES + words])
        if told.pop("clipmill masks") != VERSION:
            raise ValueError("its version is another")
        if length != count * ENTRY.itemsize:
            raise ValueError("its names are not those of frames")
        entries = np.frombuffer(self._bytes(offset, length), ENTRY)
        plain = (entries["method"] == 0) & (entries["packed"] == entries["length"])
        if not (plain & (entries["name_bytes"] == NAME_BYTES)).all():
            raise ValueError("its files are packed")
        return MaskHead(**told), entries

    def _bytes(self, offset: int, length: int) -> bytes:
        if not 0 <= offset <= offset + length <= self._length:
            raise _unreadable("it is cut off")
        at = offset - self._begin
        return self._end[at : at + length] if at >= 0 else self._read(offset, length)


def _unreadable(why: object) -> DataError:
    return DataError(f"a mask member cannot be read: {why}", "one of this version")


def mask_fault(
    member: bytes, *, frames: int, size: tuple[int, int], classes: int, deep: bool
) -> str:
    """Say what is wrong with the member of a video, if anything; `deep` looks at every picture."""
    kept = MaskMember(lambda offset, length: member[offset : offset + length], len(member))
    head, count = kept.head, len(kept.first)
    if (head.frames, head.height, head.width) != (frames, *size):
        return f"masks of {head.frames} frames of {head.width} x {head.height}"
    if kept.first[-1] >= frames:
        return f"a mask of frame {kept.first[-1]}, of {frames}"
    for at in range(count) if deep else sorted({0, count - 1}):
        (planes,) = kept.pictures([at])
        most = int(planes.classes[planes.classes != VOID].max(initial=0))
        if most > classes:
            return f"class {most} of {classes} in frame {kept.first[at]}"
    return ""
