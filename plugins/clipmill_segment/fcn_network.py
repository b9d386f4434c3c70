"""The network of FCN: a backbone's maps scored at several depths, from coarse to fine.

Long et al., 2015. Scores are doubled by convolutions that begin as bilinear and learn; those of
finer maps begin at zero, so that training starts from the coarse answer. The backbone keeps its
tensors' names (`encoder.network.*`), so that it may come from a classifier or a pretext.

Legend: B batch, C channels, K classes with the ground, H height, W width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from clipmill.errors import PluginError
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.narrow import scaled
from clipmill_segment.maps import Stage, maps_of, resolutions, stages
from clipmill_segment.network import SegmentNetwork, drawn


class Head(NamedTuple):
    """The layers between the backbone and its scores, which were fully connected once."""

    channels: int
    width: float
    dropout: float

    def layers(self, before: int) -> tuple[nn.Module, int]:
        """Make them; return them with the channels that they give."""
        if not self.channels:
            return nn.Identity(), before
        few = scaled(self.channels, self.width)
        ends = [(nn.ReLU(inplace=True), nn.Dropout2d(self.dropout)) for _ in range(2)]
        first, second = nn.Conv2d(before, few, 7, padding=3), nn.Conv2d(few, few, 1)
        return nn.Sequential(first, *ends[0], second, *ends[1]).apply(drawn), few


class FcnNetwork(SegmentNetwork):
    """Scores the coarsest map, and adds the scores of finer ones."""

    def __init__(
        self,
        encoder: FrameEncoder,
        size: int,
        classes: int,
        levels: int,
        head: Head,
        class_weights: Sequence[float] = (),
    ) -> None:
        super().__init__(class_weights)
        self.encoder = encoder
        self.stages = stages(encoder.network, size)
        self.scored = _scored(self.stages, levels)
        coarsest, *finer = (self.stages[at].channels for at in self.scored)
        self.head, channels = head.layers(coarsest)
        self.score = nn.Conv2d(channels, classes, 1)
        self.sides = nn.ModuleList(_zero(nn.Conv2d(each, classes, 1)) for each in finer)
        self.doubled = nn.ModuleList(_bilinear(classes) for _ in finer)

    def scores(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of pixels [B, K, H, W]."""
        height, width = x_BCHW.shape[2:]
        network = self.encoder.network
        coarsest, *finer = maps_of(network, self.stages, self.scored, x_BCHW)
        scores_BKHW = self.score(self.head(coarsest))
        for side, doubled, map_BCHW in zip(self.sides, self.doubled, finer, strict=True):
            more_BKHW = side(map_BCHW)
            scores_BKHW = more_BKHW + _resized(doubled(scores_BKHW), *more_BKHW.shape[2:])
        return _resized(scores_BKHW, height, width)


def _scored(found: Sequence[Stage], levels: int) -> tuple[int, ...]:
    """The places of the last stages of the coarsest resolutions, coarse to fine."""
    places = resolutions(found)
    if len(places) <= levels:
        raise PluginError(
            f"a backbone with maps at {len(places)} resolution(s)",
            f"more than the {levels} that are scored, as convolutional networks have them",
            "set model.backbone=vgg16 or resnet18, or model.stride=32",
        )
    return places[:levels]


def _resized(x_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if x_BCHW.shape[2:] == (height, width):
        return x_BCHW
    return functional.interpolate(x_BCHW, (height, width), mode="bilinear", align_corners=False)


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _bilinear(classes: int) -> nn.ConvTranspose2d:
    """Doubles each class's scores, at first as bilinear interpolation does."""
    made = nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        made.weight.zero_()
        for place in range(classes):
            made.weight[place, place] = torch.outer(taps, taps)
    return made
