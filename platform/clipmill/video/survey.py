"""Looks once through a video and keeps what curation asks: motion, light, sharpness, sound, shots.

One cheap pass, small grey pictures only; what was seen is kept over time, so that a span of a
long video costs no second look. Knows no catalog and judges nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from clipmill.errors import UsageError, VideoError
from clipmill.video.audio import sound_pieces, stamp_seconds
from clipmill.video.cuts import CUT_SIDE, Cuts
from clipmill.video.facts import clockwise_rotation, probe
from clipmill.video.rgb import scaled_size
from clipmill.video.scan import is_disposable, unit_prefix_bytes
from clipmill.video.source import Opened, Source, VideoPacket, frames_of, opened, packets
from clipmill.video.timing import ROUNDING_SECONDS, clock_for, on_grid

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Pixels = TypeVar("Pixels", Floats, npt.NDArray[np.int16])

OF_PICTURES = frozenset({"motion", "brightness", "sharpness", "shots", "phash"})
ALL = OF_PICTURES | {"silence"}

SMALL = 64  # pixels on both sides; every aspect ratio is squeezed to it
SHARP_SHORT_SIDE = 256  # sharpness is looked for at this size
SILENT_DBFS = -60.0
WINDOW_SECONDS = 0.05
CURVE_SECONDS = 0.5  # that each score of a motion curve is the mean of
SOUND_RATE = 16_000
RUN_SAMPLES = 5 * SOUND_RATE
HASHED_AT = (1 / 6, 1 / 2, 5 / 6)
HASH_BITS = 64
FLAT_LEVELS = 2.0  # of 255: a picture that varies less is blank, its hash is 0
FAINT_LEVELS = 8.0  # of 255: contrast below it is not stretched
STEADY_LEVELS = 1.5  # of 255: differences below it are the codec's
UNRELATED = 1.128  # mean |difference| of two unrelated pictures of unit contrast, 2 / sqrt(pi)


@dataclass(frozen=True, eq=False)
class Survey:
    """What was seen, over time; arrays have a row for each picture sampled."""

    duration_seconds: float
    rate: float  # samples a second
    what: frozenset[str]
    ticks: npt.NDArray[np.int64]  # from which sample number on each picture is on screen
    motion: Floats  # since the picture before; NaN across a cut
    brightness: Floats
    sharpness: Floats
    waves: Floats  # [N, 64], low frequencies, of which the hash is made
    shots: tuple[float, ...]  # seconds at which a new shot begins
    loudness: Floats | None  # dBFS of each window; None without sound

    def measures(self, start_seconds: float, end_seconds: float) -> dict[str, Any]:
        """Give the measures of a span as plain values; None for what was not looked for."""
        if not 0 <= start_seconds < end_seconds:
            raise UsageError(f"{start_seconds} to {end_seconds} s", "a span")
        end = min(end_seconds, max(self.duration_seconds, start_seconds))
        return {
            "motion": self._motion(start_seconds, end),
            "motion_curve": self._motion_curve(start_seconds, end),
            "brightness": self._mean("brightness", self.brightness, start_seconds, end),
            "sharpness": self._mean("sharpness", self.sharpness, start_seconds, end),
            "silence": self._silence(start_seconds, end),
            "shots": self._shots(start_seconds, end),
            "phash": self._hashes(start_seconds, end),
        }

    def _on_screen(self, start: float, end: float) -> npt.NDArray[np.int64]:
        """Give for each sample of a span the row of its picture; at least one."""
        first = math.ceil((start - ROUNDING_SECONDS) * self.rate)
        past = math.ceil((end - ROUNDING_SECONDS) * self.rate)
        if past <= first:
            first = math.floor(start * self.rate)
            past = first + 1
        return self._rows(np.arange(first, past))

    def _rows(self, ticks: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        rows = np.searchsorted(self.ticks, ticks, side="right") - 1
        return np.clip(rows, 0, len(self.ticks) - 1).astype(np.int64)

    def _mean(self, name: str, values: Floats, start: float, end: float) -> float | None:
        if name not in self.what:
            return None
        return round(float(values[self._on_screen(start, end)].mean(dtype=np.float64)), 6)

    def _motion(self, start: float, end: float) -> float | None:
        if "motion" not in self.what:
            return None
        moved = self._moved(start, end)
        moved = moved[~np.isnan(moved)]
        return round(float(moved.mean(dtype=np.float64)), 6) if len(moved) else 0.0

    def _moved(self, start: float, end: float) -> Floats:
        """Give the motion from each sample of a span to the next."""
        rows = self._on_screen(start, end)
        return np.where(np.diff(rows) > 0, self.motion[rows[1:]], np.float32(0))

    def _motion_curve(self, start: float, end: float) -> list[float] | None:
        """Give the mean motion of each half second; 0 where no sample is."""
        if "motion" not in self.what:
            return None
        moved = self._moved(start, end)
        there = ~np.isnan(moved)
        count = max(1, math.ceil((end - start - ROUNDING_SECONDS) / CURVE_SECONDS))
        midway = (np.arange(len(moved)) + 0.5) / self.rate
        place = np.minimum((midway / CURVE_SECONDS).astype(np.int64), count - 1)[there]
        total = np.bincount(place, moved[there], count)
        mean = total / np.maximum(np.bincount(place, minlength=count), 1)
        return [round(score, 6) for score in mean.tolist()]

    def _silence(self, start: float, end: float) -> float | None:
        if "silence" not in self.what or self.loudness is None:
            return None
        first, past = round(start / WINDOW_SECONDS), round(end / WINDOW_SECONDS)
        windows = self.loudness[first : max(past, first + 1)]
        return round(float((windows < SILENT_DBFS).mean()), 6) if len(windows) else 1.0

    def _shots(self, start: float, end: float) -> list[float] | None:
        if "shots" not in self.what:
            return None
        inside = (cut - start for cut in self.shots if cut < end - ROUNDING_SECONDS)
        return [round(cut, 6) for cut in inside if cut > ROUNDING_SECONDS]

    def _hashes(self, start: float, end: float) -> list[int] | None:
        if "phash" not in self.what:
            return None
        return [self._hash(start + share * (end - start)) for share in HASHED_AT]

    def _hash(self, seconds: float) -> int:
        """Hash a moment; between two samples it passes smoothly from one to the other."""
        tick = seconds * self.rate
        before, after = self._rows(np.floor([tick, tick + 1]))
        share = tick - math.floor(tick)
        wave = (1 - share) * self.waves[before] + share * self.waves[after]
        if float(np.sqrt((wave**2).mean() * HASH_BITS)) < FLAT_LEVELS * SMALL / 2:
            return 0
        return int.from_bytes(np.packbits(wave > np.median(wave)).tobytes(), "big")


def survey(source: Source, *, what: frozenset[str] = ALL, rate: float = 4.0) -> Survey:
    """Look once through a video for the measures named, with `rate` samples a second."""
    if not what <= ALL or not what:
        raise UsageError(f"measures {', '.join(sorted(what - ALL)) or 'none'}", ", ".join(ALL))
    if not 0 < rate <= 1000:
        raise UsageError(f"rate={rate}", "samples a second above 0")
    look = _Look(what)
    if what & OF_PICTURES:
        with opened(source) as video:
            origin, duration = _look_through(video, look, rate)
    else:
        duration = probe(source).duration_seconds
        with opened(source) as video:
            origin = next(_origins(video), 0.0)
    loudness = _loudness(source, origin, duration) if "silence" in what else None
    return look.survey(duration, rate, loudness)


def _look_through(video: Opened, look: "_Look", rate: float) -> tuple[float, float]:
    """Show a look the pictures; gives the stamp of the first one and the duration."""
    clock = clock_for(video.pictures.time_base, video.pictures.average_rate)
    wanted = _Wanted(video, None if "shots" in look.what else rate)
    origin: float | None = None

    def shown() -> Iterator[tuple[float, VideoFrame]]:
        nonlocal origin
        for frame in wanted.frames():
            if origin is None:
                origin = stamp_seconds(frame.pts, video)
            yield clock.seconds(frame.pts, frame.duration), frame

    for begin, end, seconds, frame in on_grid(shown(), clock, rate):
        look.see(frame, seconds, begin if begin < end else None)
    if origin is None:
        raise VideoError(f"{video.name}: not one frame decodes", "a video that can be played")
    return origin, max(clock.end_seconds(), wanted.end_seconds)


def _origins(video: Opened) -> Iterator[float]:
    for packet in packets(video, strict=False):
        for frame in frames_of(video, packet):
            yield stamp_seconds(frame.pts, video)


class _Wanted:
    """The frames of a video without those that no sample shows and no other frame leans on."""

    def __init__(self, video: Opened, rate: float | None) -> None:
        self._video, self._rate = video, rate
        self._tick_seconds = float(video.pictures.time_base or 0)
        self._first: int | None = None
        self.end_seconds = 0.0  # of the frames left out

    def frames(self) -> Iterator[VideoFrame]:
        """Give the frames in the order shown."""
        prefix_bytes = unit_prefix_bytes(self._video.pictures) if self._rate else 0
        for packet in packets(self._video, strict=False):
            if self._first is None:
                self._first = packet.pts
            if not (prefix_bytes and is_disposable(packet, prefix_bytes) and self._unseen(packet)):
                yield from frames_of(self._video, packet)

    def _unseen(self, packet: VideoPacket) -> bool:
        pts, first, rate = packet.pts, self._first, self._rate
        if pts is None or first is None or rate is None or not packet.duration:
            return False
        begin = (pts - first) * self._tick_seconds
        end = begin + packet.duration * self._tick_seconds
        self.end_seconds = max(self.end_seconds, end)
        slack = 2 * ROUNDING_SECONDS
        return math.ceil((begin - slack) * rate) == math.ceil((end + slack) * rate)


@dataclass
class _Look:
    """Small pictures turned into numbers as they come."""

    what: frozenset[str]
    _scaler: VideoReformatter = field(default_factory=VideoReformatter)
    _cuts: Cuts = field(default_factory=Cuts)
    _ticks: list[int] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)
    _rows: list[tuple[float, float, float]] = field(default_factory=list)
    _waves: list[Floats] = field(default_factory=list)
    _before: Floats | None = None

    def see(self, frame: VideoFrame, seconds: float, tick: int | None) -> None:
        """Take the next frame; with a tick it is a sample."""
        if tick is None and "shots" not in self.what:
            return
        if "shots" in self.what:
            self._cuts.add(self._grey(frame, CUT_SIDE, CUT_SIDE), seconds)
        if tick is None:
            return
        small = self._grey(frame, SMALL, SMALL)
        self._ticks.append(tick)
        self._seconds.append(seconds)
        light = float(small.mean()) / 255
        self._rows.append((self._moved(small), light, self._sharpness(frame)))
        if "phash" in self.what:
            self._waves.append(_wave(np.rot90(small, -clockwise_rotation(frame) // 90)))

    def survey(self, duration: float, rate: float, loudness: Floats | None) -> Survey:
        """Give all that was seen."""
        rows = np.array(self._rows, np.float32).reshape(-1, 3)
        motion, shots = rows[:, 0].copy(), self._cuts.seconds()
        across = np.searchsorted(self._seconds, shots)
        motion[across[across < len(motion)]] = np.nan
        waves = np.array(self._waves, np.float32).reshape(-1, HASH_BITS)
        ticks = np.array(self._ticks, np.int64)
        return Survey(
            duration, rate, self.what, ticks, motion, rows[:, 1], rows[:, 2], waves, shots, loudness
        )

    def _grey(self, frame: VideoFrame, height: int, width: int) -> Bytes:
        scaled = self._scaler.reformat(
            frame, width, height, "gray", interpolation=Interpolation.AREA, threads=1
        )
        plane = scaled.planes[0]
        return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            :height, :width
        ]

    def _moved(self, small: Bytes) -> float:
        if "motion" not in self.what:
            return 0.0
        now, before = small.astype(np.float32), self._before
        self._before = now
        return 0.0 if before is None else difference(before, now)

    def _sharpness(self, frame: VideoFrame) -> float:
        """Give the share of fine detail in the picture's contrast."""
        if "sharpness" not in self.what:
            return 0.0
        short_side = min(SHARP_SHORT_SIDE, frame.height, frame.width)
        grey = self._grey(frame, *scaled_size(frame.height, frame.width, short_side))
        if min(grey.shape) < 3:
            return 0.0
        detail = _variance(_laplacian(grey.astype(np.int16)))
        return detail / (detail + _variance(grey) + FLAT_LEVELS**2)


