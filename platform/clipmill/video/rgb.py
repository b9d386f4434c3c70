"""Scales, converts, turns and crops decoded frames, straight into the memory they are wanted in.

Scaled frames are converted by way of planes: as exact as packed RGB with full chroma, and in
half the time. Knows nothing of files or frame numbers.
"""

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from clipmill.errors import UsageError
from clipmill.video.facts import clockwise_rotation, shown_size
from clipmill.video.source import Opened

Pixels = npt.NDArray[np.uint8]
Found = tuple[list[int], VideoFrame]  # places in the result, and what goes there
Crop = tuple[int, int, int, int]  # top, left, height, width, in scaled pixels

MOST_KEPT = 8  # scalers a thread; each holds tables of some 100 kB


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Scale so that the shorter side becomes short_side, up or down; None keeps the size."""
    shorter = min(height, width)
    if short_side is None or short_side == shorter:
        return height, width
    longer = max(1, round(max(height, width) * short_side / shorter))
    return (short_side, longer) if height <= width else (longer, short_side)


def pictures(
    video: Opened,
    found: Iterator[Found],
    count: int,
    short_side: int | None,
    crop: Crop | None,
    out: Pixels | None,
) -> Pixels:
    """Convert the frames found of a video into one array; its size is known by its first frame."""
    result: Pixels | None = None
    for places, frame in found:
        if result is None:
            rotation = clockwise_rotation(frame)
            convert = ToRgb(shown_size(video, rotation), short_side, crop, rotation)
            result = memory(count, convert.size, out)
        convert.into(result, places, frame)
    assert result is not None  # at least one number was asked and all were found
    return result


def memory(count: int, size: tuple[int, int], out: Pixels | None) -> Pixels:
    """Give the memory for so many pictures: the caller's, if it fits, or new."""
    shape = (count, *size, 3)
    if out is None:
        return np.empty(shape, np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.writeable:
        raise UsageError(f"out of {out.dtype} {out.shape}", f"writeable memory of uint8 {shape}")
    return out


class ToRgb:
    """Makes RGB of the frames of one video; `shown` is its height and width as shown."""

    def __init__(
        self,
        shown: tuple[int, int],
        short_side: int | None,
        crop: Crop | None,
        clockwise_rotation: int = 0,
    ) -> None:
        height, width = scaled_size(*shown, short_side)
        top, left, crop_height, crop_width = crop or (0, 0, height, width)
        if not (
            0 <= top <= top + crop_height <= height and 0 <= left <= left + crop_width <= width
        ):
            raise UsageError(f"crop {crop}", f"a part of {height} x {width}")
        self.size = crop_height, crop_width
        self._crop = slice(top, top + crop_height), slice(left, left + crop_width)
        self._quarter_turns = clockwise_rotation // 90
        self._scaled = (width, height) if clockwise_rotation % 180 else (height, width)

    def into(self, result: Pixels, places: list[int], frame: VideoFrame) -> None:
        """Put one frame into its places of the result."""
        height, width = self._scaled
        by_planes = _is_better_by_planes(frame, height, width)
        scaler = _scaler(frame.width, frame.height, frame.format.name, width, height)
        made = scaler.reformat(
            frame,
            width,
            height,
            "gbrp" if by_planes else "rgb24",
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        target = result[places[0]]
        if by_planes:
            green, blue, red = made.planes
            for channel, plane in enumerate((red, green, blue)):
                rows = np.ndarray(
                    (height, width), np.uint8, memoryview(plane), 0, (plane.line_size, 1)
                )
                target[..., channel] = self._cut(rows)
        else:
            plane = made.planes[0]
            rows = np.ndarray(
                (height, width, 3), np.uint8, memoryview(plane), 0, (plane.line_size, 3, 1)
            )
            target[...] = self._cut(rows)
        for place in places[1:]:
            result[place] = target

    def _cut(self, picture: Pixels) -> Pixels:
        if self._quarter_turns:
            picture = np.rot90(picture, -self._quarter_turns)
        return picture[self._crop]


def _is_better_by_planes(frame: VideoFrame, height: int, width: int) -> bool:
    """Tell which way a frame is converted; unscaled there is a faster way to packed RGB."""
    return frame.format.name.startswith("yuv") and (frame.height, frame.width) != (height, width)


class _Kept(threading.local):
    def __init__(self) -> None:
        self.scalers: dict[tuple[int | str, ...], VideoReformatter] = {}


_kept = _Kept()


def _scaler(*task: int | str) -> VideoReformatter:
    """Give this thread's scaler for a task: to make its tables takes as long as a frame."""
    scaler = _kept.scalers.get(task)
    if scaler is None:
        while len(_kept.scalers) >= MOST_KEPT:
            del _kept.scalers[next(iter(_kept.scalers))]
        scaler = _kept.scalers[task] = VideoReformatter()
    return scaler
