"""Gives the sound of a video as mono samples on the clock of its pictures.

Second 0 is the first frame shown; where there is no sound there are zeros. Knows no features.
"""

from collections.abc import Iterable, Iterator

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from clipmill.errors import UsageError, VideoError
from clipmill.video.source import (
    DEMUX_ERRORS,
    Opened,
    Source,
    decoded_frames,
    opened,
    refuse_lack_of_memory,
    told,
)

Samples = npt.NDArray[np.float32]

GAP_SECONDS = 0.05  # stamps that wander by less are rounding, not silence
RUN_UP_SECONDS = 1.0  # decoded before a span, for codecs that lean on what came before
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


def decode_audio(
    source: Source, start_seconds: float, end_seconds: float, rate: int = 16_000
) -> Samples:
    """Give exactly round((end - start) * rate) mono samples of a span."""
    checked_span(start_seconds, end_seconds, rate)
    with opened(source) as video:
        if video.sound is None:
            return np.zeros(round((end_seconds - start_seconds) * rate), np.float32)
        origin = first_frame_seconds(source)
        seek_sound(video, origin + start_seconds)
        return span_of(sound_pieces(video, origin, rate), start_seconds, end_seconds, rate)


def checked_span(start_seconds: float, end_seconds: float, rate: int) -> None:
    """Refuse what is no span of sound."""
    if not end_seconds >= start_seconds or rate <= 0:
        raise UsageError(f"{start_seconds} to {end_seconds} s at {rate} Hz", "a span and a rate")


def span_of(
    pieces: Iterator[tuple[int, Samples]], start_seconds: float, end_seconds: float, rate: int
) -> Samples:
    """Lay pieces into exactly round((end - start) * rate) samples; zeros where there are none."""
    samples = np.zeros(round((end_seconds - start_seconds) * rate), np.float32)
    begin = round(start_seconds * rate)
    for at, piece in pieces:
        if at - begin >= len(samples):
            break
        _place(samples, at - begin, piece)
    return samples


def first_frame_seconds(source: Source) -> float:
    """Give the stamp, on the container's clock, of the first frame that decodes."""
    with opened(source) as video:
        first = next(decoded_frames(video), None)
        if first is None:
            raise VideoError(f"{video.name}: not one frame decodes", "a video that can be played")
        return stamp_seconds(first.pts, video)


def stamp_seconds(pts: int | None, video: Opened) -> float:
    """Put a picture's stamp on the clock that sound and pictures share."""
    return float((pts or 0) * (video.pictures.time_base or 0))


def sound_pieces(video: Opened, origin_seconds: float, rate: int) -> Iterator[tuple[int, Samples]]:
    """Give pieces of sound with the number of their first sample, counted from the origin.

    Pieces come in the order of the file; gaps between them are silence.
    """
    frames = ((frame.time, frame) for frame in sound_frames(video))
    yield from pieces_of(frames, origin_seconds, rate)


def pieces_of(
    frames: Iterable[tuple[float | None, AudioFrame]], origin_seconds: float, rate: int
) -> Iterator[tuple[int, Samples]]:
    """Give pieces as `sound_pieces` does, of frames with their times."""
    at, expected, resampler, shape = 0, 0.0, None, None
    for time_seconds, frame in frames:
        seconds = time_seconds - origin_seconds if time_seconds is not None else expected
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or now != shape or abs(seconds - expected) > GAP_SECONDS:
            if resampler is not None:
                yield from _resampled(resampler, None, at)
            resampler, shape = AudioResampler("flt", "mono", rate), now
            at, expected = round(seconds * rate), seconds
        expected += frame.samples / frame.sample_rate
        frame.pts = None  # the resampler must not mend what is mended here
        for at_piece, piece in _resampled(resampler, frame, at):
            yield at_piece, piece
            at = at_piece + len(piece)
    if resampler is not None:
        yield from _resampled(resampler, None, at)


def contiguous(pieces: Iterator[tuple[int, Samples]]) -> Iterator[Samples]:
    """Turn pieces into one unbroken run from sample 0 on: gaps filled, overlaps cut."""
    reached = 0
    for at, piece in pieces:
        if at > reached:
            yield np.zeros(at - reached, np.float32)
            reached = at
        fresh = piece[reached - at :]
        if len(fresh):
            yield fresh
            reached += len(fresh)


def _resampled(
    resampler: AudioResampler, frame: AudioFrame | None, at: int
) -> Iterator[tuple[int, Samples]]:
    for out in resampler.resample(frame):
        piece = out.to_ndarray().reshape(-1).astype(np.float32, copy=False)
        yield at, piece
        at += len(piece)


def sound_frames(video: Opened) -> Iterator[AudioFrame]:
    """Decode the sound from where the container stands; what does not decode becomes a gap."""
    stream = video.sound
    if stream is None:
        return
    try:
        for packet in video.container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                refuse_lack_of_memory(video.name, video.faults, error)
                video.faults.add(told(error))
    except DEMUX_ERRORS as error:
        refuse_lack_of_memory(video.name, video.faults, error)
        video.faults.add(told(error))


def seek_sound(video: Opened, seconds: float) -> None:
    """Go to some time before a moment on the container's clock, where it can be done cheaply."""
    stream = video.sound
    early = seconds - RUN_UP_SECONDS
    if stream is None or not stream.time_base or early <= 0:
        return
    if video.container.format.name in SEEKABLE:
        video.container.seek(int(early / stream.time_base), stream=stream, backward=True)


def _place(samples: Samples, at: int, piece: Samples) -> None:
    begin, end = max(0, at), min(len(samples), at + len(piece))
    if begin < end:
        samples[begin:end] = piece[begin - at : end - at]
