"""The network of temporal coherence: a frame encoder, a projection, and a rule that compares.

Legend: B batch, S what is compared with, C channels, T frames (one here), H height, W width,
D features, E embedding; `videos_2B` are the videos of anchors, and of what stands against them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.frames import FrameEncoder
from clipmill_pretext.moments import PARTS

Batch = Mapping[str, torch.Tensor]
Told = dict[str, torch.Tensor]
TIE = 0.5  # what an answer counts that prefers neither


class Slow(nn.Module):
    """Near ones together, others beyond a margin, in Euclidean distance; as they are projected."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def projection(self, features: int, embedding: int) -> nn.Module:
        """A linear map."""
        return nn.Linear(features, embedding)

    def forward(
        self,
        anchor_BE: torch.Tensor,
        near_BE: torch.Tensor,
        other_BE: torch.Tensor,
        videos_2B: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of Hadsell et al., 2006: of a pair of each kind."""
        near_B, other_B = (distances(anchor_BE, each) for each in (near_BE, other_BE))
        pushed_B = (self.margin - other_B).clamp(min=0)
        return 0.5 * (near_B.square() + pushed_B.square()).mean()


class Contrast(nn.Module):
    """The neighbour among all frames of other videos of the batch, by the cosine.

    The frames that were planned against takes are there, too: each stands against all takes but
    those of its own video, which it stands against only where it was planned so. Neighbours are
    told from anchors as anchors are from neighbours.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def projection(self, features: int, embedding: int) -> nn.Module:
        """A hidden layer and a linear one, onto the unit sphere (Chen et al., SimCLR, 2020)."""
        return nn.Sequential(
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(inplace=True),
            nn.Linear(features, embedding),
            Normalised(),
        )

    def forward(
        self,
        anchor_BE: torch.Tensor,
        near_BE: torch.Tensor,
        other_BE: torch.Tensor,
        videos_2B: torch.Tensor,
    ) -> torch.Tensor:
        """The cross entropy of the neighbour, and of the anchor, among all they are told from."""
        count = len(anchor_BE)
        # What is right, and what was planned against it, are of one video by intent.
        intended = torch.eye(count, dtype=torch.bool, device=anchor_BE.device).repeat(1, 2)
        same_BS = (videos_2B[:count, None] == videos_2B) & ~intended
        right_B = torch.arange(count, device=anchor_BE.device)
        losses = []
        for one_BE, two_BE in ((anchor_BE, near_BE), (near_BE, anchor_BE)):
            scores_BS = one_BE @ torch.cat([two_BE, other_BE]).T / self.temperature
            scores_BS = scores_BS.masked_fill(same_BS, float("-inf"))
            losses.append(functional.cross_entropy(scores_BS, right_B))
        return torch.stack(losses).mean()


class Normalised(nn.Module):
    """Onto the unit sphere."""

    def forward(self, x_BE: torch.Tensor) -> torch.Tensor:
        """Vectors of length 1, in full precision."""
        return functional.normalize(x_BE.float(), dim=1)


class CoherenceNetwork(nn.Module):
    """Embeds a frame, its neighbour and another one, each for itself, and compares them."""

    def __init__(self, encoder: FrameEncoder, embedding: int, rule: Slow | Contrast) -> None:
        super().__init__()
        self.encoder = encoder
        self.rule = rule
        self.projection = rule.projection(encoder.features, embedding)

    def forward(self, batch: Batch) -> Told:
        """The loss of a batch, and how often the neighbour is the nearer one."""
        _, parts = self._embedded(batch)
        loss = self.rule(*parts, torch.cat([batch["video"], batch["video_other"]]))
        return {"loss": loss, "own_accuracy": nearer(*parts).mean()}

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """Whether each neighbour is nearer than what stands against it, and what the frame is."""
        features_BD, parts = self._embedded(batch)
        pixels = [batch[f"rgb_{part}"].flatten(1) for part in PARTS]
        told = {"right": nearer(*parts), "right_in_pixels": nearer(*pixels)}
        told["is_far"] = batch["is_far"]
        return {**told, "embedding": features_BD.float(), "projection": parts[0]}, state

    def _embedded(self, batch: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The features of the anchors, and what all three kinds of frames are compared by."""
        frames = [batch[f"rgb_{part}"] for part in PARTS]
        features_ND = self.encoder(torch.cat(frames))[:, 0]
        embedded_NE = self.projection(features_ND).float()
        return features_ND[: len(frames[0])], embedded_NE.chunk(3)


def distances(one_BE: torch.Tensor, other_BE: torch.Tensor) -> torch.Tensor:
    """The Euclidean distance of each pair."""
    made_B: torch.Tensor = torch.linalg.vector_norm(one_BE - other_BE, dim=1)
    return made_B


def nearer(anchor_BE: torch.Tensor, near_BE: torch.Tensor, other_BE: torch.Tensor) -> torch.Tensor:
    """1 where the neighbour is nearer, 0 where the other is, and half where neither is."""
    near_B, other_B = (distances(anchor_BE, each) for each in (near_BE, other_BE))
    return (near_B < other_B).float() + TIE * (near_B == other_B).float()
