"""The packet index of a record: what bare decoders must be fed, and where in the file it lies.

Made once at ingest and kept beside the video. Knows how to be written and read, and decodes
nothing.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av.packet import Packet

from clipmill.errors import DataError
from clipmill.video.audio import sound_frames
from clipmill.video.facts import clockwise_rotation, shown_size
from clipmill.video.scan import Scan, is_disposable, scan, unit_prefix_bytes
from clipmill.video.source import opened

MAGIC = b"clipmill index 2\n"
MAGIC_1 = b"clipmill index 1\n"  # H.264 only, and no sound

WHOLE_FRAMES = {"mjpeg", "rawvideo"}  # every packet is a frame of its own
# Codecs whose packets need nothing but these parameters and some packets before.
SOUND = {"aac", "mp3", "mp3float", "opus", "flac", "pcm_s16le", "pcm_s16be"}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SoundIndex:
    """The packets of a record's sound, in decode order."""

    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int32]
    pts: npt.NDArray[np.int64]
    time_base: Fraction
    codec: str
    parameters: bytes
    rate: int  # samples a second
    layout: str
    first_pts: int  # what decodes to before it is the codec's start, and no sound

    def head(self) -> dict[str, Any]:
        """What is no array, as plain data."""
        return {
            "time_base": [self.time_base.numerator, self.time_base.denominator],
            "codec": self.codec,
            "parameters": self.parameters.hex(),
            "rate": self.rate,
            "layout": self.layout,
            "first_pts": self.first_pts,
        }


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
    codec: str = "h264"
    pixels: str = ""  # the pixel format, where the packets do not tell it
    sound: SoundIndex | None = None  # None: no sound, or none that can be read so

    @property
    def origin_seconds(self) -> float:
        """The first frame's stamp, on the clock that sound and pictures share."""
        return float(int(self.scan.pts[self.scan.shown[0]]) * self.time_base)

    def packed(self) -> bytes:
        """The index as bytes."""
        arrays: Arrays = {"offset": self.offset, "size": self.size, "pts": self.scan.pts,
                  "disposable": self.disposable, "starts": self.scan.starts,
                  "shown": self.scan.shown, "seconds": self.scan.seconds}  # fmt: skip
        if self.sound is not None:
            sound = self.sound
            arrays |= {"sound_offset": sound.offset, "sound_size": sound.size}
            arrays |= {"sound_pts": sound.pts}
        head = {
            "codec": self.codec,
            "pixels": self.pixels,
            "parameters": self.parameters.hex(),
            "time_base": [self.time_base.numerator, self.time_base.denominator],
            "height": self.height,
            "width": self.width,
            "duration_seconds": self.scan.duration_seconds,
            "sound": self.sound.head() if self.sound else None,
            "arrays": [[name, array.dtype.str, len(array)] for name, array in arrays.items()],
        }
        body = b"".join(array.tobytes() for array in arrays.values())
        return MAGIC + zlib.compress(json.dumps(head).encode() + b"\n" + body)


def unpacked(data: bytes) -> PacketIndex:
    """Read an index from its bytes; one of the version before has no sound."""
    try:
        if not data.startswith((MAGIC, MAGIC_1)):
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
            head["height"], head["width"], head.get("codec", "h264"), head.get("pixels", ""),
            _sound_unpacked(head.get("sound"), arrays),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(f"a packet index cannot be read: {error}", "one of this version") from error


def _sound_unpacked(head: Mapping[str, Any] | None, arrays: Arrays) -> SoundIndex | None:
    if head is None:
        return None
    return SoundIndex(
        arrays["sound_offset"], arrays["sound_size"], arrays["sound_pts"],
        Fraction(*head["time_base"]), head["codec"], bytes.fromhex(head["parameters"]),
        head["rate"], head["layout"], head["first_pts"],
    )  # fmt: skip


# --- making


def index_of(
    data: bytes, source_seconds: npt.NDArray[np.float64] | None = None
) -> PacketIndex | None:
    """Index a video; None where only a container can feed the decoder.

    That is for all but H.264, JPEG and raw frames in MP4 or MOV. `source_seconds` are the times
    of the source's frames that the video's frames show.
    """
    with opened(data) as video:
        stream, codec = video.pictures, video.pictures.codec_context.name
        prefix_bytes = unit_prefix_bytes(stream)
        if not (prefix_bytes or codec in WHOLE_FRAMES):
            return None
        told = scan(video, data)
        if told is None or told.held is None or stream.time_base is None:
            return None
        held = told.held
        if not all(_lies_there(data, packet) for packet in held) or _turned(data):
            return None
        height, width = shown_size(video, 0)
        seconds = told.seconds if source_seconds is None else source_seconds
        return PacketIndex(
            Scan(told.pts, told.starts, told.shown, seconds, told.duration_seconds, None),
            np.array([p.pos for p in held], np.int64),
            np.array([p.size for p in held], np.int32),
            np.array([is_disposable(p, prefix_bytes) for p in held], np.bool_),
            stream.codec_context.extradata or b"",
            stream.time_base,
            height,
            width,
            codec,
            (stream.pix_fmt or "") if codec == "rawvideo" else "",
            _sound_of(data),
        )


def _lies_there(data: bytes, packet: "Packet[Any]") -> bool:
    at = packet.pos
    return at is not None and data[at : at + packet.size] == bytes(packet)


def _turned(data: bytes) -> bool:
    with opened(data) as video:
        first = next(frame for frame in video.container.decode(video.pictures))
        return clockwise_rotation(first) != 0


def _sound_of(data: bytes) -> SoundIndex | None:
    """Index the sound that `decode_audio` gives."""
    with opened(data) as video:
        stream = video.sound
        if stream is None or stream.codec_context.codec.name not in SOUND:
            return None
        packets = [packet for packet in video.container.demux(stream) if packet.size]
        if not packets or any(p.pts is None or p.pos is None for p in packets):
            return None
        if not all(_lies_there(data, p) for p in packets):
            return None
        context, time_base = stream.codec_context, stream.time_base
        first_pts = _first_sound_pts(data)
        # A start within a packet is known to the container only.
        if time_base is None or first_pts is None or first_pts not in {p.pts for p in packets}:
            return None
        return SoundIndex(
            np.array([p.pos for p in packets], np.int64),
            np.array([p.size for p in packets], np.int32),
            np.array([p.pts for p in packets], np.int64),
            time_base,
            context.codec.name,
            context.extradata or b"",
            context.sample_rate,
            context.layout.name,
            first_pts,
        )


def _first_sound_pts(data: bytes) -> int | None:
    with opened(data) as video:
        first = next(sound_frames(video), None)
        return None if first is None else first.pts
