"""What networks have in common that compare parts of a take: one encoder for all, features in pairs.

Legend: B batch, N parts, T frames, C channels, H height, W width, D features, K answers.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import nn

from clipmill_classify.early_fusion_network import StackedFrames
from clipmill_classify.encoded_network import score_layer
from clipmill_pretext import choices

Batch = Mapping[str, torch.Tensor]


class Pairwise(nn.Module):
    """Scores of answers by the features of all pairs (Lee et al., 2017; Xu et al., 2019)."""

    def __init__(
        self, parts: int, features: int, hidden: int, answers: int, dropout: float
    ) -> None:
        super().__init__()
        self.pairs = tuple(combinations(range(parts), 2))
        compare = nn.Linear(2 * features, hidden)
        nn.init.kaiming_normal_(compare.weight, nonlinearity="relu")
        nn.init.zeros_(compare.bias)
        self.compare = nn.Sequential(compare, nn.ReLU(inplace=True))
        self.scores = nn.Sequential(
            nn.Dropout(dropout), score_layer(len(self.pairs) * hidden, answers)
        )

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Unnormalised scores [B, K]."""
        pairs = [torch.cat([x_BND[:, one], x_BND[:, other]], 1) for one, other in self.pairs]
        compared_BD = torch.cat([self.compare(pair_BD) for pair_BD in pairs], 1)
        scores_BK: torch.Tensor = self.scores(compared_BD)
        return scores_BK


class Choosing(nn.Module):
    """Answers a question with one of K; a network of its kind adds `parts`.

    `head` makes scores [B, K] of the features of parts [B, N, D].
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def parts(self, batch: Batch) -> torch.Tensor:
        """Features of each part [B, N, D]."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> choices.Told:
        """The loss of a batch, and how much of it is told rightly."""
        return choices.judged(self.head(self.parts(batch)), batch)

    def predict(self, batch: Batch, state: Any = None) -> tuple[choices.Told, Any]:
        """Whether each take is told rightly, and its features."""
        x_BND = self.parts(batch)
        told = choices.told(self.head(x_BND), batch)
        return {**told, "embedding": self.summary(x_BND).float()}, state

    def describe(self, batch: Batch) -> torch.Tensor:
        """Features of takes [B, D], of any number of parts."""
        return self.summary(self.parts(batch))

    def summary(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Features of takes [B, D] by those of their parts: the mean."""
        return x_BND.mean(1)


class StackedParts(Choosing):
    """Clips through one 2D network, all frames of each at once."""

    def __init__(self, encoder: StackedFrames, frames: int, head: nn.Module) -> None:
        super().__init__(head)
        self.encoder = encoder
        self.frames = frames

    def parts(self, batch: Batch) -> torch.Tensor:
        """Features of each clip."""
        return regrouped(self.encoder(in_clips(batch["rgb"], self.frames)), batch)


class C3DParts(Choosing):
    """Clips through the convolutions of one C3D, whose last maps are compared place by place.

    They are called `features`, as in the classifier.
    """

    def __init__(
        self, convolutions: nn.Module, channels: int, frames: int, head: nn.Module
    ) -> None:
        super().__init__(head)
        self.features = convolutions
        self.channels = channels
        self.frames = frames

    @property
    def encoder(self) -> nn.Module:
        """What goes on to other tasks."""
        return self.features

    def parts(self, batch: Batch) -> torch.Tensor:
        """Features of each clip."""
        return regrouped(self.features(in_clips(batch["rgb"], self.frames)).flatten(1), batch)

    def summary(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The mean over parts, space and time."""
        return torch.unflatten(x_BND.mean(1), 1, (self.channels, -1)).mean(2)


def in_clips(x_BCTHW: torch.Tensor, frames: int) -> torch.Tensor:
    """Clips of so many frames that come one after another, each as one of its own."""
    return torch.unflatten(x_BCTHW, 2, (-1, frames)).transpose(1, 2).flatten(0, 1)


def regrouped(x_ND: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The features of parts by take."""
    x_BND = torch.unflatten(x_ND, 0, (len(batch["rgb"]), -1))
    return x_BND
