"""Early fusion: the first convolution sees all frames at once, the rest is a 2D network.

Legend: B batch, C channels, T frames, H height, W width, D features.
"""

import torch
from torch import nn

from clipmill_classify.backbones import COLOURS, frame_encoder, stem_of, take_channels


class StackedFrames(nn.Module):
    """Encodes a clip as one picture with the channels of all its frames."""

    def __init__(
        self, backbone: str, frames: int, size: int, width: float, weights: str | None
    ) -> None:
        super().__init__()
        self.network, self.features = frame_encoder(backbone, size, width, weights)
        widen_stem(self.network, frames, spread=weights is not None)

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_BD: torch.Tensor = self.network(x_BCTHW.flatten(1, 2))
        return x_BD


def widen_stem(network: nn.Module, frames: int, spread: bool) -> None:
    """Let the first convolution, in place, take that many frames.

    Learnt filters are spread evenly over the frames, so that a still clip gives what its frame
    gave; others are drawn anew, for filters that are alike in all frames see no motion at first.
    """
    colours = stem_of(network)[1].weight.detach()
    learnt = (colours / frames).repeat_interleave(frames, dim=1) if spread else None
    take_channels(network, COLOURS * frames, learnt)
