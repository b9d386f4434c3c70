"""litdata: the films' bytes in its optimised chunks, streamed in its own loader, torchcodec within."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rivals.clips import PREFETCH, WORKERS, Options, by_torchcodec, chance, endless

LONG_EPOCH = 100.0  # times over the films, so that an epoch's turn does not show


def prepare(films: list[Path], folder: Path) -> None:
    """Write the films into chunks."""
    import litdata

    litdata.optimize(
        whole_film, [str(film) for film in films], str(folder), chunk_bytes="64MB",
        num_workers=WORKERS, mode="overwrite", verbose=False,
    )  # fmt: skip


def whole_film(path: str) -> bytes:
    return Path(path).read_bytes()


def batches(folder: Path, options: Options) -> Iterator[Any]:
    import litdata
    import torch

    torch.multiprocessing.set_sharing_strategy("file_system")
    rng = []

    def decoded(data: bytes) -> Any:
        if not rng:
            rng.append(chance())
        return by_torchcodec(bytes(data), rng[0], options)  # it may be a view of its chunk

    dataset = litdata.StreamingDataset(
        str(folder), shuffle=True, drop_last=True, subsample=LONG_EPOCH, transform=decoded
    )
    return endless(
        litdata.StreamingDataLoader(
            dataset, batch_size=options.batch, num_workers=WORKERS, prefetch_factor=PREFETCH,
            persistent_workers=True,
        )
    )  # fmt: skip
