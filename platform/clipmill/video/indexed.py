"""Decodes by the packet index: reads byte ranges and feeds bare decoders, without a container.

Frames are bit for bit those of the container's way, whatever a decoder was fed before. Knows
where packets lie, and not in what store.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from clipmill.errors import VideoError
from clipmill.video.decoders import keep_decoder, kept_decoder, new_decoder
from clipmill.video.index import WHOLE_FRAMES, PacketIndex
from clipmill.video.need import Run, runs_for
from clipmill.video.read import checked
from clipmill.video.rgb import Crop, Pixels, ToRgb, memory
from clipmill.video.source import Faults, cannot_decode, refuse_lack_of_memory

ReadRange = Callable[[int, int], bytes]  # offset and length within the video's bytes

GAP_BYTES = 256 << 10  # reading on over less is cheaper than asking a store again
LONGEST_READ_BYTES = 16 << 20


def decode_indexed(
    index: PacketIndex,
    read: ReadRange,
    frame_numbers: Sequence[int] | npt.NDArray[np.int64],
    *,
    short_side: int | None = None,
    crop: Crop | None = None,
    out: Pixels | None = None,
) -> Pixels:
    """Give the asked frames as `decode_frames` does, reading only the bytes that they need."""
    numbers = checked(frame_numbers)
    if numbers.max() >= len(index.scan.shown):
        count = len(index.scan.shown)
        raise VideoError(f"frame {numbers.max()}", f"a number below {count}")
    convert = ToRgb((index.height, index.width), short_side, crop)
    result = memory(len(numbers), convert.size, out)
    clip = _Clip(index, read, runs_for(index.scan, _spared(index), numbers), convert, result)
    kept = kept_decoder(index)
    if kept is not None and clip.comes_undamaged(kept):
        keep_decoder(index, kept)
    else:  # what damage looks like may depend on a decoder's past: a new one has none
        decoder = new_decoder(index)
        if clip.decode(decoder):
            keep_decoder(index, decoder)
    return result


def _spared(index: PacketIndex) -> npt.NDArray[np.bool_]:
    """Tell which packets no other leans on."""
    whole = index.codec in WHOLE_FRAMES
    return np.ones(len(index.size), np.bool_) if whole else index.disposable


@dataclass(frozen=True)
class _Clip:
    """What is to be decoded, and where it goes."""

    index: PacketIndex
    read: ReadRange
    runs: list[Run]
    convert: ToRgb
    result: Pixels

    def comes_undamaged(self, decoder: VideoCodecContext) -> bool:
        """Decode all, and tell whether nothing at all was amiss."""
        try:
            return all([self._run(decoder, run) for run in self.runs])
        except (av.FFmpegError, VideoError):
            return False

    def decode(self, decoder: VideoCodecContext) -> bool:
        """Decode all, or say why not; tells whether it came undamaged."""
        undamaged = True
        with av.logging.Capture() as log:
            faults = Faults(log)
            for run in self.runs:
                what = f"frame {self.index.scan.number_of(run.packets[0])} and on"
                try:
                    undamaged &= self._run(decoder, run)
                except av.FFmpegError as error:
                    raise cannot_decode(what, error, faults) from error
                except VideoError:
                    refuse_lack_of_memory(what, faults)
                    raise
        return undamaged

    def _run(self, decoder: VideoCodecContext, run: Run) -> bool:
        undamaged, missing = True, dict(run.places)
        for packet in _packets(self.index, self.read, run.packets):
            for frame in decoder.decode(packet):
                undamaged = undamaged and not frame.is_corrupt
                places = None if frame.pts is None else missing.pop(frame.pts, None)
                if places is not None:
                    self.convert.into(self.result, places, frame)
        decoder.flush_buffers()
        if missing:
            table = self.index.scan
            number = int(np.searchsorted(table.pts[table.shown], min(missing)))
            raise VideoError(f"frame {number} does not decode", "an undamaged video")
        return undamaged


def _packets(
    index: PacketIndex, read: ReadRange, numbers: list[int]
) -> Iterator["Packet[Any] | None"]:
    """Give the packets of a run, read as they are needed, and the None that ends them."""
    begins = index.offset[numbers].tolist()
    ends = (index.offset[numbers] + index.size[numbers]).tolist()
    stamps = index.scan.pts[numbers].tolist()
    low = high = 0
    for at, (begin, end, stamp) in enumerate(zip(begins, ends, stamps, strict=True)):
        if not low <= begin <= end <= high:
            low, high = begin, _read_up_to(begins, ends, at)
            data = read(low, high - low)
            if len(data) != high - low:
                raise VideoError(f"{len(data)} bytes at {low}", f"{high - low}", "the file was cut")
        packet: Packet[Any] = Packet(data[begin - low : end - low])
        packet.pts = stamp
        yield packet
    yield None


def _read_up_to(begins: list[int], ends: list[int], at: int) -> int:
    """Say how far to read for packet `at`: on over small gaps to those that follow it."""
    reach = ends[at]
    for begin, end in zip(begins[at + 1 :], ends[at + 1 :], strict=True):
        is_near = reach <= begin <= reach + GAP_BYTES and end - begins[at] <= LONGEST_READ_BYTES
        if not is_near:
            break
        reach = end
    return reach
