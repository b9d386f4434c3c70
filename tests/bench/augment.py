"""The way to the device: bytes a second through it, and what augmentation costs, on this CPU.

Rivals are torchvision's transforms (v2), applied clip by clip as data sets do, on the layout and
type that it is fastest with. Both sides end at normalised floats of a whole batch.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from clipmill import augment
from clipmill.device import to_device
from clipmill.takes import View
from row import Row, cpu_seconds_in_turns

BATCH, FRAMES, SIZE, RESIZE = 8, 16, 112, 128
BATCHES = 40  # through the way to the device, a round
VIEW = View(frames=FRAMES, size=SIZE, resize=RESIZE)
JITTER = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
RIVALS: Mapping[str, v2.Transform] = {
    "flip": v2.RandomHorizontalFlip(),
    "resized_crop": v2.RandomResizedCrop(SIZE, (0.4, 1.0), antialias=True),
    "color": v2.RandomApply([JITTER], 0.8),
    "grey": v2.RandomGrayscale(0.2),
    "blur": v2.RandomApply([v2.GaussianBlur(7, (0.05, 1.0))], 0.5),
    "erase": v2.RandomErasing(0.25),
}
OURS_ALONE = ("reverse", "mixup", "cutmix")  # no rival changes a clip so

Batch = dict[str, NDArray[Any]]


def measure(rounds: int) -> list[Row]:
    """Give gigabytes a second to the device, and milliseconds of CPU a clip."""
    return [*_throughput(rounds), *_costs(rounds)]


def batch_of(size: int) -> Batch:
    """A batch of noise that nobody may write to."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (BATCH, FRAMES, size, size, 3), np.uint8)
    frames.flags.writeable = False
    return {
        "rgb": frames,
        "target": np.zeros(BATCH, np.int64),
        "position": np.arange(BATCH),
        "seed": rng.integers(0, 2**64, BATCH, np.uint64),
    }


def _throughput(rounds: int) -> Iterator[Row]:
    batch = batch_of(SIZE)
    gigabytes = BATCHES * batch["rgb"].nbytes / 1e9
    plain = functools.partial(augment.prepared, view=VIEW, training=True)
    ways: Mapping[str, Callable[..., Any]] = {
        "as they are": lambda tensors, batch: tensors,
        "normalised": plain,
    }
    for name, prepare in ways.items():
        seconds = []
        for _ in range(rounds + 1):
            began = perf_counter()
            for _ in to_device([batch] * BATCHES, "cpu", prepare):
                pass
            seconds.append(perf_counter() - began)
        least = 1.0 if name == "as they are" else None
        yield Row(f"device/frames {name}", gigabytes / median(seconds[1:]), "GB/s", at_least=least)


def _costs(rounds: int) -> Iterator[Row]:
    variants: dict[str, Callable[[], object]] = {}
    for name in ("none", *RIVALS, *OURS_ALONE, "all"):
        batch = batch_of(RESIZE if name in ("resized_crop", "all") else SIZE)
        variants[name] = functools.partial(_ours, batch, name)
        if name not in OURS_ALONE:
            variants[f"rival {name}"] = functools.partial(_rivals, _clips(batch), _steps(name))
    seconds = cpu_seconds_in_turns(variants, rounds)
    cost = {name: median(each) * 1000 / BATCH for name, each in seconds.items()}
    for name in (each for each in variants if not each.startswith("rival ")):
        rivals = {"torchvision v2": cost[f"rival {name}"]} if f"rival {name}" in cost else {}
        yield Row(f"augment/{name}", cost[name], "ms of CPU a clip", rivals=rivals)


def _ours(batch: Batch, name: str) -> object:
    names = tuple(RIVALS) if name == "all" else () if name == "none" else (name,)
    view = VIEW.model_copy(update={"augment": names})
    return augment.prepare(batch, view, training=True)


def _clips(batch: Batch) -> list[torch.Tensor]:
    frames = torch.from_numpy(batch["rgb"].copy())
    return list(frames.permute(0, 1, 4, 2, 3).contiguous())  # what its decoders give


def _steps(name: str) -> v2.Compose:
    chosen = list(RIVALS.values()) if name == "all" else [RIVALS[name]] if name != "none" else []
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(VIEW.mean, VIEW.std)]
    return v2.Compose([*chosen, *end])


def _rivals(clips: list[torch.Tensor], steps: v2.Compose) -> object:
    return torch.stack([steps(clip) for clip in clips]).transpose(1, 2).contiguous()
