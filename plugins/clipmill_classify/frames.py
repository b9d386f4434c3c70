"""The frame encoder: one 2D network over every frame of a clip, each frame for itself.

Knows nothing of time: what follows it, pooling, fusion or recurrence, puts frames together.

Legend: B batch, C channels, T frames, H height, W width, D features.
"""

import torch
from torch import nn

from clipmill_classify.backbones import frame_encoder


class FrameEncoder(nn.Module):
    """Features of each frame of a clip; the frames of all clips go through as one batch."""

    def __init__(
        self,
        backbone: str,
        size: int,
        width: float = 1.0,
        weights: str | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        made = frame_encoder(backbone, size, width, weights, in_channels)
        self.network, self.features = made

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, T, D]."""
        frames = x_BCTHW.shape[2]
        x_ND = self.network(x_BCTHW.transpose(1, 2).flatten(0, 1))
        x_BTD: torch.Tensor = x_ND.unflatten(0, (-1, frames))
        return x_BTD
