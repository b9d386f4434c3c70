"""The single-frame network: a frame encoder and a linear layer.

Legend: B batch, C channels, T frames (one here), H height, W width, D features, K classes.
"""

import torch
from torch import nn

from clipmill_classify.encoded_network import score_layer
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.network import Batch, ClipNetwork


class FrameNetwork(ClipNetwork):
    """Tells the class of a clip by its first frame."""

    def __init__(self, encoder: FrameEncoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = score_layer(encoder.features, classes)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BTD = self.encoder(batch["rgb"][:, :, :1])
        scores_BK: torch.Tensor = self.head(self.dropout(x_BTD[:, 0]))
        return scores_BK
