"""Late fusion: the features of all frames side by side, in their order.

Legend: B batch, C channels, T frames, H height, W width, D features.
"""

import torch
from torch import nn

from clipmill_classify.frames import FrameEncoder


class SideBySide(nn.Module):
    """Encodes each frame for itself and keeps all of it: place in the vector is place in time."""

    def __init__(self, frames: FrameEncoder, count: int) -> None:
        super().__init__()
        self.frames = frames
        self.features = frames.features * count

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Features [B, T * D]."""
        x_BTD: torch.Tensor = self.frames(x_BCTHW)
        return x_BTD.flatten(1)
