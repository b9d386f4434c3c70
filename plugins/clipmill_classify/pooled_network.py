"""Pooling over time: what the frames show together, whatever their order.

Legend: B batch, C channels, T frames, H height, W width, D features.
"""

from typing import Literal

import torch
from torch import nn

from clipmill_classify.frames import FrameEncoder

Pooling = Literal["mean", "max", "sum"]


class PooledFrames(nn.Module):
    """Encodes each frame for itself and lets every feature keep one figure of all frames."""

    def __init__(self, frames: FrameEncoder, pool: Pooling) -> None:
        super().__init__()
        self.frames = frames
        self.pool = pool

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_BTD: torch.Tensor = self.frames(x_BCTHW)
        match self.pool:
            case "max":
                return x_BTD.amax(1)
            case "sum":
                return x_BTD.sum(1)
            case "mean":
                return x_BTD.mean(1)
