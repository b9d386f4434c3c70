"""The C3D network (Tran et al., 2015): 8 convolutions, 5 max pools, fc6, fc7 and the scores.

78.4 million parameters at 101 classes and 16 x 112 x 112. An axis that is down to one place is
not pooled further, so that shorter and smaller clips go through the same layers.

Legend: B batch, C channels, T frames, H height, W width, D features, K classes.
"""

from math import prod

import torch
from torch import nn

from clipmill_classify.network import Batch, ClipNetwork

Extent = tuple[int, int, int]  # frames, height, width

CHANNELS = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # of the stages, each then pooled
POOLS: tuple[Extent, ...] = ((1, 2, 2), *4 * [(2, 2, 2)])
# The last pool is padded in space: 7 x 7 becomes 4 x 4, which makes the 8192 features of the paper.
PADDINGS: tuple[Extent, ...] = (*4 * [(0, 0, 0)], (0, 1, 1))
FC_FEATURES = 4096


def scaled(channels: int, width: float) -> int:
    """How many channels a layer of the paper has in a narrower or wider network."""
    return max(1, round(channels * width))


class C3DNetwork(ClipNetwork):
    """Tells the class of a clip by all its frames at once."""

    def __init__(
        self, *, classes: int, clip: Extent, width: float, dropout: float, batch_norm: bool
    ) -> None:
        super().__init__()
        self.features, channels, extent = convolutions(clip, width, batch_norm)
        hidden = scaled(FC_FEATURES, width)
        scores = nn.Linear(hidden, classes)
        self.classifier = nn.Sequential(
            nn.Linear(channels * prod(extent), hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            scores,
        )  # fmt: skip
        self.apply(initialise)
        nn.init.normal_(scores.weight, std=0.01)  # all classes alike at the start

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.features(batch["rgb"]).flatten(1)
        scores_BK: torch.Tensor = self.classifier(x_BD)
        return scores_BK


def convolutions(clip: Extent, width: float, batch_norm: bool) -> tuple[nn.Sequential, int, Extent]:
    """All before the linear layers, with the channels and the extent that they leave."""
    stages, channels, extent = list[nn.Module](), 3, clip
    for outs, pool, padding in zip(CHANNELS, POOLS, PADDINGS, strict=True):
        for out in outs:
            stages += convolution(channels, scaled(out, width), batch_norm)
            channels = scaled(out, width)
        pooling, extent = fitted_pool(extent, pool, padding)
        stages.append(pooling)
    return nn.Sequential(*stages), channels, extent


def convolution(channels: int, out: int, batch_norm: bool) -> list[nn.Module]:
    """One 3x3x3 convolution with what follows it before the pool."""
    conv = nn.Conv3d(channels, out, kernel_size=3, padding=1, bias=not batch_norm)
    norm = [nn.BatchNorm3d(out)] if batch_norm else []
    return [conv, *norm, nn.ReLU(inplace=True)]


def fitted_pool(extent: Extent, kernel: Extent, padding: Extent) -> tuple[nn.MaxPool3d, Extent]:
    """A pool whose kernel does not outgrow what is left of the clip, and what it leaves."""
    fitted = [
        (left, min(k, left), min(p, min(k, left) // 2))
        for left, k, p in zip(extent, kernel, padding, strict=True)
    ]
    frames, height, width = ((left + 2 * p - k) // k + 1 for left, k, p in fitted)
    kernels, paddings = tuple(k for _, k, _ in fitted), tuple(p for _, _, p in fitted)
    return nn.MaxPool3d(kernels, kernels, paddings), (frames, height, width)


def initialise(module: nn.Module) -> None:
    """He et al., 2015: keeps the signal's size through ReLU layers, so that depth can learn."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
