"""What every system is asked for: clips of random films from random places, cropped at random.

Sixteen frames over 3.2 s, short side 128, crop 112, uint8. Also the decoder that rivals without
one of their own are given, and PyTorch's DataLoader set up as well as it goes on this machine.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from decode import CLIP_FRAMES, CROP, LONG_SIDE, RATE, SECONDS, SHORT_SIDE, STRIDE

BATCH = 16
WORKERS = 2
PREFETCH = 4
ENDLESS = 10**7  # clips of an epoch, where a system needs a number
LATEST_START = RATE * SECONDS - STRIDE * (CLIP_FRAMES - 1) - 1

SeekMode = Literal["exact", "approximate"]


@dataclass(frozen=True)
class Options:
    """What a run may tell a system."""

    films: list[str]  # paths of the videos it was prepared from
    start_step: int = 1  # clips begin at multiples of so many frames
    batch: int = BATCH
    seek_mode: SeekMode = "approximate"  # of torchcodec: what was faster on these films


Decode = Callable[[str, np.random.Generator, Options], Any]


def chance() -> np.random.Generator:
    """A generator that no other worker has."""
    return np.random.default_rng()


def random_place(rng: np.random.Generator, start_step: int) -> tuple[range, int, int]:
    """Draw the frames of a clip, and the top and left of its crop."""
    start = int(rng.integers(0, LATEST_START // start_step + 1)) * start_step
    top, left = rng.integers(0, (SHORT_SIDE - CROP + 1, LONG_SIDE - CROP)).tolist()  # 227 does too
    return range(start, start + STRIDE * CLIP_FRAMES, STRIDE), top, left


def by_torchcodec(source: str | bytes, rng: np.random.Generator, options: Options) -> Any:
    """Decode a clip: scaled while decoding, one thread, pictures before colours as it makes them."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    numbers, top, left = random_place(rng, options.start_step)
    decoder = VideoDecoder(
        source, num_ffmpeg_threads=1, seek_mode=options.seek_mode, dimension_order="NHWC",
        transforms=[Resize((SHORT_SIDE, LONG_SIDE))],
    )  # fmt: skip
    frames = decoder.get_frames_at(list(numbers)).data
    return frames[:, top : top + CROP, left : left + CROP]


def faster_seek_mode(films: list[str], start_step: int) -> SeekMode:
    """Try both ways of torchcodec on a few clips in this process."""
    from time import process_time

    def seconds(mode: SeekMode) -> float:
        rng, options = np.random.default_rng(0), Options(films, start_step, seek_mode=mode)
        began = process_time()
        for film in films[:: max(1, len(films) // 8)]:
            by_torchcodec(Path(film).read_bytes(), rng, options)
        return process_time() - began

    modes: tuple[SeekMode, ...] = ("approximate", "exact")
    seconds("exact")
    return min(modes, key=lambda mode: min(seconds(mode), seconds(mode)))


def torch_loader(dataset: Any, **given: Any) -> Iterator[Any]:
    """PyTorch's DataLoader: as many workers as cores, kept between epochs, four batches each ahead."""
    import torch
    from torch.utils.data import DataLoader

    torch.multiprocessing.set_sharing_strategy("file_system")
    return endless(
        DataLoader(
            dataset, num_workers=WORKERS, persistent_workers=True, prefetch_factor=PREFETCH, **given
        )
    )


def film_batches(options: Options, decode: Decode) -> Iterator[Any]:
    """Batches of random clips of films that are files, by the DataLoader and a decoder."""
    order = random_order(options.films)
    return torch_loader(Films(options, decode), batch_size=options.batch, sampler=order)


class Films:
    """Films by number, a random clip each time."""

    def __init__(self, options: Options, decode: Decode) -> None:
        self.options, self.decode, self.rng = options, decode, None

    def __len__(self) -> int:
        return len(self.options.films)

    def __getitem__(self, number: int) -> Any:
        self.rng = self.rng or chance()  # in the worker: a forked one would be the same in each
        return self.decode(self.options.films[number], self.rng, self.options)


def random_order(films: list[str]) -> Any:
    """A sampler over films that does not end, so that no epoch's turn is paid for."""
    from torch.utils.data import RandomSampler

    return RandomSampler(films, replacement=True, num_samples=ENDLESS)


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Go over a loader again and again."""
    while True:
        yield from loader
