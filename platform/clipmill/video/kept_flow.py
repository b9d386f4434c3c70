"""The flow member of a record: motion from every k-th of its frames to the next, kept small.

`KEY.flow` is MAGIC; 4 bytes, the length of the head; the head, JSON with `step` (frames from one
of the pictures to the next), `height` and `width` (of a field) and `short_side` (of the pictures
in whose pixels motion is told); 4 bytes for each field, its length; the fields. A field is zlib
of int8 [2, height, width]: x before y, in eighths of a pixel, each less the one to its left.
Integers are little-endian and without sign. Knows neither shards nor views.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from clipmill.errors import DataError
from clipmill.video.index import PacketIndex
from clipmill.video.indexed import decode_indexed
from clipmill.video.motion import flow_vectors, in_steps, resized, rounded
from clipmill.video.profile import Profile
from clipmill.video.read import decode_frames
from clipmill.video.rgb import Crop, Pixels, scaled_size

Fields = npt.NDArray[np.int8]  # [fields, height, width, 2]
Numbers = npt.NDArray[np.int64]
ReadRange = Callable[[int, int], bytes]  # offset and length within the member

MAGIC = b"clipmill flow 1\n"
NUMBER = np.dtype("<u4")
RATE = 5.0  # fields a second, where no ladder says which frames are cheap
SHORT_SIDES = 32, 128  # of the pictures in which motion is looked for, from and to
HALVING = 2  # motion is found in halves, and smooth: fields of half the side lose next to nothing
LARGEST_SIDE = 1 << 14
FRAMES_AT_ONCE = 32  # decoded at a time: a film does not fit in memory
FIRST_READ_BYTES = 32 << 10  # the head of most, and all of a short record
BYTES_A_NUMBER = 0.25  # of a field when it is packed; real films have 0.1 to 0.26
MOST_APART = 2.0  # eighths, on average: processors round otherwise, other videos move otherwise


@dataclass(frozen=True)
class FlowHead:
    """What the fields of a member are."""

    step: int  # frames of the record from one of the pictures to the next
    height: int  # of a field
    width: int
    short_side: int  # of the pictures in whose pixels motion is told
    fields: int

    def __post_init__(self) -> None:
        sides = self.height, self.width, self.short_side
        whole = all(type(number) is int for number in (*sides, self.step, self.fields))
        if not (whole and self.step >= 1 and self.fields >= 0 and 1 <= min(sides) <= max(sides) <= LARGEST_SIDE):  # fmt: skip
            raise ValueError(f"its head tells {self}")

    @staticmethod
    def of(size: tuple[int, int], frames: int, step: int) -> "FlowHead":
        """The head for a video of this height and width and so many frames."""
        least, most = SHORT_SIDES
        short_side = min(most, max(least, min(size)))
        height, width = (max(1, side // HALVING) for side in scaled_size(*size, short_side))
        return FlowHead(step, height, width, short_side, max(0, frames - 1) // step)


# --- making


def flow_step(profile: Profile, fps: float) -> int:
    """Frames from one picture to the next: a rung of the ladder, or else a fifth of a second."""
    return profile.k if profile.name == "training" else max(1, round(fps / RATE))


def flow_bytes(size: tuple[int, int], frames: int, step: int) -> int:
    """Estimate how long the member of a video will be."""
    head = FlowHead.of(size, frames, step)
    return round(2 * head.height * head.width * head.fields * BYTES_A_NUMBER)


def flow_member(
    data: bytes, index: PacketIndex | None, *, size: tuple[int, int], frames: int, step: int
) -> bytes:
    """Make the member of a video, whose height, width and number of frames are known."""
    head = FlowHead.of(size, frames, step)
    fields = [_packed(field) for field in _found(data, index, head, 0, head.fields)]
    told = json.dumps(asdict(head), sort_keys=True).encode()
    numbers = [_packed_numbers([len(told)]), told, _packed_numbers(map(len, fields))]
    return b"".join([MAGIC, *numbers, *fields])


def _found(
    data: bytes, index: PacketIndex | None, head: FlowHead, first: int, last: int
) -> Iterator[Fields]:
    """Find the fields from one up to another anew."""
    for at in range(first, last, FRAMES_AT_ONCE):
        pictures = np.arange(at, min(at + FRAMES_AT_ONCE, last) + 1) * head.step
        frames = _decoded(data, index, pictures, head.short_side)
        for vectors in flow_vectors(frames):
            yield in_steps(resized(vectors, head.height, head.width))


def _decoded(data: bytes, index: PacketIndex | None, numbers: Numbers, short_side: int) -> Pixels:
    if index is None:
        return decode_frames(data, numbers, short_side=short_side)

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return decode_indexed(index, read, numbers, short_side=short_side)


def _packed(field: Fields) -> bytes:
    planes = field.transpose(2, 0, 1)
    return zlib.compress(np.diff(planes, axis=2, prepend=np.int8(0)).tobytes())


def _packed_numbers(numbers: Iterable[int]) -> bytes:
    return np.array(list(numbers), NUMBER).tobytes()


# --- reading


class FlowMember:
    """A member that is read in parts, as they are asked for."""

    def __init__(self, read: ReadRange, length: int) -> None:
        self._read, self._length = read, length
        self._begun = read(0, min(length, FIRST_READ_BYTES))
        try:
            self.head, self._edges = self._opened()
        except (ValueError, TypeError, RecursionError) as error:
            raise _unreadable(error) from error

    def between(self, numbers: Numbers, size: tuple[int, int], crop: Crop) -> Fields | None:
        """The flow from each frame to the next, in a part of pictures of this height and width.

        None where it is not kept: some of the frames are no pictures, or not neighbours.
        """
        low, high = numbers[:-1], numbers[1:]
        places, moved = low // self.head.step, low != high
        kept = (low % self.head.step == 0) & (high - low == self.head.step)
        if not (kept & (places < self.head.fields))[moved].all():
            return None
        top, left, height, width = crop
        made = np.zeros((len(low), height, width, 2), np.int8)
        fields = self.fields(places[moved].tolist())
        for at, field in zip(np.flatnonzero(moved).tolist(), fields, strict=True):
            vectors = resized(field.astype(np.float32), *size)[top : top + height, left : left + width]  # fmt: skip
            made[at] = rounded(vectors * (min(size) / self.head.short_side))
        return made

    def fields(self, places: Sequence[int]) -> list[Fields]:
        """Fields by their places, by one read."""
        if not places:
            return []
        begin, end = int(self._edges[min(places)]), int(self._edges[max(places) + 1])
        data = self._bytes(begin, end - begin)
        edges = (self._edges - begin).tolist()
        return [self._unpacked(data[edges[place] : edges[place + 1]]) for place in places]

    def _unpacked(self, data: bytes) -> Fields:
        shape = (2, self.head.height, self.head.width)
        size, unpacking = math.prod(shape), zlib.decompressobj()
        try:
            made = unpacking.decompress(data, size + 1)  # no more, whatever a stranger's bytes say
        except zlib.error as error:
            raise _unreadable(error) from error
        if len(made) != size or not unpacking.eof:
            raise _unreadable("a field is not of the size that its head tells")
        planes = np.frombuffer(made, np.int8).reshape(shape)
        return np.cumsum(planes, axis=2, dtype=np.int8).transpose(1, 2, 0)

    def _opened(self) -> tuple[FlowHead, Numbers]:
        if self._bytes(0, len(MAGIC)) != MAGIC:
            raise ValueError("its beginning is another")
        at = len(MAGIC) + NUMBER.itemsize
        told = self._bytes(at, int(self._numbers(len(MAGIC), 1)[0]))
        head = FlowHead(**json.loads(told))
        at += len(told)
        edges = np.cumsum([at + head.fields * NUMBER.itemsize, *self._numbers(at, head.fields)])
        if edges[-1] != self._length:
            raise ValueError(f"{self._length} bytes, and not {edges[-1]}")
        return head, edges

    def _numbers(self, offset: int, count: int) -> Numbers:
        return np.frombuffer(self._bytes(offset, count * NUMBER.itemsize), NUMBER).astype(np.int64)

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset + length > self._length:
            raise ValueError("it is cut off")
        is_here = offset + length <= len(self._begun)
        return self._begun[offset : offset + length] if is_here else self._read(offset, length)


def _unreadable(why: object) -> DataError:
    return DataError(f"a flow member cannot be read: {why}", "one of this version")


def flow_fault(
    member: bytes, data: bytes, index: PacketIndex | None, *, frames: int, deep: bool
) -> str:
    """Say what is wrong with the member of a video, if anything; `deep` finds all motion anew."""
    kept = FlowMember(lambda offset, length: member[offset : offset + length], len(member))
    count = kept.head.fields
    if count != max(0, frames - 1) // kept.head.step:
        return f"{count} fields of {frames} frames"
    fields = kept.fields(range(count))
    for at in {*range(count)} if deep else {0, count - 1} & {*range(count)}:
        (fresh,) = _found(data, index, kept.head, at, at + 1)
        if np.abs(fresh.astype(np.float32) - fields[at]).mean() > MOST_APART:
            return f"the motion from frame {at * kept.head.step} on is another"
    return ""
