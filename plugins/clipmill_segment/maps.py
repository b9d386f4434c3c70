"""The maps of a backbone at its several resolutions, from the parts that follow each other.

Knows pictures' networks as torchvision has them, and nothing of what is made from the maps.

Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from clipmill_classify.backbones import HEADS

POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Stage(NamedTuple):
    """Parts of a backbone that follow each other, and the map that the last of them gives."""

    parts: tuple[str, ...]
    channels: int
    side: int


def stages(network: nn.Module, size: int) -> tuple[Stage, ...]:
    """Cut a backbone where its maps get smaller: behind a pooling, and before any other part."""
    found: list[Stage] = []
    names: list[str] = []
    training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        x_BCHW = torch.zeros(1, 3, size, size, device=device)
        for name, part in _parts(network):
            made = part(x_BCHW)
            if not isinstance(made, torch.Tensor) or made.ndim != 4:
                break
            is_smaller, is_pool = made.shape[2] < x_BCHW.shape[2], isinstance(part, POOLS)
            if is_smaller and not is_pool and names:
                found.append(Stage(tuple(names), x_BCHW.shape[1], x_BCHW.shape[2]))
                names = []
            names.append(name)
            x_BCHW = made
            if is_smaller and is_pool:
                found.append(Stage(tuple(names), x_BCHW.shape[1], x_BCHW.shape[2]))
                names = []
        if names:
            found.append(Stage(tuple(names), x_BCHW.shape[1], x_BCHW.shape[2]))
    network.train(training)
    return tuple(found)


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts that follow each other, without the pooling to a vector and what is behind it."""
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        for name, part in features.named_children():
            yield f"features.{name}", part
        return
    for name, part in network.named_children():
        if name in ("avgpool", *HEADS):
            return
        yield name, part


def resolutions(found: Sequence[Stage]) -> tuple[int, ...]:
    """The places of the last stages of each resolution, coarse to fine."""
    last = {stage.side: place for place, stage in enumerate(found)}
    return tuple(last[side] for side in sorted(last))


def maps_of(
    network: nn.Module, found: Sequence[Stage], wanted: Sequence[int], x_BCHW: torch.Tensor
) -> list[torch.Tensor]:
    """The maps of the wanted stages, in their order."""
    made = []
    for stage in found[: max(wanted) + 1]:
        for part in stage.parts:
            x_BCHW = network.get_submodule(part)(x_BCHW)
        made.append(x_BCHW)
    return [made[at] for at in wanted]
