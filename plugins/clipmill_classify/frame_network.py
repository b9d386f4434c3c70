"""The single-frame network: a frame encoder and a linear layer.

Legend: B batch, C channels, T frames (one here), H height, W width, D features, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from clipmill_classify.scores import classified, probabilities


class FrameNetwork(nn.Module):
    """Tells the class of a clip by its first frame."""

    def __init__(self, encoder: nn.Module, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss of a batch, and how many of its clips are told rightly."""
        return classified(self.logits(batch["rgb"]), batch["target"])

    def predict(
        self, batch: Mapping[str, torch.Tensor], state: Any = None
    ) -> tuple[dict[str, torch.Tensor], Any]:
        """Class probabilities of each clip."""
        return probabilities(self.logits(batch["rgb"])), state

    def logits(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.encoder(x_BCTHW[:, :, 0])
        scores_BK: torch.Tensor = self.head(self.dropout(x_BD))
        return scores_BK
