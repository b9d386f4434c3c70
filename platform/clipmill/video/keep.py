"""Keeps a video's streams as they are: its own bytes, or remuxed where packets have no stamps.

One pass over the packets; of the pictures one frame is decoded, unless all shall be checked or
nothing less tells the order in which they are shown.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from clipmill.errors import VideoError
from clipmill.video.facts import VideoInfo, info_of, look_at_all, look_at_packets, times
from clipmill.video.profile import Transcoded
from clipmill.video.scan import STAMPLESS_CONTAINERS
from clipmill.video.source import (
    DEMUX_ERRORS,
    Opened,
    Source,
    VideoPacket,
    frames_of,
    last_frames,
    opened,
    told,
)
from clipmill.video.write import writing

Numbers = npt.NDArray[np.int64]

SUFFIXES = {
    "mpegts": "ts", "mpeg": "mpg", "ogg": "ogv", "asf": "wmv", "yuv4mpegpipe": "y4m",
    "mpegvideo": "mpg", "live_flv": "flv",
}  # fmt: skip
# Codecs whose frames are shown in the order in which they are stored.
UNORDERED = {
    "mjpeg", "msmpeg4", "msmpeg4v1", "msmpeg4v2", "h263", "h263p", "flv", "wmv1", "wmv2", "dvvideo",
    "ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "lagarith", "rawvideo", "cinepak",
    "indeo3", "indeo5", "msvideo1", "msrle", "png", "tscc", "zmbv", "qtrle", "svq1", "vp8",
}  # fmt: skip
WEBM = {"vp8", "vp9", "av1", "libdav1d", "opus", "vorbis", "libopus", "libvorbis"}
CONTAINERS = ("mp4", "matroska")  # the first whose muxer takes the codecs
NO_PICTURE_BYTES = 19  # an MPEG-4 packet so small may say that there is no new picture
TODO = "use the training profile"
_PICTURE_UNIT = b"\x00\x00\x01\xb6"  # MPEG-4: the two bits after it tell the picture's kind
_B_PICTURE = 2


def keep(source: Source, *, check: bool = False) -> tuple[bytes, Transcoded]:
    """Give the video as it is, or its streams in a container that tells when frames are shown."""
    with opened(source) as video:
        look = look_at_all(video) if check else look_at_packets(video)
        info = info_of(video, look, "decode" if check else "packets")
        stampless = look.stampless or info.container in STAMPLESS_CONTAINERS
        seconds, _ = times(video, look)
        damaged = look.damaged + video.undecodable_packets + video.corrupt_frames
        told_of = _told(info, _suffix(video), seconds, damaged)
    if not stampless:
        return _bytes(source), told_of
    with opened(source) as video:
        stored = _stored(video)
        order, by_decoding = _display_order(video, stored.pictures)
        _stamp(video, stored, order)
        data, suffix = _remuxed(video, stored)
    if by_decoding:
        told_of = replace(told_of, frames_from="decode")
    return data, replace(told_of, suffix=suffix)


def _bytes(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _suffix(video: Opened) -> str:
    """Give the suffix of the file's own container."""
    name = video.container.format.name
    if name.startswith("mov"):
        brand = video.container.metadata.get("major_brand", "qt  ")  # files without one are MOV
        return "mov" if brand.startswith("qt") else "mp4"
    if name.startswith("matroska"):
        streams = [s for s in video.container.streams if s.type in ("video", "audio")]
        return "webm" if all(_codec(stream) in WEBM for stream in streams) else "mkv"
    return SUFFIXES.get(name, name.partition(",")[0])


def _codec(stream: Stream) -> str | None:
    return stream.codec_context.name if stream.codec_context else None


def _told(
    info: VideoInfo, suffix: str, seconds: npt.NDArray[np.float64], damaged: int
) -> Transcoded:
    return Transcoded(
        suffix=suffix,
        width=info.width,
        height=info.height,
        fps=info.fps,
        frames=info.frames,
        frames_from=info.frames_from,
        duration_seconds=info.duration_seconds,
        source_times_seconds=seconds,
        has_audio=info.audio_rate is not None,
        corrupt_frames=damaged,
        faults=info.faults,
    )


# --- remuxing


@dataclass(frozen=True)
class _Stored:
    """The packets of a video, and which of them are its pictures, in the order stored."""

    packets: "list[tuple[int, Packet[Any]]]"  # number of the stream, packet
    pictures: list[VideoPacket]
    slots: list[int]  # when frames are shown, rising; in ticks of the pictures' stream


