"""The sound of a span, from wherever it can be had: by the packet index or by the container.

By the index, bare decoders are fed the same packets, so that the samples are the same. Knows no
features and no stores.
"""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from clipmill.errors import UsageError
from clipmill.video.audio import (
    RUN_UP_SECONDS,
    Samples,
    checked_span,
    decode_audio,
    pieces_of,
    span_of,
)
from clipmill.video.index import PacketIndex, SoundIndex
from clipmill.video.indexed import ReadRange
from clipmill.video.source import Faults, Source, opened, refuse_lack_of_memory

RUN_ON_SECONDS = 0.1  # read after a span, for the filter that changes the rate of samples


def has_sound(source: Source) -> bool:
    """Tell whether a video has a sound track, whatever is to be heard on it."""
    with opened(source) as video:
        return video.sound is not None


def sound_of(
    source: Source | ReadRange,
    start_seconds: float,
    end_seconds: float,
    rate: int = 16_000,
    *,
    index: PacketIndex | None = None,
) -> Samples:
    """Give exactly round((end - start) * rate) mono samples; silence where there is no sound.

    The source is a video, or with an index that tells of sound what reads byte ranges of it.
    """
    if not callable(source):
        return decode_audio(source, start_seconds, end_seconds, rate)
    found = None
    if index is not None:
        found = decode_audio_indexed(index, source, start_seconds, end_seconds, rate)
    if found is None:
        raise UsageError("byte ranges without an index of sound", "the whole video")
    return found


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
        except av.FFmpegError as error:
            refuse_lack_of_memory("sound", Faults([]), error)
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
