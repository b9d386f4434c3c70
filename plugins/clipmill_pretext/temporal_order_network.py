"""The networks of temporal order: frames through one 2D network, or clips through one of clips.

Shuffle and Learn (Misra et al., 2016); clip order prediction (Xu et al., 2019).

Legend: B batch, N frames of a tuple, D features.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from clipmill_classify.c3d_network import Extent, convolutions, initialise
from clipmill_classify.early_fusion_network import StackedFrames
from clipmill_classify.frames import FrameEncoder
from clipmill_pretext.order_network import Batch, C3DParts, Choosing, StackedParts

FRAMES = 3  # of a tuple

MakeHead = Callable[[int, int], nn.Module]  # for so many parts of so many features


class FrameOrder(Choosing):
    """Tells whether frames are in order; each goes through the encoder for itself."""

    def __init__(self, encoder: FrameEncoder, head: nn.Module) -> None:
        super().__init__(head)
        self.encoder = encoder

    def parts(self, batch: Batch) -> torch.Tensor:
        """Features of each frame."""
        x_BND: torch.Tensor = self.encoder(batch["rgb"])
        return x_BND


def frame_order(encoder: FrameEncoder, make_head: MakeHead) -> Choosing:
    """Make the network that tells frames in order from others."""
    return FrameOrder(encoder, make_head(FRAMES, encoder.features))


def stacked_order(encoder: StackedFrames, frames: int, clips: int, make_head: MakeHead) -> Choosing:
    """Make the network that tells the order of clips by a 2D network over all frames of each."""
    return StackedParts(encoder, frames, make_head(clips, encoder.features))


def c3d_order(
    clip: Extent, clips: int, width: float, batch_norm: bool, make_head: MakeHead
) -> Choosing:
    """Make the network that tells the order of clips by a C3D."""
    features, channels, extent = convolutions(clip, width, batch_norm)
    head = make_head(clips, channels * prod(extent))
    return C3DParts(features.apply(initialise), channels, clip[0], head)
