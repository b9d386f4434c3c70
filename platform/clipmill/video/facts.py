"""Says what is really in a video: headers are believed only where nothing better is cheap.

Knows what a file holds, not what anyone wants of it.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clipmill.errors import VideoError
from clipmill.video.source import Opened, Source, decoded_frames, frames_of, opened, packets
from clipmill.video.timing import clock_for, tick_count

Stamp = tuple[int | None, int | None]  # pts and duration, in ticks of the stream


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
    frames_from: Literal["decode", "packets"]
    duration_seconds: float
    variable_rate: bool
    rotation: int  # clockwise degrees that turn the coded picture upright
    pixel_aspect: float
    pixel_format: str
    interlaced: bool
    audio_rate: int | None
    audio_channels: int
    video_streams: int  # cover pictures do not count
    audio_streams: int
    faults: tuple[str, ...]  # the decoder's words


@dataclass
class _Look:
    """What a pass over the pictures has seen."""

    stamps: list[Stamp] = field(default_factory=list)
    first: VideoFrame | None = None
    interlaced: bool = False

    def see(self, frame: VideoFrame) -> None:
        self.first = self.first or frame
        self.interlaced = self.interlaced or bool(frame.interlaced_frame)


def probe(source: Source, *, decode: bool = False) -> VideoInfo:
    """Look into a video: frames counted by packets (cheap), or by decoding them all."""
    with opened(source) as video:
        look = _look_at_all(video) if decode else _look_at_packets(video)
        if look.first is None:
            raise VideoError(
                f"{video.name}: not one frame decodes ({'; '.join(video.faults.listed()[:1])})",
                "a video that can be played",
                "leave it out",
            )
        return _info(video, look, look.first, "decode" if decode else "packets")


def grid_frames(info: VideoInfo, rate: float) -> int:
    """Count the frames that a transcode to a constant rate gives."""
    return tick_count(info.duration_seconds, rate)


def clockwise_rotation(frame: VideoFrame) -> int:
    """Give the clockwise quarter turns, in degrees, that turn a frame upright."""
    return round(-frame.rotation / 90) * 90 % 360


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Give how wide a pixel is for its height."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and aspect > 0 else Fraction(1)


def shown_size(stream: VideoStream, rotation: int) -> tuple[int, int]:
    """Give height and width as shown: pixels square, upright."""
    height, width = stream.height, max(1, round(stream.width * pixel_aspect(stream)))
    return (width, height) if rotation % 180 else (height, width)


def _look_at_all(video: Opened) -> _Look:
    look = _Look()
    for frame in decoded_frames(video):
        look.see(frame)
        look.stamps.append((frame.pts, frame.duration))
    return look


def _look_at_packets(video: Opened) -> _Look:
    look = _Look()
    for packet in packets(video, strict=False):
        if packet.size and not packet.is_discard:
            pts = packet.dts if packet.pts is None else packet.pts
            look.stamps.append((pts, packet.duration))
        if look.first is None:
            for frame in frames_of(video, packet):
                look.see(frame)
    look.stamps.sort(key=lambda stamp: -math.inf if stamp[0] is None else stamp[0])
    return look


def _info(
    video: Opened, look: _Look, first: VideoFrame, frames_from: Literal["decode", "packets"]
) -> VideoInfo:
    stream, sound = video.pictures, video.sound
    seconds, duration = _times(stream, look.stamps)
    rotation = clockwise_rotation(first)
    height, width = shown_size(stream, rotation)
    return VideoInfo(
        container=video.container.format.name,
        codec=stream.codec_context.name,
        width=width,
        height=height,
        coded_width=stream.width,
        coded_height=stream.height,
        fps=len(seconds) / duration,
        frames=len(seconds),
        frames_from=frames_from,
        duration_seconds=duration,
        variable_rate=_is_variable(seconds, stream.time_base),
        rotation=rotation,
        pixel_aspect=float(pixel_aspect(stream)),
        pixel_format=first.format.name,
        interlaced=look.interlaced,
        audio_rate=sound.rate if sound else None,
        audio_channels=sound.channels if sound else 0,
        video_streams=sum(1 for _ in video.picture_streams),
        audio_streams=len(video.container.streams.audio),
        faults=video.faults.listed(),
    )


def _times(stream: VideoStream, stamps: list[Stamp]) -> tuple[npt.NDArray[np.float64], float]:
    clock = clock_for(stream.time_base, stream.average_rate)
    seconds = np.array([clock.seconds(pts, duration) for pts, duration in stamps])
    return seconds, clock.end_seconds()


def _is_variable(seconds: npt.NDArray[np.float64], time_base: Fraction | None) -> bool:
    """Tell whether gaps differ by more than the rounding of the container's clock."""
    if len(seconds) < 3:
        return False
    gaps = np.diff(seconds)
    return bool(np.ptp(gaps) > 0.1 * np.median(gaps) + 2 * float(time_base or 0))
