"""Says what is really in a video: headers are believed only where nothing better is cheap.

Knows what a file holds, not what anyone wants of it.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clipmill.errors import VideoError
from clipmill.video.source import Opened, Source, VideoPacket, frames_of, opened, packets
from clipmill.video.timing import Stamp, clock_for, is_variable, tick_count

Counted = Literal["decode", "packets"]
SizeChange = tuple[int, int, int]  # frame number, width and height from there on


@dataclass(frozen=True)
class VideoInfo:
    """What is really in a video."""

    container: str
    codec: str
    width: int  # as shown: turned upright, pixels square
    height: int
    coded_width: int
    coded_height: int
    fps: float  # the average
    frames: int
    frames_from: Counted
    duration_seconds: float
    start_offset_seconds: float  # the first frame's stamp on the container's clock
    edit_list: bool  # the container hides pictures that it holds
    variable_rate: bool
    rotation: int  # clockwise degrees that turn the coded picture upright
    pixel_aspect: float
    pixel_format: str
    bit_depth: int  # of a sample of the picture
    interlaced: bool
    size_changes: tuple[SizeChange, ...]  # in mid-stream; seen only by decoding
    audio_rate: int | None
    audio_channels: int
    video_streams: int  # cover pictures do not count
    audio_streams: int
    cover_pictures: int
    subtitle_streams: int
    data_streams: int  # and attachments
    streams: tuple[dict[str, Any], ...]  # all of them, in the container's order
    faults: tuple[str, ...]  # the decoder's words


@dataclass
class Look:
    """What a pass over the pictures has seen."""

    stamps: list[Stamp] = field(default_factory=list)
    first: VideoFrame | None = None
    interlaced: bool = False
    stampless: bool = False  # a packet came without the time at which it is shown
    hidden: int = 0  # pictures that the container holds but does not show
    damaged: int = 0  # packets that the container gave as damaged
    sizes: list[SizeChange] = field(default_factory=list)

    def see(self, frame: VideoFrame, number: int = 0) -> None:
        """Take in a frame that was decoded."""
        self.first = self.first or frame
        self.interlaced = self.interlaced or bool(frame.interlaced_frame)
        if not self.sizes or self.sizes[-1][1:] != (frame.width, frame.height):
            self.sizes.append((number, frame.width, frame.height))

    def note(self, packet: VideoPacket) -> None:
        """Take in how a packet came."""
        if packet.size:
            self.stampless = self.stampless or packet.pts is None
            self.hidden += packet.is_discard

    def count(self, packet: VideoPacket, codec: str) -> None:
        """Take in a packet for the frame that it holds."""
        self.damaged += packet.is_corrupt
        if (
            packet.size
            and not packet.is_discard
            and not (codec == "vp8" and _is_invisible_vp8(packet))
        ):
            pts = packet.dts if packet.pts is None else packet.pts
            self.stamps.append((pts, packet.duration))


def probe(source: Source, *, decode: bool = False) -> VideoInfo:
    """Look into a video: frames counted by packets (cheap), or by decoding them all."""
    with opened(source) as video:
        look = look_at_all(video) if decode else look_at_packets(video)
        return info_of(video, look, "decode" if decode else "packets")


def grid_frames(info: VideoInfo, rate: float) -> int:
    """Count the frames that a transcode to a constant rate gives."""
    return tick_count(info.duration_seconds, rate)


def clockwise_rotation(frame: VideoFrame) -> int:
    """Give the clockwise quarter turns, in degrees, that turn a frame upright."""
    return round(-frame.rotation / 90) * 90 % 360


def shown_size(video: Opened, rotation: int) -> tuple[int, int]:
    """Give height and width as shown: pixels square, upright; those of the first frame."""
    assert video.pictures
    height, coded_width = video.coded_size
    width = max(1, round(coded_width * video.pixel_aspect))
    return (width, height) if rotation % 180 else (height, width)


def look_at_all(video: Opened) -> Look:
    """Decode everything."""
    look = Look()
    for packet in packets(video, strict=False):
        look.note(packet)
        for frame in frames_of(video, packet):
            look.see(frame, len(look.stamps))
            look.stamps.append((frame.pts, frame.duration))
    return look


def look_at_packets(video: Opened) -> Look:
    """Pass over all packets, decoding no more than shows one frame."""
    look, codec = Look(), video.pictures.codec_context.name
    for packet in packets(video, strict=False):
        look.note(packet)
        look.count(packet, codec)
        if look.first is None:
            for frame in frames_of(video, packet):
                look.see(frame)
    look.stamps.sort(key=lambda stamp: -math.inf if stamp[0] is None else stamp[0])
    return look


def first_frame(video: Opened, first: VideoFrame | None) -> VideoFrame:
    """Give the first frame, or tell that there is none."""
    if first is None:
        why = "; ".join(video.faults.listed()[:1]) or "no data"
        raise VideoError(
            f"{video.name}: not one frame decodes ({why})",
            "a video that can be played",
            "leave it out",
        )
    return first


def times(video: Opened, look: Look) -> tuple[npt.NDArray[np.float64], float]:
    """Give the time of each frame, since the first one, and the duration."""
    clock = clock_for(video.pictures.time_base, video.pictures.average_rate)
    return clock.all_seconds(look.stamps), clock.end_seconds()


def info_of(video: Opened, look: Look, frames_from: Counted) -> VideoInfo:
    """Put together what a look has seen and what the container tells."""
    stream, sound, first = video.pictures, video.sound, first_frame(video, look.first)
    seconds, duration = times(video, look)
    rotation = clockwise_rotation(first)
    height, width = shown_size(video, rotation)
    listed = tuple(_told(each) for each in video.container.streams)
    kinds = [each["kind"] for each in listed]
    return VideoInfo(
        container=video.container.format.name,
        codec=stream.codec_context.name,
        width=width,
        height=height,
        coded_width=video.coded_size[1],
        coded_height=video.coded_size[0],
        fps=len(seconds) / duration,
        frames=len(seconds),
        frames_from=frames_from,
        duration_seconds=duration,
        start_offset_seconds=float((look.stamps[0][0] or 0) * (stream.time_base or 0)),
        edit_list=look.hidden > 0,
        variable_rate=is_variable(seconds, stream.time_base),
        rotation=rotation,
        pixel_aspect=float(video.pixel_aspect),
        pixel_format=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        interlaced=look.interlaced,
        size_changes=tuple(look.sizes[1:]),
        audio_rate=sound.rate if sound else None,
        audio_channels=sound.channels if sound else 0,
        video_streams=kinds.count("video"),
        audio_streams=kinds.count("audio"),
        cover_pictures=kinds.count("cover"),
        subtitle_streams=kinds.count("subtitle"),
        data_streams=kinds.count("data") + kinds.count("attachment"),
        streams=listed,
        faults=video.faults.listed(),
    )


def _told(stream: Stream) -> dict[str, Any]:
    """What the container tells of a stream; what it does not tell is left out."""
    codec = getattr(stream, "codec_context", None)  # none where there is no decoder
    cover = bool(stream.disposition & Disposition.attached_pic)
    told: dict[str, Any] = {
        "kind": "cover" if cover else stream.type,
        "codec": codec.name if codec else None,
        "default": bool(stream.disposition & Disposition.default),
    }
    if isinstance(stream, VideoStream) and codec:
        rate = float(stream.average_rate) if stream.average_rate else None
        told |= {"width": stream.width, "height": stream.height, "rate": rate}
    elif stream.type == "audio" and codec:
        told |= {"rate": codec.sample_rate, "channels": codec.channels}
    language = stream.metadata.get("language")
    return told | ({"language": language} if language and language != "und" else {})


def _is_invisible_vp8(packet: VideoPacket) -> bool:
    """Tell whether a VP8 packet only makes a picture for others to lean on."""
    return not memoryview(packet)[0] >> 4 & 1
