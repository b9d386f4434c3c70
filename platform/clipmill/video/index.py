"""The packet index of an H.264 record: what a bare decoder must be fed, and where it lies.

Made once at ingest and kept beside the video; by it a clip is read by byte ranges and decoded
without opening a container. The frames are bit for bit those of the container's way.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from clipmill.errors import DataError, VideoError
from clipmill.video.facts import clockwise_rotation, shown_size
from clipmill.video.read import Crop, Found, by_packet, checked, pictures
from clipmill.video.scan import Scan, is_disposable, scan, unit_prefix_bytes
from clipmill.video.source import opened

MAGIC = b"clipmill index 1\n"

ReadRange = Callable[[int, int], bytes]  # offset and length within the video's bytes


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a record in decode order, and which of them each frame shown is."""

    scan: Scan
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    disposable: npt.NDArray[np.bool_]
    parameters: bytes  # what the codec must know before its first packet
    time_base: Fraction
    height: int
    width: int

    def packed(self) -> bytes:
        """The index as bytes."""
        arrays: dict[str, npt.NDArray[Any]] = {"offset": self.offset, "size": self.size, "pts": self.scan.pts,
                  "disposable": self.disposable, "starts": self.scan.starts,
                  "shown": self.scan.shown, "seconds": self.scan.seconds}  # fmt: skip
        head = {
            "parameters": self.parameters.hex(),
            "time_base": [self.time_base.numerator, self.time_base.denominator],
            "height": self.height,
            "width": self.width,
            "duration_seconds": self.scan.duration_seconds,
            "arrays": [[name, array.dtype.str, len(array)] for name, array in arrays.items()],
        }
        body = b"".join(array.tobytes() for array in arrays.values())
        return MAGIC + zlib.compress(json.dumps(head).encode() + b"\n" + body)


def unpacked(data: bytes) -> PacketIndex:
    """Read an index from its bytes."""
    try:
        if not data.startswith(MAGIC):
            raise ValueError("its first line is another")
        head_line, _, body = zlib.decompress(data[len(MAGIC) :]).partition(b"\n")
        head, arrays, at = json.loads(head_line), {}, 0
        for name, kind, count in head["arrays"]:
            arrays[name] = np.frombuffer(body, kind, count, at)
            at += arrays[name].nbytes
        told = Scan(arrays["pts"], arrays["starts"], arrays["shown"], arrays["seconds"],
                    head["duration_seconds"], None)  # fmt: skip
        return PacketIndex(
            told, arrays["offset"], arrays["size"], arrays["disposable"],
            bytes.fromhex(head["parameters"]), Fraction(*head["time_base"]),
            head["height"], head["width"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(f"a packet index cannot be read: {error}", "one of this version") from error


def index_of(
    data: bytes, source_seconds: npt.NDArray[np.float64] | None = None
) -> PacketIndex | None:
    """Index a video; None where only a container can feed the decoder (as for all but H.264).

    `source_seconds` are the times of the source's frames that the video's frames show.
    """
    with opened(data) as video:
        stream, prefix_bytes = video.pictures, unit_prefix_bytes(video.pictures)
        told = scan(video, data)
        if told is None or told.held is None or not prefix_bytes:
            return None
        held = told.held
        if any(data[p.pos : p.pos + p.size] != bytes(p) for p in held if p.pos is not None):
            return None
        if any(p.pos is None for p in held) or _turned(data):
            return None
        height, width = shown_size(stream, 0)
        seconds = told.seconds if source_seconds is None else source_seconds
        assert stream.time_base is not None and stream.codec_context.extradata is not None
        return PacketIndex(
            Scan(told.pts, told.starts, told.shown, seconds, told.duration_seconds, None),
            np.array([p.pos for p in held], np.int64),
            np.array([p.size for p in held], np.int32),
            np.array([is_disposable(p, prefix_bytes) for p in held], np.bool_),
            stream.codec_context.extradata,
            stream.time_base,
            height,
            width,
        )


def _turned(data: bytes) -> bool:
    with opened(data) as video:
        first = next(frame for frame in video.container.decode(video.pictures))
        return clockwise_rotation(first) != 0


def decode_indexed(
    index: PacketIndex,
    read: ReadRange,
    frame_numbers: Sequence[int] | npt.NDArray[np.int64],
    *,
    short_side: int | None = None,
    crop: Crop | None = None,
) -> npt.NDArray[np.uint8]:
    """Give the asked frames as `decode_frames` does, reading only the bytes that they need."""
    numbers = checked(frame_numbers)
    if numbers.max() >= len(index.scan.shown):
        count = len(index.scan.shown)
        raise VideoError(f"frame {numbers.max()}", f"a number below {count}")
    found = _found(index, read, by_packet(index.scan, numbers))
    return pictures((index.height, index.width), found, len(numbers), short_side, crop)


def _found(
    index: PacketIndex, read: ReadRange, spans: dict[int, dict[int, list[int]]]
) -> Iterator[Found]:
    for start in sorted(spans):
        missing = {int(index.scan.pts[packet]): places for packet, places in spans[start].items()}
        for frame in _frames(index, read, start, spans[start]):
            places = missing.pop(frame.pts, None) if frame.pts is not None else None
            if places is not None:
                yield places, frame
        if missing:
            number = index.scan.number_of(min(spans[start]))
            raise VideoError(f"a frame from {number} on does not decode", "an undamaged video")


def _frames(
    index: PacketIndex, read: ReadRange, start: int, wanted: dict[int, list[int]]
) -> Iterator[VideoFrame]:
    """Feed a bare decoder from one key frame on; disposable frames that are not wanted are not."""
    first_pts = index.scan.pts[start]
    numbers = np.arange(start, max(wanted) + 1)
    asked = np.isin(numbers, list(wanted))
    leading = (index.scan.pts[numbers] < first_pts) & (start > 0)
    fed = numbers[~leading & (asked | ~index.disposable[numbers])]
    low = int(index.offset[fed].min())
    data = read(low, int((index.offset[fed] + index.size[fed]).max()) - low)
    context = av.CodecContext.create("h264", "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata, context.thread_count = index.parameters, 1
    try:
        for number in fed.tolist():
            at = int(index.offset[number]) - low
            packet = av.Packet(data[at : at + int(index.size[number])])
            packet.pts, packet.time_base = int(index.scan.pts[number]), index.time_base
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.FFmpegError as error:
        raise VideoError(f"frame {index.scan.number_of(start)} and on: {error}") from error