def _variance(picture: npt.NDArray[Any]) -> float:
    """Give the variance of whole numbers, in a third of numpy's time."""
    flat = picture.ravel().astype(np.float32)
    return max(0.0, float(flat @ flat) / len(flat) - float(flat.mean()) ** 2)


def difference(before: Floats, now: Floats) -> float:
    """Say how much of a picture's contrast has moved, 0 to 1; light and noise do not count."""
    a, scale_a = _levelled(before)
    b, scale_b = _levelled(now)
    changed = b - a
    changed -= np.median(changed)
    # Noise is what changes from one pixel to the next at most places; motion is larger.
    noise = float(np.median(np.abs(_laplacian(changed)))) * 1.4826 / math.sqrt(20)
    dead = max(noise, STEADY_LEVELS / min(scale_a, scale_b))
    beyond = np.abs(_smoothed(changed)) - dead
    return min(1.0, float(np.maximum(beyond, 0).mean()) / UNRELATED)


def _levelled(picture: Floats) -> tuple[Floats, float]:
    """Take light and contrast off a picture."""
    scale = max(float(picture.std()), FAINT_LEVELS)
    return (picture - picture.mean()) / np.float32(scale), scale


def _laplacian(picture: Pixels) -> Pixels:
    inner: Pixels = 4 * picture[1:-1, 1:-1]
    sides = picture[:-2, 1:-1] + picture[2:, 1:-1] + picture[1:-1, :-2] + picture[1:-1, 2:]
    inner -= sides
    return inner


