"""The network of the template: forward gives the loss, predict the answer.

Legend: B batch, C channels, T frames, H height, W width, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class TinyNetwork(nn.Module):
    """Two convolutions over space and time, averaged into class scores."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, channels, 3, stride=(1, 2, 2), padding=1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(2 * channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, classes),
        )

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`rgb` is float [B, 3, T, H, W], `target` the class as a number; all you add is logged."""
        return {"loss": functional.cross_entropy(self.layers(batch["rgb"]), batch["target"])}

    def predict(
        self, batch: Mapping[str, torch.Tensor], state: Any = None
    ) -> tuple[dict[str, torch.Tensor], Any]:
        """A row of probabilities [B, K] for each clip; the clips of a video are averaged."""
        return {"probabilities": self.layers(batch["rgb"]).float().softmax(1)}, state
