"""torchcodec in PyTorch's DataLoader, on video files as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rivals.clips import Options, by_torchcodec, film_batches


def prepare(films: list[Path], folder: Path) -> None:
    """Nothing: it reads the files."""


def batches(folder: Path, options: Options) -> Iterator[Any]:
    return film_batches(options, by_torchcodec)
