"""Finds hard cuts in a run of small grey pictures, exact to the frame.

A cut parts pictures that have nothing to do with each other, on both sides for some frames: so
a flash is none, and fast motion is none. Fades and dissolves are not looked for.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CUT_SIDE = 32
UNLIKE = 0.35  # 1 - correlation of two pictures; unrelated ones are near 1
UNLIKE_LEVELS = 8.0  # mean |difference| of 255
FAINT_LEVELS = 4.0  # contrast below it has no shape
TIMES_USUAL = 3.0  # a cut changes more than its neighbours do
REACH = 3  # frames on each side that must be unlike; a flash may last one less
NEIGHBOURS = 8
BLOCK = 512


class Cuts:
    """Takes pictures one by one and keeps where shots begin."""

    def __init__(self) -> None:
        self._waiting: list[Bytes] = []
        self._first = 0  # number of the first one waiting
        self._next = 1  # the next frame to be judged as the first of a shot
        self._seconds: list[float] = []
        self._levels: list[float] = [0.0]  # how much each frame differs from the one before
        self._found: list[int] = []

    def add(self, picture: Bytes, seconds: float) -> None:
        """Take the next picture, CUT_SIDE pixels on both sides."""
        self._waiting.append(picture.flatten())
        self._seconds.append(seconds)
        if len(self._waiting) >= BLOCK:
            self._judge(len(self._waiting) - REACH)

    def seconds(self) -> tuple[float, ...]:
        """Give the times of the first frames of all shots but the first."""
        if len(self._waiting) > 1:
            self._judge(len(self._waiting) - 1)
        levels = np.array(self._levels)
        kept: list[int] = []
        for frame in self._found:
            if not _stands_out(levels, frame):
                continue
            if kept and frame - kept[-1] < REACH:  # a blend of both sides counts once
                if levels[frame] > levels[kept[-1]]:
                    kept[-1] = frame
                continue
            kept.append(frame)
        return tuple(self._seconds[frame] for frame in kept)

    def _judge(self, last: int) -> None:
        """Judge the frames up to number `last` of those waiting, and keep what the next need."""
        begin = self._next - self._first
        pictures = np.stack(self._waiting).astype(np.float32)
        shapes = _shapes(pictures)
        levels = np.abs(np.diff(pictures[begin - 1 : last + 1], axis=0)).mean(1)
        self._levels += levels.tolist()
        for frame in (np.flatnonzero(levels >= UNLIKE_LEVELS) + begin).tolist():
            if _parts(pictures, shapes, frame):
                self._found.append(self._first + frame)
        self._next = self._first + last + 1
        drop = max(0, last + 1 - REACH)
        self._waiting, self._first = self._waiting[drop:], self._first + drop


def _shapes(pictures: Floats) -> Floats:
    """Take light and contrast off pictures; what has no contrast is like nothing."""
    centred = pictures - pictures.mean(1, keepdims=True)
    size = np.sqrt((centred**2).sum(1, keepdims=True))
    shapes: Floats = centred / np.maximum(size, FAINT_LEVELS * np.sqrt(pictures.shape[1]))
    return shapes


def _parts(pictures: Floats, shapes: Floats, frame: int) -> bool:
    """Tell whether every picture shortly before a frame is unlike every one shortly after."""
    before = slice(max(0, frame - REACH), frame)
    after = slice(frame, frame + REACH)
    likeness = shapes[before] @ shapes[after].T
    levels = np.abs(pictures[before, None] - pictures[None, after]).mean(2)
    return bool(likeness.max() <= 1 - UNLIKE and levels.min() >= UNLIKE_LEVELS)


def _stands_out(levels: npt.NDArray[np.float64], frame: int) -> bool:
    around = np.r_[levels[max(1, frame - NEIGHBOURS) : frame], levels[frame + 1 :][:NEIGHBOURS]]
    return not len(around) or bool(levels[frame] >= TIMES_USUAL * np.median(around))
