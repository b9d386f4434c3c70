"""The network of SegNet: convolutions with batch norms, index unpooling between the decoder's.

Badrinarayanan et al., 2017. Each unpooling leaves zeros between the maxima, and convolutions
after it make the maps dense again.

Legend: B batch, C channels, K classes with the ground, H height, W width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from clipmill_classify.narrow import scaled
from clipmill_segment.network import SegmentNetwork, drawn
from clipmill_segment.unpooling import pooled, unpooled

COLOURS = 3
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of VGG-16


class SegNetNetwork(SegmentNetwork):
    """Pools and keeps the places; unpools to the same places, in reverse."""

    def __init__(
        self, classes: int, stages: int, width: float, class_weights: Sequence[float] = ()
    ) -> None:
        super().__init__(class_weights)
        channels = [[scaled(each, width) for each in stage] for stage in STAGES[:stages]]
        entering = [COLOURS, *(stage[-1] for stage in channels)]
        self.encoder = nn.ModuleList(
            _stage([before, *stage]) for before, stage in zip(entering, channels, strict=False)
        )
        # The last convolution of each stage up gives what the stage before it came with.
        mirrored = [
            [*stage[::-1], before]
            for before, stage in zip(entering[1:], channels[1:], strict=False)
        ]
        self.decoder = nn.ModuleList(_stage(stage) for stage in mirrored[::-1])
        self.last = _stage(channels[0][::-1])
        self.score = nn.Conv2d(channels[0][0], classes, 3, padding=1)
        self.apply(drawn)

    def scores(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of pixels [B, K, H, W]."""
        kept = []
        for stage in self.encoder:
            x_BCHW = stage(x_BCHW)
            height, width = x_BCHW.shape[2:]
            x_BCHW, places_BCHW = pooled(x_BCHW)
            kept.append((places_BCHW, height, width))
        for stage, place in zip([*self.decoder, self.last], kept[::-1], strict=True):
            x_BCHW = stage(unpooled(x_BCHW, *place))
        scores_BKHW: torch.Tensor = self.score(x_BCHW)
        return scores_BKHW


def _stage(channels: Sequence[int]) -> nn.Sequential:
    """A convolution with its norm from each number of channels to the next."""
    parts: list[nn.Module] = []
    for before, after in pairwise(channels):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        parts += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)
