"""SPDL: demux, decode, filter and batch in its thread pipeline, on video files as they are."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decode import CLIP_FRAMES, CROP, LONG_SIDE, RATE, SHORT_SIDE, STRIDE
from rivals.clips import WORKERS, Options, chance, random_place

FILTER = (  # every sixth frame by count: half a frame's time away from any rounding
    "trim=start={start}:end={end},framestep={stride},scale=w={width}:h={height}:flags=bilinear,"
    "crop={crop}:{crop}:{left}:{top},format=pix_fmts=rgb24"
)


def prepare(films: list[Path], folder: Path) -> None:
    """Nothing: it reads the files."""


def batches(folder: Path, options: Options) -> Iterator[Any]:
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(random_films(options.films))
        .pipe(Decoder(options), concurrency=WORKERS)
        .aggregate(options.batch)
        .pipe(stacked)
        .add_sink(4)
        .build(num_threads=WORKERS)
    )
    with pipeline.auto_stop():
        yield from pipeline


def random_films(films: list[str]) -> Iterator[str]:
    rng = chance()
    while True:
        yield films[int(rng.integers(len(films)))]


def stacked(clips: list[Any]) -> Any:
    """Convert the frames of all clips into one buffer."""
    import spdl.io

    return spdl.io.to_numpy(spdl.io.convert_frames(clips)).reshape(
        len(clips), CLIP_FRAMES, CROP, CROP, 3
    )


class Decoder:
    """Demux a span by time, keep every sixth frame, scale and crop, all in its C++ filters."""

    def __init__(self, options: Options) -> None:
        self.options, self.local = options, threading.local()

    def __call__(self, film: str) -> Any:
        import spdl.io

        rng = self.local.__dict__.setdefault("rng", chance())
        numbers, top, left = random_place(rng, self.options.start_step)
        start, end = (numbers[0] - 0.5) / RATE, (numbers[-1] + STRIDE - 0.5) / RATE
        packets = spdl.io.demux_video(film, timestamp=(max(0.0, start), end))
        wanted = FILTER.format(
            start=start, end=end, stride=STRIDE, width=LONG_SIDE, height=SHORT_SIDE, crop=CROP,
            top=top, left=left,
        )  # fmt: skip
        return spdl.io.decode_packets(packets, filter_desc=wanted)
