"""PyTorch's DataLoader with clipmill's own decoder, reading files by byte ranges: transport alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipmill import video
from decode import CROP, SHORT_SIDE
from rivals.clips import Options, film_batches, random_place


def prepare(films: list[Path], folder: Path) -> None:
    """Nothing: it reads the records' files and their packet indexes."""


def batches(folder: Path, options: Options) -> Iterator[Any]:
    return film_batches(options, by_ranges)


def by_ranges(film: str, rng: np.random.Generator, options: Options) -> Any:
    """Decode a clip with clipmill's decoder, which asks for the bytes that it needs."""
    numbers, top, left = random_place(rng, options.start_step)
    path = Path(film)
    index = video.unpacked(path.with_suffix(".idx").read_bytes())
    file = os.open(path, os.O_RDONLY)
    try:
        return video.decode_indexed(
            index,
            lambda at, size: os.pread(file, size, at),
            numbers,
            short_side=SHORT_SIDE,
            crop=(top, left, CROP, CROP),
        )
    finally:
        os.close(file)
