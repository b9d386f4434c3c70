"""Reads packets without decoding: which frames a stream shows when, and where decoding may start.

Gives None for a stream whose packets do not tell (no stamps, several frames a packet): such a
stream can only be decoded from its beginning. Knows no pixels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from clipmill.errors import VideoError
from clipmill.video.source import Opened, Source, VideoPacket, opened, packets
from clipmill.video.timing import clock_for, tick_count

HELD_BYTES = 64 << 20  # up to this size the packets are kept in memory, not read twice
ONE_FRAME_A_PACKET = set(
    "h264 hevc vp9 av1 libdav1d mjpeg prores rawvideo ffv1 png huffyuv ffvhuff utvideo".split()
)
STAMPLESS_CONTAINERS = {"avi"}
LONGEST_REORDERING = 32  # frames; a stamp further from its place is a broken clock

_IDR, _SEI, _RECOVERY_POINT = 5, 6, 6  # H.264: kinds of unit; a kind of SEI message


@dataclass(frozen=True)
class Scan:
    """The packets of a stream; arrays in decode order but for `shown`, `seconds`."""

    pts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]  # packets from which decoding may begin, the first is 0
    shown: npt.NDArray[np.int64]  # packet of each frame, in the order shown
    seconds: npt.NDArray[np.float64]  # time of each frame shown
    duration_seconds: float
    held: tuple[VideoPacket, ...] | None

    def ticks(self, rate: float) -> int:
        """Count the ticks of a constant rate within the video."""
        return tick_count(self.duration_seconds, rate)

    def start_for(self, packet: int) -> int:
        """Give the packet from which decoding must begin to see this one's frame."""
        at = np.searchsorted(self.pts[self.starts], self.pts[packet], side="right") - 1
        return int(self.starts[at])

    def number_of(self, packet: int) -> int:
        """Give the number, in the order shown, of the frame of a packet (near it, if unseen)."""
        order = np.searchsorted(self.pts[self.shown], self.pts[packet])
        return int(order)

    def packets_from(self, video: Opened, start: int) -> Iterator[VideoPacket]:
        """Give the packets from number `start` on."""
        if self.held is not None:
            return iter(self.held[start:])
        return self._sought(video, start)

    def _sought(self, video: Opened, start: int) -> Iterator[VideoPacket]:
        """Seek, then find the packet by its stamp: where a seek lands is never believed."""
        wanted = int(self.pts[start])
        for offset in (wanted, int(self.pts[0])):
            video.container.seek(offset, stream=video.pictures, backward=True)
            source = (p for p in packets(video, strict=True) if p.size)
            for packet in source:
                if packet.pts == wanted:
                    yield packet
                    yield from source
                    return
                if packet.pts is None or (packet.is_keyframe and packet.pts > wanted):
                    break  # landed too late: once more from the beginning
        raise VideoError(f"{video.name}: packet {start} is not found again", "a file at rest")


def scan(video: Opened, source: Source) -> Scan | None:
    """Scan the opened source; long files only once in a process."""
    if isinstance(source, bytes):
        return _scan(video, hold=True)
    status = os.stat(source)
    if status.st_size <= HELD_BYTES:
        return _scan(video, hold=True)
    return _scan_long(os.fspath(source), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _scan_long(path: str, size: int, changed_ns: int) -> Scan | None:
    with opened(path) as video:
        return _scan(video, hold=False)


def _scan(video: Opened, *, hold: bool) -> Scan | None:
    stream = video.pictures
    if (
        stream.codec_context.codec.name not in ONE_FRAME_A_PACKET
        or video.container.format.name in STAMPLESS_CONTAINERS
    ):
        return None
    is_h264, prefix_bytes = stream.codec_context.codec.name == "h264", unit_prefix_bytes(stream)
    held: list[VideoPacket] = []
    stamps: list[tuple[int, int]] = []
    starts, unseen = [], []
    for packet in packets(video, strict=False):
        if not packet.size:
            continue
        # New parameters in mid-stream come with one packet only: no start after it would know.
        if packet.pts is None or packet.has_sidedata("new_extradata"):
            return None
        if packet.is_keyframe and (not is_h264 or _is_clean_start(packet, prefix_bytes)):
            starts.append(len(stamps))
        if packet.is_discard:
            unseen.append(len(stamps))
        stamps.append((packet.pts, packet.duration or 0))
        if hold:
            held.append(packet)
    return _table(stream, stamps, starts, unseen, tuple(held) if hold else None)


def _table(
    stream: VideoStream,
    stamps: list[tuple[int, int]],
    starts: list[int],
    unseen: list[int],
    held: tuple[VideoPacket, ...] | None,
) -> Scan | None:
    if not stamps or not starts or starts[0] != 0:
        return None
    pts, durations = np.array(stamps, dtype=np.int64).T
    order = np.argsort(pts, kind="stable")
    moved = np.abs(order - np.arange(len(order))).max()
    if order[0] != 0 or moved > LONGEST_REORDERING or len(np.unique(pts)) != len(pts):
        return None
    shown = order[~np.isin(order, unseen)]
    first = np.asarray(starts, dtype=np.int64)
    if not len(shown) or np.any(np.diff(pts[first]) <= 0):
        return None
    clock = clock_for(stream.time_base, stream.average_rate)
    seconds = clock.all_seconds(
        list(zip(pts[shown].tolist(), durations[shown].tolist(), strict=True))
    )
    return Scan(pts, first, shown, seconds, clock.end_seconds(), held)


def unit_prefix_bytes(stream: VideoStream) -> int:
    """Give the width of the length before each H.264 unit, 0 where units cannot be told apart."""
    header = stream.codec_context.extradata
    if stream.codec_context.codec.name != "h264" or not header or header[0] != 1:
        return 0
    return (header[4] & 3) + 1


def is_disposable(packet: VideoPacket, prefix_bytes: int) -> bool:
    """Tell whether no other frame leans on this one (H.264 only, else never)."""
    for unit in _units(packet, prefix_bytes):
        if 1 <= unit[0] & 31 <= _IDR:
            return not unit[0] >> 5 & 3  # nal_ref_idc
    return False


def _is_clean_start(packet: VideoPacket, prefix_bytes: int) -> bool:
    """Tell whether H.264 from this key frame on decodes the same with nothing before it."""
    return any(
        unit[0] & 31 == _IDR or (unit[0] & 31 == _SEI and _recovers_at_once(unit))
        for unit in _units(packet, prefix_bytes)
    )


def _recovers_at_once(unit: memoryview) -> bool:
    """Look in an SEI unit for a recovery point with a count of zero frames."""
    at = 1
    while at + 2 < len(unit):
        kind, at = _sei_number(unit, at)
        size, at = _sei_number(unit, at)
        if kind == _RECOVERY_POINT:
            return at < len(unit) and unit[at] & 0x80 != 0  # ue(v): a leading 1 is zero
        at += size
    return False


def _sei_number(unit: memoryview, at: int) -> tuple[int, int]:
    number = 0
    while at < len(unit) - 1 and unit[at] == 255:
        number, at = number + 255, at + 1
    return number + unit[at], at + 1


def _units(packet: VideoPacket, prefix_bytes: int) -> Iterator[memoryview]:
    """Give the NAL units of an H.264 packet; nothing where units cannot be told apart."""
    if not prefix_bytes:
        return
    data, at = memoryview(packet), 0
    while at + prefix_bytes < len(data):
        size = int.from_bytes(data[at : at + prefix_bytes], "big")
        at += prefix_bytes
        if size:
            yield data[at : at + size]
        at += size
