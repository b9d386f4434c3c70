"""Turns any video into the training profile: upright, square pixels, constant rate, a ladder.

Every k-th frame is a reference and the frames between are disposable, so that a reader at
stride k decodes only what it returns. Knows one profile; chooses nothing about shards.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from clipmill.errors import UsageError, VideoError
from clipmill.video.audio import contiguous, sound_pieces, stamp_seconds
from clipmill.video.facts import clockwise_rotation, shown_size
from clipmill.video.read import scaled_size
from clipmill.video.source import Opened, Source, decoded_frames, opened
from clipmill.video.timing import CLOCK_JUMP_SECONDS, clock_for, on_grid
from clipmill.video.write import BT601, LIMITED_RANGE, Mp4Writer, Samples, writing

AUDIO_RATE = 16_000
SLOWEST_SECONDS_A_FRAME = 60.0
LONGEST_KEY_INTERVAL = 30  # frames; longer ones cost seeks, shorter ones hardly pay
KEPT_MATRICES = {1, 9}  # BT.709 and BT.2020; all else is written as BT.601


@dataclass(frozen=True)
class Profile:
    """How a transcoded video is stored."""

    name: str = "training"
    short_side: int = 256  # pixels; smaller videos keep their size
    rate: float = 30.0  # frames a second
    k: int = 6  # every k-th frame is a reference
    crf: int = 20  # quality of x264, lower is better

    def __post_init__(self) -> None:
        if not (1 <= self.k <= 17 and self.short_side >= 16 and 0 < self.rate <= 1000):
            raise UsageError(f"{self}", "k of 1 to 17, short_side from 16, rate above 0")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"crf={self.crf}", "0 to 51")

    def x264(self) -> dict[str, str]:
        """Give the encoder's settings that make the ladder."""
        interval = self.k * max(1, LONGEST_KEY_INTERVAL // self.k)
        ladder = "b-pyramid=none:b-adapt=0:scenecut=0:open-gop=1"  # closed: one more reference
        return {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(self.crf),
            "bf": str(self.k - 1),
            "g": str(interval),
            "keyint_min": str(interval),
            "sc_threshold": "0",
            "x264-params": ladder,
        }


@dataclass(frozen=True, eq=False)
class Transcoded:
    """What a transcode gave."""

    width: int
    height: int
    fps: float
    frames: int
    duration_seconds: float
    source_times_seconds: npt.NDArray[np.float64]  # since the source's first frame
    has_audio: bool
    corrupt_frames: int  # packets that did not decode and frames that decoded damaged
    faults: tuple[str, ...]


def transcode(source: Source, profile: Profile) -> tuple[bytes, Transcoded]:
    """Write a video anew in the profile; gives the MP4 and what became of it."""
    # A file, since moving the index to the front reads back what was written.
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder, ExitStack() as stack:
        path = Path(folder) / "video.mp4"
        sound, video = stack.enter_context(opened(source)), stack.enter_context(opened(source))
        told = _transcode_to(path, video, sound, profile)
        return path.read_bytes(), told


def _transcode_to(path: Path, video: Opened, sound: Opened, profile: Profile) -> Transcoded:
    frames = decoded_frames(video)
    first = next(frames, None)
    if first is None:
        why = "; ".join(video.faults.listed()[:1]) or "no data"
        raise VideoError(f"{video.name}: not one frame decodes ({why})", "a playable video")
    track = _Track(contiguous(sound_pieces(sound, stamp_seconds(first.pts, video), AUDIO_RATE)))
    to_profile = _ToProfile(video, first, profile)
    clock = clock_for(video.pictures.time_base, video.pictures.average_rate)
    shown = ((clock.seconds(f.pts, f.duration), f) for f in chain([first], frames))
    times: list[float] = []
    with writing(path, faststart=True) as container:
        writer = to_profile.writer(container, AUDIO_RATE if track.is_there else None)
        grid = on_grid(_deinterlaced(shown), clock, profile.rate)
        for number, (begin, end, seconds, frame) in enumerate(grid, start=1):
            _refuse_standstill(video, number, end / profile.rate)
            if begin < end:
                picture = to_profile(frame)
            for _ in range(begin, end):
                writer.picture(picture)
            times += [seconds] * (end - begin)
            track.write(writer, round(end / profile.rate * AUDIO_RATE))
        writer.finish()
    return Transcoded(
        width=to_profile.width,
        height=to_profile.height,
        fps=profile.rate,
        frames=len(times),
        duration_seconds=len(times) / profile.rate,
        source_times_seconds=np.array(times),
        has_audio=track.is_there,
        corrupt_frames=video.undecodable_packets + video.corrupt_frames,
        faults=tuple(dict.fromkeys((*video.faults.listed(), *sound.faults.listed()))),
    )


def _refuse_standstill(video: Opened, frames: int, seconds: float) -> None:
    """A few bytes with a broken clock must not become days of one picture."""
    if seconds > CLOCK_JUMP_SECONDS + SLOWEST_SECONDS_A_FRAME * frames:
        raise VideoError(
            f"{video.name}: {frames} frames in {seconds:.0f} s",
            f"a frame every {SLOWEST_SECONDS_A_FRAME:.0f} s on average",
            "its clock is broken: write it anew with its true rate",
        )


class _Track:
    """The sound, handed on as far as the pictures have come; zeros after its end."""

    def __init__(self, runs: Iterator[Samples]) -> None:
        self._runs = runs
        self._rest = next(runs, None)
        self._written = 0
        self.is_there = self._rest is not None

    def write(self, writer: Mp4Writer, until_sample: int) -> None:
        while self.is_there and self._written < until_sample:
            wanted = until_sample - self._written
            if self._rest is None:
                self._rest = np.zeros(wanted, np.float32)
            writer.sound(self._rest[:wanted])
            self._written += min(wanted, len(self._rest))
            self._rest = self._rest[wanted:] if len(self._rest) > wanted else next(self._runs, None)


class _ToProfile:
    """Scales, squares and turns frames to the profile's 8-bit 4:2:0."""

    def __init__(self, video: Opened, first: VideoFrame, profile: Profile) -> None:
        self._rotation = clockwise_rotation(first)
        shown = shown_size(video.pictures, self._rotation)
        size = scaled_size(*shown, min(profile.short_side, *shown))
        self.height, self.width = (max(2, side - side % 2) for side in size)
        self._profile = profile
        self._matrix = first.colorspace if first.colorspace in KEPT_MATRICES else BT601
        self._scaler = VideoReformatter()

    def writer(self, container: OutputContainer, audio_rate: int | None) -> Mp4Writer:
        """Make the writer for frames of this kind."""
        return Mp4Writer(
            container,
            size=(self.height, self.width),
            fps=Fraction(self._profile.rate).limit_denominator(1001),
            x264=self._profile.x264(),
            audio_rate=audio_rate,
            colorspace=self._matrix,
        )

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        height, width = self.height, self.width
        if self._rotation % 180:
            height, width = width, height
        scaled = self._scaler.reformat(
            frame,
            width,
            height,
            "yuv420p",
            dst_colorspace=Colorspace.ITU601 if self._matrix == BT601 else self._matrix,
            dst_color_range=LIMITED_RANGE,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return _turned(scaled, self._rotation)


def _turned(frame: VideoFrame, rotation: int) -> VideoFrame:
    """Turn the three planes of a yuv420p frame clockwise."""
    if not rotation:
        return frame
    turned = VideoFrame(
        *((frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)), "yuv420p"
    )
    for plane, old in zip(turned.planes, frame.planes, strict=True):
        rows = np.frombuffer(memoryview(old), np.uint8).reshape(-1, old.line_size)[:, : old.width]
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = np.rot90(rows[: old.height], -rotation // 90)
        plane.update(padded.tobytes())
    return turned


def _deinterlaced(
    shown: Iterable[tuple[float, VideoFrame]],
) -> Iterator[tuple[float, VideoFrame]]:
    """Weave fields into whole frames from the first interlaced frame on; one out for each in."""
    graph: Graph | None = None
    waiting: deque[float] = deque()
    for number, (seconds, frame) in enumerate(shown):
        if graph is None and frame.interlaced_frame:
            graph = _field_filter(frame)
        if graph is None:
            yield seconds, frame
            continue
        waiting.append(seconds)
        frame.pts = number
        graph.vpush(frame)
        yield from _filtered(graph, waiting)
    if graph is not None:
        graph.vpush(None)
        yield from _filtered(graph, waiting)


def _filtered(graph: Graph, waiting: deque[float]) -> Iterator[tuple[float, VideoFrame]]:
    while waiting:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield waiting.popleft(), frame


def _field_filter(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    fields = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, fields, graph.add("buffersink")).configure()
    return graph
