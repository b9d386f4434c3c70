"""Writes pictures + AAC in MP4 or MOV, the same bytes for the same input: one thread, no times.

Knows how to write, not what: callers choose sizes, rates and how frames lean on each other.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from clipmill.errors import UsageError, VideoError

Target = str | os.PathLike[str] | BinaryIO
Samples = npt.NDArray[np.float32]

AUDIO_BLOCK = 1024  # samples in an AAC frame
AUDIO_BITS_PER_SECOND = 48_000
LIMITED_RANGE, BT601 = 1, 6  # the tags of what the encoder is given


@dataclass(frozen=True)
class Coding:
    """How pictures are coded."""

    codec: str = "libx264"
    pixels: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    colorspace: int = BT601
    color_range: int = LIMITED_RANGE


class Writer:
    """A video being written: pictures and sound arrive in time order, sound after its picture."""

    def __init__(
        self,
        container: OutputContainer,
        *,
        size: tuple[int, int],
        fps: Fraction,
        coding: Coding,
        audio_rate: int | None,
    ) -> None:
        self._container = container
        self._frame_seconds = 1 / fps
        self._pictures = _picture_stream(container, size, fps, coding)
        self._sound = _sound_stream(container, audio_rate) if audio_rate else None
        self._rate = audio_rate or 0
        self._sample_seconds = Fraction(1, audio_rate or 1)
        self._rest: Samples = np.zeros(0, np.float32)
        self._frames = self._samples = 0

    def picture(self, frame: VideoFrame) -> None:
        """Write the next frame, in the coding's pixel format."""
        frame.pts, frame.time_base = self._frames, self._frame_seconds
        frame.pict_type = PictureType.NONE  # the ladder decides, not what the source was
        self._frames += 1
        self._container.mux(self._pictures.encode(frame))

    def sound(self, samples: Samples) -> None:
        """Write the samples that follow those written before."""
        self._rest = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(self._rest) // AUDIO_BLOCK * AUDIO_BLOCK
        for at in range(0, whole, AUDIO_BLOCK):
            self._block(self._rest[at : at + AUDIO_BLOCK])
        self._rest = self._rest[whole:]

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if self._sound is not None:
            if len(self._rest):
                self._block(self._rest)
            self._container.mux(self._sound.encode(None))
        self._container.mux(self._pictures.encode(None))

    def _block(self, samples: Samples) -> None:
        assert self._sound is not None
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = self._rate, self._samples
        frame.time_base = self._sample_seconds
        self._samples += len(samples)
        self._container.mux(self._sound.encode(frame))


@contextmanager
def writing(
    target: Target, *, format: str = "mp4", faststart: bool = False
) -> Iterator[OutputContainer]:
    """Open a container for writing; with faststart the target must be a path."""
    options = {"fflags": "+bitexact", **({"movflags": "+faststart"} if faststart else {})}
    handle = f"file:{os.fspath(target)}" if isinstance(target, str | os.PathLike) else target
    try:
        with av.open(handle, "w", format=format, container_options=options) as container:
            yield container
    except av.FFmpegError as error:
        raise VideoError(f"writing {target!s}: {error.strerror}", "a place to write to") from error


def encode(
    target: Target,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: float,
    audio: npt.NDArray[np.float32] | None = None,
    audio_rate: int = 16_000,
    crf: int | None = 20,
    preset: str = "veryfast",
    x264: Mapping[str, str] | None = None,
) -> None:
    """Write RGB frames [H, W, 3] and mono sound as H.264 yuv420p and AAC in an MP4.

    `x264` adds to the encoder's settings; with crf=None it must choose the quality.
    """
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise UsageError("no frames", "at least one frame to encode")
    height, width = _checked_size(first)
    quality = {} if crf is None else {"crf": str(crf)}
    options = {"preset": preset, **quality, **(x264 or {})}
    with writing(target) as container:
        writer = Writer(
            container,
            size=(height, width),
            fps=Fraction(fps).limit_denominator(1001),
            coding=Coding(options=options),
            audio_rate=None if audio is None else audio_rate,
        )
        to_yuv, heard = _ToYuv(), 0
        for number, picture in enumerate(chain([first], pictures), start=1):
            writer.picture(to_yuv(picture))
            if audio is not None:
                end = round(number * audio_rate / fps)
                writer.sound(audio[heard:end])
                heard = end
        if audio is not None:
            writer.sound(audio[heard:])
        writer.finish()


def _checked_size(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise UsageError(f"a frame of {frame.shape} {frame.dtype}", "uint8 [H, W, 3]")
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        raise UsageError(f"frames of {height} x {width}", "an even height and width")
    return height, width


class _ToYuv:
    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: npt.NDArray[np.uint8]) -> VideoFrame:
        frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24")
        return self._reformatter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=LIMITED_RANGE,
            threads=1,
        )


def _picture_stream(
    container: OutputContainer, size: tuple[int, int], fps: Fraction, coding: Coding
) -> VideoStream:
    stream = container.add_stream(coding.codec, rate=fps, options=_exact(coding))
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = size
    stream.pix_fmt = coding.pixels
    stream.codec_context.thread_count = 1
    stream.codec_context.color_range = coding.color_range
    stream.codec_context.colorspace = coding.colorspace
    return stream


def _exact(coding: Coding) -> dict[str, str]:
    """An encoder's settings, such that it gives the same bytes on any processor.

    Else x264 decides by approximations of the processor's own; on those with AVX-512 it was seen
    to give other bytes for the same pictures in one and the same process.
    """
    options = dict(coding.options)
    if coding.codec == "libx264":
        told = (options.get("x264-params"), "cpu-independent=1")
        options["x264-params"] = ":".join(filter(None, told))
    return options


def _sound_stream(container: OutputContainer, rate: int) -> AudioStream:
    # The fast coder takes half the time of the default one and is as reproducible.
    stream = container.add_stream("aac", rate=rate, layout="mono", options={"aac_coder": "fast"})
    stream.bit_rate = AUDIO_BITS_PER_SECOND
    return stream
