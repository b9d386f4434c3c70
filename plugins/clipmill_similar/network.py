"""The networks of similarity: a frame encoder, an embedding, and a rule that learns and compares.

Legend: B batch, C channels, T frames, H height, W width, D features, E embedding, P parts of a
take (2 of a pair, 3 of a triplet), N embeddings of all takes and parts.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.frames import FrameEncoder
from clipmill_similar.partners import PARTS

Batch = Mapping[str, torch.Tensor]
Told = dict[str, torch.Tensor]

# Of the classifier of pairs, so that a fresh network is as sure of one as of two identities.
FIRST_SUM, FIRST_BIAS = 16.0, 3.8  # of its weights; what embeddings differ by then


class Rule(nn.Module):
    """What is learnt from embeddings, and how two of them are compared."""

    def placed(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Where embeddings lie: on the unit sphere."""
        return functional.normalize(x_NE, dim=1)

    def distances(self, one_BE: torch.Tensor, two_BE: torch.Tensor) -> torch.Tensor:
        """How far apart two are: the squared distance."""
        return (one_BE - two_BE).square().sum(1)

    def forward(self, x_BPE: torch.Tensor, who_BP: torch.Tensor) -> Told:
        """The loss of a batch, and what else is told of it."""
        raise NotImplementedError


class Contrastive(Rule):
    """Draws those of one identity together, and pushes others beyond a margin."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, x_BPE: torch.Tensor, who_BP: torch.Tensor) -> Told:
        """The mean over pairs, in squared distance."""
        away_B = self.distances(x_BPE[:, 0], x_BPE[:, 1])
        same_B = who_BP[:, 0] == who_BP[:, 1]
        loss_B = torch.where(same_B, away_B, (self.margin - away_B).clamp(min=0))
        return {"loss": loss_B.mean()}


class Binary(Rule):
    """Classifies how much two differ in each number.

    What differs only ever speaks for two, so that nothing is nearer to a video than itself. The
    weights of the classifier are in the embeddings, which are compared by the sum of differences.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        each = math.log(math.expm1(FIRST_SUM / embedding))  # of which softplus is its share
        self.weight = nn.Parameter(torch.full((embedding,), each))
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS))

    def placed(self, x_NE: torch.Tensor) -> torch.Tensor:
        """Each number between 0 and its weight."""
        return x_NE.sigmoid() * functional.softplus(self.weight)

    def distances(self, one_BE: torch.Tensor, two_BE: torch.Tensor) -> torch.Tensor:
        """How much speaks for two: the sum of what differs."""
        return (one_BE - two_BE).abs().sum(1)

    def forward(self, x_BPE: torch.Tensor, who_BP: torch.Tensor) -> Told:
        """The cross entropy of pairs."""
        logits_B = self.bias - self.distances(x_BPE[:, 0], x_BPE[:, 1])
        same_B = who_BP[:, 0] == who_BP[:, 1]
        loss = functional.binary_cross_entropy_with_logits(logits_B, same_B.float())
        return {"loss": loss, "pair_accuracy": ((logits_B > 0) == same_B).float().mean()}


class Triplets(Rule):
    """Wants negatives farther than the positive by a margin; finds them in the batch."""

    def __init__(self, margin: float, mining: str) -> None:
        super().__init__()
        self.margin, self.mining = margin, mining

    def forward(self, x_BPE: torch.Tensor, who_BP: torch.Tensor) -> Told:
        """The mean over triplets, and how many of them still cost something."""
        near_B = self.distances(x_BPE[:, 0], x_BPE[:, 1])
        loss_B = (near_B - self._far(x_BPE, near_B, who_BP) + self.margin).clamp(min=0)
        return {"loss": loss_B.mean(), "active": (loss_B > 0).float().mean()}

    def _far(self, x_BPE: torch.Tensor, near_B: torch.Tensor, who_BP: torch.Tensor) -> torch.Tensor:
        """The distance of each anchor's negative: its own at random, or one of all in the batch.

        Semi-hard is the nearest beyond the positive; where all are nearer, the farthest of them.
        """
        if self.mining == "random":
            return self.distances(x_BPE[:, 0], x_BPE[:, 2])
        away_BN = (x_BPE[:, :1] - x_BPE.flatten(0, 1)).square().sum(2)
        other_BN = who_BP[:, :1] != who_BP.flatten()
        chosen_BN = other_BN
        if self.mining == "semi_hard":
            beyond_BN = other_BN & (away_BN > near_B[:, None])
            at_B = away_BN.detach().masked_fill(~other_BN, float("-inf")).argmax(1)
            farthest_BN = functional.one_hot(at_B, away_BN.shape[1]).bool()
            chosen_BN = torch.where(beyond_BN.any(1, keepdim=True), beyond_BN, farthest_BN)
        return away_BN.masked_fill(~chosen_BN, float("inf")).amin(1)


class SimilarNetwork(nn.Module):
    """Embeds each part of a take for itself, with the same weights.

    Embeddings are centred before they are placed: those of a fresh network lie all in one place,
    where pairs and triplets have next to no gradient, and hard negatives keep them there.
    """

    def __init__(self, encoder: FrameEncoder, embedding: int, rule: Rule) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.features, embedding, bias=False)
        self.centre = nn.BatchNorm1d(embedding, affine=False)
        self.rule = rule

    def forward(self, batch: Batch) -> Told:
        """The loss of a batch."""
        told: Told = self.rule(self._embedded(batch), batch["who"])
        return told

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """The embedding of the first, and how far the second is from it, if there is one."""
        x_BPE = self._embedded(batch)
        told = {"embedding": x_BPE[:, 0]}
        if x_BPE.shape[1] > 1:
            told["distance"] = self.distances(x_BPE[:, 0], x_BPE[:, 1])
        return told, state

    def distances(self, one_BE: torch.Tensor, two_BE: torch.Tensor) -> torch.Tensor:
        """How far apart two embeddings are, by the rule that they were learnt by."""
        return self.rule.distances(one_BE, two_BE)

    def _embedded(self, batch: Batch) -> torch.Tensor:
        """Embeddings [B, P, E], all through the encoder at once."""
        clips = [batch[f"rgb_{part}"] for part in PARTS if f"rgb_{part}" in batch]
        features_ND = self.encoder(torch.cat(clips)).mean(1)
        x_NE = self.rule.placed(self.centre(self.head(features_ND).float()))
        return x_NE.reshape(len(clips), -1, x_NE.shape[1]).transpose(0, 1)
