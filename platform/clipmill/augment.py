"""From uint8 batches to what networks see: on the device, for the whole batch at once.

Normalisation and augmentation are the platform's, the same in training, testing and serving.
Parameters are drawn on the CPU from each take's seed, so that they depend neither on the batch
nor on the rank. The random crop is the decoder's: bytes cut there need not travel.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill.takes import Draw, View


def shapes(view: View) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample's prepared streams."""
    return {"rgb": (3, view.frames, view.size, view.size)} if "rgb" in view.streams else {}


def prepare(
    batch: Mapping[str, NDArray[np.generic]],
    view: View,
    *,
    training: bool,
    device: torch.device | str = "cpu",
) -> dict[str, torch.Tensor]:
    """Move a batch to the device; `rgb` becomes float [batch, 3, frames, height, width]."""
    tensors = {name: _moved(array, device) for name, array in batch.items() if _is_number(array)}
    if "rgb" in tensors:
        if training and "flip" in view.augment:
            tensors["rgb"] = _flipped(tensors["rgb"], batch["seed"])
        tensors["rgb"] = normalised(tensors["rgb"], view)
    return tensors


def _is_number(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind in "buif" and array.dtype != np.uint64


def _moved(array: NDArray[np.generic], device: torch.device | str) -> torch.Tensor:
    writable = array if array.flags.writeable else array.copy()  # torch warns of read-only memory
    return torch.from_numpy(writable).to(device, non_blocking=True)


def normalised(x_BTHWC: torch.Tensor, view: View) -> torch.Tensor:
    """uint8 frames to floats with the view's mean and deviation, channels before time."""
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    scale = torch.tensor([1 / (255 * std) for std in view.std], device=x_BCTHW.device)
    shift = torch.tensor(
        [-mean / std for mean, std in zip(view.mean, view.std, strict=True)], device=x_BCTHW.device
    )
    channel = (1, 3, 1, 1, 1)
    floats = x_BCTHW.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.mul_(scale.view(channel)).add_(shift.view(channel))


def _flipped(x_BTHWC: torch.Tensor, seeds: NDArray[np.generic]) -> torch.Tensor:
    chosen = [Draw(int(seed)).uniform("flip", 1)[0] < 0.5 for seed in seeds]
    mask = torch.tensor(chosen, device=x_BTHWC.device).view(-1, 1, 1, 1, 1)
    return torch.where(mask, x_BTHWC.flip(3), x_BTHWC)
