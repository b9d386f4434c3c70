"""The odd-one-out network (Fernando et al., 2017): one encoder of sub-clips, fused features, one of N.

Legend: B batch, N sub-clips, C channels, T frames, H height, W width, D features.
"""

from typing import Any

import torch
from torch import nn

from clipmill_classify.early_fusion_network import StackedFrames
from clipmill_classify.encoded_network import fusion_head
from clipmill_pretext.choices import Told
from clipmill_pretext.order_network import Batch, StackedParts, in_clips, regrouped


class Compared(nn.Module):
    """A score of each sub-clip by itself and by what it has beyond the mean of all.

    All are judged by the same layers, so that what is learnt of one place holds for all.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = fusion_head(2 * features, hidden, 1, dropout)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Unnormalised scores [B, N]."""
        beyond_BND = x_BND - x_BND.mean(1, keepdim=True)
        scores_BN: torch.Tensor = self.layers(torch.cat([x_BND, beyond_BND], 2))[..., 0]
        return scores_BN


class Concatenated(nn.Module):
    """Scores by the features of all sub-clips side by side."""

    def __init__(self, features: int, clips: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = fusion_head(features * clips, hidden, clips, dropout)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        """Unnormalised scores [B, N]."""
        scores_BN: torch.Tensor = self.layers(x_BND.flatten(1))
        return scores_BN


class OddNetwork(StackedParts):
    """Tells which sub-clip is out of order, by their frames or by the differences of these."""

    def __init__(
        self, encoder: StackedFrames, frames: int, head: nn.Module, *, of_differences: bool
    ) -> None:
        super().__init__(encoder, frames, head)
        self.of_differences = of_differences

    def parts(self, batch: Batch) -> torch.Tensor:
        """Features of each sub-clip."""
        x_NCTHW = in_clips(batch["rgb"], self.frames)
        if self.of_differences:
            x_NCTHW = x_NCTHW.diff(dim=2)
        return regrouped(self.encoder(x_NCTHW), batch)

    def predict(self, batch: Batch, state: Any = None) -> tuple[Told, Any]:
        """The same, and whether the sub-clip is the odd one whose frames differ most."""
        told, state = super().predict(batch, state)
        differences_NCTHW = in_clips(batch["rgb"], self.frames).diff(dim=2).abs()
        changes_BN = regrouped(differences_NCTHW.flatten(1).mean(1), batch)
        by_change_B = (changes_BN.argmax(1) == batch["truth"]).float()
        return {**told, "right_by_change": by_change_B}, state
