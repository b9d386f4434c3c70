"""torchcodec in PyTorch's DataLoader, on video files as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rivals.clips import Options, by_torchcodec, chance, random_order, torch_loader


def prepare(films: list[Path], folder: Path) -> None:
    """Nothing: it reads the files."""


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

    def __getitem__(self, number: int) -> Any:
        self.rng = self.rng or chance()
        return by_torchcodec(self.options.films[number], self.rng, self.options)
