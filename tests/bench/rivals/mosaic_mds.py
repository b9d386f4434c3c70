"""MosaicML streaming: the films' bytes in MDS shards, in PyTorch's DataLoader, torchcodec within."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rivals.clips import Options, by_torchcodec, chance, torch_loader

REQUIREMENTS = ["mosaicml-streaming==0.13.0"]  # wants an older numpy: see overlay
LONG_EPOCH = 100


def prepare(films: list[Path], folder: Path) -> None:
    """Write the films into shards."""
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"video": "bytes"}, size_limit=64 << 20) as writer:
        for film in films:
            writer.write({"video": film.read_bytes()})


def batches(folder: Path, options: Options) -> Iterator[Any]:
    from streaming import Stream, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # what a run that was ended left behind

    class Films(StreamingDataset):
        rng = None

        def __getitem__(self, number: int) -> Any:
            self.rng = self.rng or chance()
            return by_torchcodec(super().__getitem__(number)["video"], self.rng, options)

    dataset = Films(
        streams=[Stream(local=str(folder), repeat=LONG_EPOCH)], shuffle=True,
        batch_size=options.batch,
    )  # fmt: skip
    return torch_loader(dataset, batch_size=options.batch)
