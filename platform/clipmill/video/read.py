"""Gives exactly the asked frames of a video as RGB, decoding and converting as little as it can.

Frames are found by the time they are shown. The result is bit for bit that of decoding
everything with the same scaler. Knows nothing of clips, models or random numbers.
"""

from collections.abc import Iterator, Sequence

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from clipmill.errors import UsageError, VideoError
from clipmill.video.rgb import Crop, Found, Pixels, pictures
from clipmill.video.scan import Scan, is_disposable, scan, unit_prefix_bytes
from clipmill.video.source import Opened, Source, cannot_decode, opened, packets
from clipmill.video.timing import clock_for, frames_at_ticks, on_grid

Numbers = npt.NDArray[np.int64]


def decode_frames(
    source: Source,
    frame_numbers: Sequence[int] | Numbers,
    *,
    short_side: int | None = None,
    crop: Crop | None = None,
    rate: float | None = None,
    out: Pixels | None = None,
) -> Pixels:
    """Give the asked frames as uint8 [T, H, W, 3], in the order asked; in `out` if it is given.

    Number n is the n-th frame shown, or, with a rate, the frame on screen n / rate seconds after
    the first one.
    """
    numbers = checked(frame_numbers)
    with opened(source) as video:
        assert video.pictures  # its first size is taken before packets change it
        table = scan(video, source)
        if table is not None:
            found = from_key_frames(video, table, numbers, rate)
            return pictures(video, found, len(numbers), short_side, crop, out)
    with opened(source) as video:
        found = _from_the_beginning(video, numbers, rate)
        return pictures(video, found, len(numbers), short_side, crop, out)


def checked(frame_numbers: Sequence[int] | Numbers) -> Numbers:
    """Refuse what are no frame numbers."""
    numbers = np.asarray(frame_numbers)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise UsageError(f"frame numbers {frame_numbers!r}", "a list of at least one integer")
    if numbers.min() < 0:
        raise UsageError(f"frame number {numbers.min()}", "0 or more")
    return numbers.astype(np.int64)


def _positions(numbers: Numbers) -> dict[int, list[int]]:
    """Say for each number asked where in the result it goes."""
    places: dict[int, list[int]] = {}
    for position, number in enumerate(numbers.tolist()):
        places.setdefault(number, []).append(position)
    return places


def _past_the_end(video: Opened, number: int, count: int, rate: float | None) -> VideoError:
    unit = "" if rate is None else f" at {rate:g} a second"
    return VideoError(f"{video.name}: frame {number}{unit}", f"a number below {count}")


def from_key_frames(
    video: Opened, table: Scan, numbers: Numbers, rate: float | None = None
) -> Iterator[Found]:
    """Give frames as decoded, from the key frames before them, with their places in what is asked."""
    count = len(table.shown) if rate is None else table.ticks(rate)
    if numbers.max() >= count:
        raise _past_the_end(video, int(numbers.max()), count, rate)
    frames = numbers if rate is None else frames_at_ticks(table.seconds, numbers, rate)
    spans = by_packet(table, frames)
    for start in sorted(spans):
        yield from _span(video, table, start, spans[start])


def by_packet(table: Scan, frames: Numbers) -> dict[int, dict[int, list[int]]]:
    """Say for each start of decoding which packets are wanted, and where in the result they go."""
    spans: dict[int, dict[int, list[int]]] = {}
    for packet, positions in _positions(table.shown[frames]).items():
        spans.setdefault(table.start_for(packet), {})[packet] = positions
    return spans


def _span(video: Opened, table: Scan, start: int, wanted: dict[int, list[int]]) -> Iterator[Found]:
    """Decode from one key frame what is wanted of the frames up to the next."""
    missing = {int(table.pts[packet]): packet for packet in wanted}
    for frame in _frames_of_span(video, table, start, wanted):
        packet = missing.pop(frame.pts, None) if frame.pts is not None else None
        if packet is not None:
            yield wanted[packet], frame
    if not missing:
        return
    if start == 0:
        number = table.number_of(min(missing.values()))
        raise VideoError(f"{video.name}: frame {number} does not decode", "an undamaged video")
    left = {packet: wanted[packet] for packet in missing.values()}
    yield from _span(video, table, 0, left)  # the key frame was not what it seemed


def _frames_of_span(
    video: Opened, table: Scan, start: int, wanted: dict[int, list[int]]
) -> Iterator[VideoFrame]:
    stream = video.pictures
    prefix_bytes, first_pts = unit_prefix_bytes(stream), int(table.pts[start])
    for index, packet in zip(
        range(start, max(wanted) + 1), table.packets_from(video, start), strict=False
    ):
        # Frames shown before the key frame lean on what was not fed; disposable ones cost only.
        leading = start > 0 and packet.pts is not None and packet.pts < first_pts
        if leading or (index not in wanted and is_disposable(packet, prefix_bytes)):
            continue
        try:
            yield from stream.decode(packet)
        except av.FFmpegError as error:
            what = f"{video.name}, frame {table.number_of(index)}"
            raise cannot_decode(what, error, video.faults) from error
    yield from stream.decode(None)
    stream.codec_context.flush_buffers()


def _from_the_beginning(video: Opened, numbers: Numbers, rate: float | None) -> Iterator[Found]:
    wanted = _positions(numbers)
    pending = sorted(wanted, reverse=True)
    clock = clock_for(video.pictures.time_base, video.pictures.average_rate)
    shown = ((clock.seconds(f.pts, f.duration), f) for f in _all_frames(video))
    count = 0
    for _, count, _, frame in on_grid(shown, clock, rate):
        positions: list[int] = []
        while pending and pending[-1] < count:
            positions += wanted[pending.pop()]
        if positions:
            yield positions, frame
        if not pending:
            return
    raise _past_the_end(video, pending[0], count, rate)


def _all_frames(video: Opened) -> Iterator[VideoFrame]:
    number = 0
    for packet in packets(video, strict=True):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            raise cannot_decode(f"{video.name}, frame {number}", error, video.faults) from error
        number += len(frames)
        yield from frames
