"""Decodes by the packet index: reads byte ranges and feeds bare decoders, without a container.

Frames are bit for bit those of the container's way; so is sound, as the same packets are fed.
Knows where packets lie, and not in what store.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from clipmill.errors import VideoError
from clipmill.video.audio import RUN_UP_SECONDS, Samples, checked_span, pieces_of, span_of
from clipmill.video.index import WHOLE_FRAMES, PacketIndex, SoundIndex
from clipmill.video.read import Crop, Found, by_packet, checked, pictures

ReadRange = Callable[[int, int], bytes]  # offset and length within the video's bytes

RUN_ON_SECONDS = 0.1  # read after a span, for the filter that changes the rate of samples


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
    spans = by_packet(index.scan, numbers)
    found = (_whole_frames if index.codec in WHOLE_FRAMES else _found)(index, read, spans)
    return pictures((index.height, index.width), found, len(numbers), short_side, crop)


def decode_audio_indexed(
    index: PacketIndex,
    read: ReadRange,
    start_seconds: float,
    end_seconds: float,
    rate: int = 16_000,
) -> Samples | None:
    """Give the sound of a span as `decode_audio` does, reading only the bytes that it needs.

    None where the index tells of no sound: then there is none, or only a container can feed it.
    """
    checked_span(start_seconds, end_seconds, rate)
    if index.sound is None:
        return None
    sound, origin = index.sound, index.origin_seconds
    frames = _sound_frames(sound, read, origin + start_seconds, origin + end_seconds)
    return span_of(pieces_of(frames, origin, rate), start_seconds, end_seconds, rate)


# --- pictures


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
    context = _decoder(index)
    try:
        for number in fed.tolist():
            at = int(index.offset[number]) - low
            packet = av.Packet(data[at : at + int(index.size[number])])
            packet.pts, packet.time_base = int(index.scan.pts[number]), index.time_base
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.FFmpegError as error:
        raise VideoError(f"frame {index.scan.number_of(start)} and on: {error}") from error


def _whole_frames(
    index: PacketIndex, read: ReadRange, spans: dict[int, dict[int, list[int]]]
) -> Iterator[Found]:
    """Decode frames that lean on nothing, each from its own bytes."""
    context = _decoder(index)
    for start in sorted(spans):
        for number, places in spans[start].items():
            packet = av.Packet(read(int(index.offset[number]), int(index.size[number])))
            try:
                (frame,) = context.decode(packet)
            except (av.FFmpegError, ValueError) as error:
                shown = index.scan.number_of(number)
                raise VideoError(f"frame {shown} does not decode", "an undamaged video") from error
            yield places, frame


def _decoder(index: PacketIndex) -> VideoCodecContext:
    context = av.CodecContext.create(index.codec, "r")
    assert isinstance(context, VideoCodecContext)
    if index.parameters:
        context.extradata = index.parameters
    if index.pixels:
        context.width, context.height, context.pix_fmt = index.width, index.height, index.pixels
    context.thread_count = 1
    return context


# --- sound


def _sound_frames(
    sound: SoundIndex, read: ReadRange, start_seconds: float, end_seconds: float
) -> Iterator[tuple[float, AudioFrame]]:
    """Feed a bare decoder from where the container's way would begin; gives frames and times."""
    tick = float(sound.time_base)
    low, early = 0, start_seconds - RUN_UP_SECONDS
    if early > 0:
        low = max(0, int(np.searchsorted(sound.pts, int(early / sound.time_base), "right")) - 1)
    high = int(np.searchsorted(sound.pts, (end_seconds + RUN_ON_SECONDS) / tick, "right"))
    if high <= low:
        return
    first_byte = int(sound.offset[low:high].min())
    data = read(first_byte, int((sound.offset + sound.size)[low:high].max()) - first_byte)
    context = _sound_decoder(sound)
    for number in range(low, high):
        at = int(sound.offset[number]) - first_byte
        packet: Any = av.Packet(data[at : at + int(sound.size[number])])
        packet.pts, packet.time_base = int(sound.pts[number]), sound.time_base
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            continue  # a gap, as by the container's way
        for frame in frames:
            if frame.pts is not None and frame.pts >= sound.first_pts:
                yield float(frame.pts * sound.time_base), frame


def _sound_decoder(sound: SoundIndex) -> AudioCodecContext:
    context = av.CodecContext.create(sound.codec, "r")
    assert isinstance(context, AudioCodecContext)
    if sound.parameters:
        context.extradata = sound.parameters
    context.sample_rate, context.layout, context.thread_count = sound.rate, sound.layout, 1
    return context
