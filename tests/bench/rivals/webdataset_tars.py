"""webdataset: tars of MP4 files, read in order and drawn at random by shard, torchcodec within."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rivals.clips import Options, by_torchcodec, chance, torch_loader

SHARD_FILMS = 16
SHUFFLED = 32


def prepare(films: list[Path], folder: Path) -> None:
    """Write the films into tars."""
    import webdataset as wds

    pattern = str(folder / "%05d.tar")
    with wds.ShardWriter(pattern, maxcount=SHARD_FILMS, verbose=0) as writer:
        for number, film in enumerate(films):
            writer.write({"__key__": f"{number:06d}", "mp4": film.read_bytes()})


def tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def batches(folder: Path, options: Options) -> Iterator[Any]:
    import torch
    import webdataset as wds

    rng = []

    def decoded(sample: dict[str, Any]) -> Any:
        if not rng:
            rng.append(chance())
        return by_torchcodec(sample["mp4"], rng[0], options)

    dataset = (
        wds.WebDataset(tars(folder), resampled=True, shardshuffle=False)
        .shuffle(SHUFFLED)
        .map(decoded)
        .batched(options.batch, collation_fn=torch.stack)
    )
    return torch_loader(dataset, batch_size=None)