def _stored(video: Opened) -> _Stored:
    """Read all packets of pictures and sound; MPEG-4's packed frames get packets of their own."""
    pictures, sounds = video.pictures, video.container.streams.audio
    unpack = None
    if pictures.codec_context.name == "mpeg4":
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", pictures)
    stored = _Stored([], [], [])
    try:
        for packet in video.container.demux(pictures, *sounds):
            if packet.stream is not pictures:
                stored.packets.append((packet.stream.index, packet))
                continue
            if packet.size:
                stored.slots.append(_slot(video, packet.dts, len(stored.slots)))
            whole: list[Any] = [packet]
            if unpack is not None:
                whole = unpack.filter(packet if packet.size else None)
            stored.packets.extend((pictures.index, each) for each in whole)
            stored.pictures.extend(each for each in whole if each.size)
    except DEMUX_ERRORS as error:
        video.faults.add(told(error))
    if len(stored.slots) != len(stored.pictures) or np.any(np.diff(stored.slots) <= 0):
        raise _unfaithful(video, "its packets tell no times")
    return stored


def _slot(video: Opened, dts: int | None, number: int) -> int:
    if dts is not None:
        return dts
    stream = video.pictures
    return round(number / ((stream.average_rate or 25) * (stream.time_base or 1)))


def _display_order(video: Opened, pictures: list[VideoPacket]) -> tuple[Numbers, bool]:
    """Give each packet's place in the order shown, and whether it took decoding to know."""
    codec = video.pictures.codec_context.name
    if codec in UNORDERED:
        return np.arange(len(pictures)), False
    order = _mpeg4_order(pictures) if codec == "mpeg4" else None
    by_decoding = order is None
    if order is None:
        order = _decoded_order(video, pictures)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places, by_decoding


def _mpeg4_order(pictures: list[VideoPacket]) -> list[int] | None:
    """Put packets in the order shown by the kinds of their pictures; None if they do not tell."""
    order: list[int] = []
    held: int | None = None  # shown after the B pictures that follow it
    for number, packet in enumerate(pictures):
        _, *units = bytes(packet).split(_PICTURE_UNIT)
        if len(units) != 1 or not units[0] or packet.size <= NO_PICTURE_BYTES:
            return None
        if units[0][0] >> 6 == _B_PICTURE:
            if not order:
                return None
            order.append(number)
        else:
            order += [] if held is None else [held]
            held = number
    return order if held is None else [*order, held]


def _decoded_order(video: Opened, pictures: list[VideoPacket]) -> list[int]:
    """Put packets in the order shown by decoding them all."""
    order: list[int | None] = []
    for number, packet in enumerate(pictures):
        packet.pts = packet.dts = number
        order += [frame.pts for frame in frames_of(video, packet)]
    order += [frame.pts for frame in last_frames(video)]
    numbers = [number for number in order if number is not None]
    if sorted(numbers) != list(range(len(pictures))):
        raise _unfaithful(video, f"{len(order)} frames in {len(pictures)} packets")
    return numbers


def _stamp(video: Opened, stored: _Stored, places: Numbers) -> None:
    """Say of each picture when it is decoded and shown."""
    slots, time_base = np.array(stored.slots, np.int64), video.pictures.time_base
    assert time_base is not None
    shown = slots[places]
    decoded = slots - max(0, int((slots - shown).max()))
    for packet, pts, dts in zip(stored.pictures, shown.tolist(), decoded.tolist(), strict=True):
        packet.pts, packet.dts, packet.time_base = pts, dts, time_base


def _remuxed(video: Opened, stored: _Stored) -> tuple[bytes, str]:
    for container in CONTAINERS:
        target = io.BytesIO()
        try:
            with writing(target, format=container) as out:
                _mux(video, stored, out)
        except (VideoError, ValueError):  # it does not take one of the codecs
            continue
        data = target.getvalue()
        with opened(data) as made:
            look = look_at_packets(made)
        if len(look.stamps) == len(stored.pictures) and not look.stampless:
            return data, {"matroska": "mkv"}.get(container, container)
    raise _unfaithful(video, f"no other container takes its {video.pictures.codec_context.name}")


def _mux(video: Opened, stored: _Stored, out: OutputContainer) -> None:
    streams = [video.pictures, *video.container.streams.audio]
    copies = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in streams}
    for index, packet in stored.packets:
        if packet.size:
            packet.stream = copies[index]
            packet.pts = packet.dts if packet.pts is None else packet.pts
            out.mux(packet)


def _unfaithful(video: Opened, why: str) -> VideoError:
    return VideoError(f"{video.name} cannot be kept: {why}", "packets that tell when frames are shown", TODO)  # fmt: skip
