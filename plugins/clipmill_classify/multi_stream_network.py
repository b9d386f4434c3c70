"""The multi-stream network: what was seen, how it moved and what was heard, joined to one answer.

Legend: B batch, C channels, T frames, H height, W width, F bands, S steps, D features, K classes.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import nn

from clipmill_classify.frames import FrameEncoder
from clipmill_classify.network import Batch, ClipNetwork
from clipmill_classify.recurrent_network import Recurrent
from clipmill_classify.sound_network import SoundEncoder


class Frames(nn.Module):
    """The frames that come with a batch."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Frames [B, 3, T, H, W]."""
        return batch["rgb"]


class Watched(nn.Module):
    """Pictures of some source, each encoded for itself, and what is known after the last."""

    def __init__(self, source: nn.Module, encoder: FrameEncoder, memory: Recurrent) -> None:
        super().__init__()
        self.source, self.encoder, self.memory = source, encoder, memory
        self.features = memory.features

    def forward(self, batch: Batch) -> torch.Tensor:
        """Features [B, D]."""
        y_BTD, _ = self.memory(self.encoder(self.source(batch)))
        last_BD: torch.Tensor = y_BTD[:, -1]
        return last_BD


class Heard(nn.Module):
    """The sound; of a video without any it adds nothing, whatever the encoder makes of silence."""

    def __init__(self, encoder: SoundEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = encoder.features

    def forward(self, batch: Batch) -> torch.Tensor:
        """Features [B, D]."""
        x_BD: torch.Tensor = self.encoder(batch["spectrogram"])
        return x_BD * batch["heard"][:, None]


class Joint(nn.Module):
    """Streams side by side, and the products of each two of them.

    What shows only in two streams together, and in neither alone, a sum would learn late or never:
    a product has a slope towards it from the start (Kim et al., Hadamard Product for Low-Rank
    Bilinear Pooling, 2017).
    """

    def __init__(self, features: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(count), nn.Linear(count, hidden)) for count in features
        )
        self.pairs = list(combinations(range(len(features)), 2))
        self.features = hidden * (len(features) + len(self.pairs))

    def forward(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features [B, D] of what each stream has found."""
        each = [stream(x_BD) for stream, x_BD in zip(self.streams, parts, strict=True)]
        return torch.cat([*each, *(each[one] * each[other] for one, other in self.pairs)], 1)


class MultiStreamNetwork(ClipNetwork):
    """Joins what all streams have found, and tells the class from that."""

    def __init__(
        self, parts: Mapping[str, Watched | Heard], hidden: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.joint = Joint([part.features for part in parts.values()], hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.joint.features, classes)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.joint([part(batch) for part in self.parts.values()])
        scores_BK: torch.Tensor = self.head(self.dropout(x_BD))
        return scores_BK