def _smoothed(picture: Floats) -> Floats:
    """Halve a picture, then blur it over its neighbours."""
    half = picture.reshape(SMALL // 2, 2, SMALL // 2, 2).mean((1, 3))
    rows = half[:-2] + 2 * half[1:-1] + half[2:]
    blurred: Floats = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16
    return blurred


def _waves_table() -> tuple[Floats, npt.NDArray[np.intp]]:
    """Make the cosine transform of low frequencies, and the order of the lowest 64 without 0."""
    count = math.ceil(math.sqrt(2 * HASH_BITS)) + 1
    place = (np.arange(SMALL) + 0.5) * math.pi / SMALL
    table = np.cos(np.arange(count)[:, None] * place) * math.sqrt(2 / SMALL)
    table[0] /= math.sqrt(2)
    rows, columns = np.mgrid[:count, :count]
    order = np.lexsort((rows.ravel(), (rows + columns).ravel()))
    return table.astype(np.float32), order[1 : HASH_BITS + 1]


_TABLE, _LOWEST = _waves_table()


def _wave(picture: Bytes) -> Floats:
    wave: Floats = (_TABLE @ picture.astype(np.float32) @ _TABLE.T).ravel()[_LOWEST]
    return wave


def _loudness(source: Source, origin_seconds: float, duration: float) -> Floats | None:
    """Give the loudness of each window of the video's time in dBFS."""
    window = round(WINDOW_SECONDS * SOUND_RATE)
    energy = np.zeros(max(1, math.ceil(duration * SOUND_RATE / window)), np.float64)
    heard = False
    with opened(source) as video:
        if video.sound is None:
            return None
        for at, run in _runs(sound_pieces(video, origin_seconds, SOUND_RATE)):
            heard = True
            windows = np.arange(at, at + len(run)) // window
            inside = (windows >= 0) & (windows < len(energy))
            squares = np.nan_to_num(run[inside].astype(np.float64)) ** 2
            energy += np.bincount(windows[inside], squares, len(energy))
    level = 10 * np.log10(np.maximum(energy / window, 1e-12))
    return level.astype(np.float32) if heard else None


def _runs(pieces: Iterator[tuple[int, Floats]]) -> Iterator[tuple[int, Floats]]:
    """Join pieces that follow each other to some seconds; codecs give tiny ones."""
    held: list[Floats] = []
    begin = end = 0
    for at, piece in pieces:
        if held and (at != end or end - begin >= RUN_SAMPLES):
            yield begin, np.concatenate(held)
            held = []
        if not held:
            begin = at
        held.append(piece)
        end = at + len(piece)
    if held:
        yield begin, np.concatenate(held)
