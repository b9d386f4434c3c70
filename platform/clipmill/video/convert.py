"""Writes a video, or a span of it, anew in a profile: constant rate, sound cut to match.

Knows frames and samples, and not what they are kept for.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import OutputContainer

from clipmill.errors import VideoError
from clipmill.video.adapt import ToProfile, deinterlaced
from clipmill.video.audio import contiguous, seek_sound, sound_pieces
from clipmill.video.part import Pictures, Span, pictures_of
from clipmill.video.profile import Profile, Transcoded
from clipmill.video.source import Opened, Source, opened
from clipmill.video.timing import CLOCK_JUMP_SECONDS, Shifted, Stopped, on_grid
from clipmill.video.write import Samples, Writer, writing

AUDIO_RATE = 16_000
SLOWEST_SECONDS_A_FRAME = 60.0
# MOV, since no other common container takes RGB and leaves its packets in one piece.
CONTAINER = {"training": "mp4", "frames": "mp4", "raw": "mov"}


def convert(source: Source, profile: Profile, span: Span) -> tuple[bytes, Transcoded]:
    """Write a span of a video anew; gives the file and what became of it."""
    # A file, since moving the index to the front reads back what was written.
    with tempfile.TemporaryDirectory(prefix="clipmill-") as folder, ExitStack() as stack:
        path = Path(folder) / "video"
        sound = stack.enter_context(opened(source))
        pictures = pictures_of(stack, source, span)
        making = _Making(pictures, sound, profile, span)
        with writing(path, format=CONTAINER[profile.name], faststart=True) as container:
            times = making.write(container)
        span.refuse_beyond(pictures.video.name, pictures.clock.end_seconds())
        return path.read_bytes(), making.told(times)


class _Making:
    """One conversion: what is read, and how it is written."""

    def __init__(self, pictures: Pictures, sound: Opened, profile: Profile, span: Span) -> None:
        self._pictures, self._sound, self._profile, self._span = pictures, sound, profile, span
        self._to_profile = ToProfile(pictures.video, pictures.first, profile)
        origin = pictures.origin_seconds + span.start_seconds
        self._track = _Track(contiguous(_sound_from(sound, origin)))

    def write(self, container: OutputContainer) -> list[float]:
        """Write all; gives the source's time of each frame written."""
        rate, start, times = self._profile.rate, self._span.start_seconds, list[float]()
        writer = self._writer(container)
        shown = deinterlaced(self._pictures.shown)
        since_start = ((seconds - start, (seconds, frame)) for seconds, frame in shown)
        grid = on_grid(since_start, self._ending(), rate)
        for number, (begin, end, _, (seconds, frame)) in enumerate(grid, start=1):
            _refuse_standstill(self._pictures.video, number, end / rate)
            if begin < end:
                picture = self._to_profile(frame)
            for _ in range(begin, end):
                writer.picture(picture)
            times += [seconds] * (end - begin)
            self._track.write(writer, round(end / rate * AUDIO_RATE))
        writer.finish()
        return times

    def _writer(self, container: OutputContainer) -> Writer:
        return Writer(
            container,
            size=(self._to_profile.height, self._to_profile.width),
            fps=Fraction(self._profile.rate).limit_denominator(1001),
            coding=self._to_profile.coding,
            audio_rate=AUDIO_RATE if self._track.is_there else None,
        )

    def _ending(self) -> Shifted:
        end = self._span.end_seconds
        clock = self._pictures.clock if end is None else Stopped(end)
        return Shifted(clock, self._span.start_seconds)

    def told(self, times: list[float]) -> Transcoded:
        """Tell what became of the video."""
        video = self._pictures.video
        return Transcoded(
            suffix=CONTAINER[self._profile.name],
            width=self._to_profile.width,
            height=self._to_profile.height,
            fps=self._profile.rate,
            frames=len(times),
            frames_from="decode",
            duration_seconds=len(times) / self._profile.rate,
            source_times_seconds=np.array(times),
            has_audio=self._track.is_there,
            corrupt_frames=video.undecodable_packets + video.corrupt_frames,
            faults=tuple(dict.fromkeys((*video.faults.listed(), *self._sound.faults.listed()))),
        )


def _sound_from(sound: Opened, origin_seconds: float) -> Iterator[tuple[int, Samples]]:
    if sound.sound is not None:
        seek_sound(sound, origin_seconds)
    yield from sound_pieces(sound, origin_seconds, AUDIO_RATE)


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

    def write(self, writer: Writer, until_sample: int) -> None:
        while self.is_there and self._written < until_sample:
            wanted = until_sample - self._written
            if self._rest is None:
                self._rest = np.zeros(wanted, np.float32)
            writer.sound(self._rest[:wanted])
            self._written += min(wanted, len(self._rest))
            self._rest = self._rest[wanted:] if len(self._rest) > wanted else next(self._runs, None)
