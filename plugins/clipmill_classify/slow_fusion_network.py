"""The slow fusion network of Karpathy et al., 2014: time is taken in over three convolutions.

96 filters of 11 x 11 every 3 pixels, 256 of 5 x 5, then 384, 384 and 256 of 3 x 3, three pools of
2 x 2 and two linear layers of 4096. With 10 frames the first layer spans 4 of them every second
one, which leaves 4; the next two span 2 each and leave 2, then 1.

Legend: B batch, C channels, T frames, H height, W width, D features, K classes.
"""

from math import prod

import torch
from torch import nn

from clipmill_classify.c3d_network import Extent, fitted_pool, initialise, scaled
from clipmill_classify.encoded_network import score_layer
from clipmill_classify.network import Batch, ClipNetwork

CHANNELS = (96, 256, 384, 384, 256)
KERNELS = (11, 5, 3, 3, 3)  # pixels
STRIDES = (3, 1, 1, 1, 1)
POOLED = (True, True, False, False, True)
NORMED = (True, True, False, False, False)
FC_FEATURES = 4096
MOMENTS = 4  # what the first layer leaves of the clip


class SlowFusionNetwork(ClipNetwork):
    """Tells the class of a clip by layers that see ever more of its frames."""

    def __init__(
        self, *, classes: int, clip: Extent, width: float, dropout: float, batch_norm: bool
    ) -> None:
        super().__init__()
        layers, channels, extent = [], 3, clip
        for stage, (spanned, stride) in enumerate(spans(clip[0])):
            out = scaled(CHANNELS[stage], width)
            conv, extent = convolution(stage, channels, out, spanned, stride, extent)
            layers += [conv, *activation(stage, out, batch_norm)]
            if POOLED[stage]:
                pool, extent = fitted_pool(extent, (1, 2, 2), (0, 0, 0))
                layers.append(pool)
            channels = out
        self.features = nn.Sequential(*layers)
        hidden = scaled(FC_FEATURES, width)
        self.classifier = nn.Sequential(
            nn.Linear(channels * prod(extent), hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
        )  # fmt: skip
        self.apply(initialise)
        self.scores = score_layer(hidden, classes)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.classifier(self.features(batch["rgb"]).flatten(1))
        scores_BK: torch.Tensor = self.scores(x_BD)
        return scores_BK


def spans(frames: int) -> list[tuple[int, int]]:
    """Frames that each layer spans and steps over; the first leaves four, the third one."""
    stride = max(1, frames // 5)
    return [(frames - stride * (MOMENTS - 1), stride), (2, 2), (2, 2), (1, 1), (1, 1)]


def convolution(
    stage: int, channels: int, out: int, spanned: int, stride: int, extent: Extent
) -> tuple[nn.Conv3d, Extent]:
    """A layer of the paper over so many frames, and the extent that it leaves."""
    pixels, step = KERNELS[stage], STRIDES[stage]
    edge = 0 if step > 1 else pixels // 2  # only the first layer makes pictures smaller
    conv = nn.Conv3d(
        channels, out, (spanned, pixels, pixels), (stride, step, step), (0, edge, edge)
    )
    frames, height, width = extent
    high, wide = ((side + 2 * edge - pixels) // step + 1 for side in (height, width))
    return conv, ((frames - spanned) // stride + 1, high, wide)


def activation(stage: int, channels: int, batch_norm: bool) -> list[nn.Module]:
    """What follows a convolution: batch norm first, or the paper's response norm behind two."""
    relu = nn.ReLU(inplace=True)
    if batch_norm:
        return [nn.BatchNorm3d(channels), relu]
    return [relu, nn.LocalResponseNorm(5, alpha=1e-4, beta=0.5, k=2.0)] if NORMED[stage] else [relu]
