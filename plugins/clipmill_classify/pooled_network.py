"""Pooling over time: what the frames show together, whatever their order.

Legend: B batch, T frames, D features.
"""

from typing import Literal

import torch
from torch import nn

Pooling = Literal["mean", "max", "sum"]


class Pool(nn.Module):
    """Lets every feature keep one figure of all frames."""

    def __init__(self, pool: Pooling) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        match self.pool:
            case "max":
                return x_BTD.amax(1)
            case "sum":
                return x_BTD.sum(1)
            case "mean":
                return x_BTD.mean(1)
