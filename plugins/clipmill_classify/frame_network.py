"""The single-frame network: a frame encoder and a linear layer.

Legend: B batch, C channels, T frames (one here), H height, W width, D features, K classes.
"""

import torch
from torch import nn

from clipmill_classify.network import Batch, ClipNetwork


class FrameNetwork(ClipNetwork):
    """Tells the class of a clip by its first frame."""

    def __init__(self, encoder: nn.Module, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.encoder(batch["rgb"][:, :, 0])
        scores_BK: torch.Tensor = self.head(self.dropout(x_BD))
        return scores_BK
