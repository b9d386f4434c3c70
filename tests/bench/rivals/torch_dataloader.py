"""PyTorch's DataLoader with clipmill's own decoder, reading files by byte ranges: transport alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipmill import video
from decode import CROP, SHORT_SIDE
from rivals.clips import Options, chance, random_order, random_place, torch_loader


def prepare(films: list[Path], folder: Path) -> None:
    """Nothing: it reads the records' files and their packet indexes."""


def batches(folder: Path, options: Options) -> Iterator[Any]:
    return torch_loader(
        Films(options), batch_size=options.batch, sampler=random_order(options.films)
    )


class Films:
    """Films by number, a random clip each time."""

    def __init__(self, options: Options) -> None:
        self.options, self.rng = options, None

    def __len__(self) -> int:
        return len(self.options.films)

    def __getitem__(self, number: int) -> np.ndarray[Any, Any]:
        self.rng = self.rng or chance()  # in the worker: a forked one would be the same in each
        numbers, top, left = random_place(self.rng, self.options.start_step)
        path = Path(self.options.films[number])
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
