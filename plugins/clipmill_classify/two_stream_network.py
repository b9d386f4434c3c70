"""The two-stream network: two towers that learn each for itself, and the fusion of their scores.

Legend: B batch, C channels, L flows, H height, W width, D features, K classes, S streams.
"""

import math

import torch
from torch import nn

from clipmill_classify.network import Batch, ClipNetwork
from clipmill_classify.scores import Told


class Tower(nn.Module):
    """An encoder of pictures of any channels, and a linear layer."""

    def __init__(self, encoder: nn.Module, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores."""
        scores_BK: torch.Tensor = self.head(self.dropout(self.encoder(x_BCHW)))
        return scores_BK


class Linear(nn.Module):
    """Class scores from those of all streams, which it leaves as they are; at first their mean."""

    def __init__(self, streams: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(streams * classes, classes)
        self.layer.weight.data.copy_(torch.eye(classes).repeat(1, streams) / streams)
        nn.init.zeros_(self.layer.bias)

    def forward(self, scores_SBK: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores [B, K]."""
        scores_BK: torch.Tensor = self.layer(scores_SBK.detach().transpose(0, 1).flatten(1))
        return scores_BK


class Average(nn.Module):
    """Scores whose probabilities are the mean of the streams'."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.several = several

    def forward(self, scores_SBK: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores [B, K]."""
        scores_SBK = scores_SBK.float()
        if not self.several:
            return scores_SBK.log_softmax(2).logsumexp(0) - math.log(len(scores_SBK))
        with_SBK, without_SBK = (nn.functional.logsigmoid(s) for s in (scores_SBK, -scores_SBK))
        return with_SBK.logsumexp(0) - without_SBK.logsumexp(0)


class TwoStreamNetwork(ClipNetwork):
    """Tells the class of a clip by a frame of it, by its flow, or by both."""

    def __init__(
        self,
        *,
        classes: int,
        spatial: Tower | None,
        temporal: Tower | None,
        flow: nn.Module | None,
        linear: bool,
        several: bool,
    ) -> None:
        super().__init__()
        self.spatial, self.temporal, self.flow = spatial, temporal, flow
        used = [tower for tower in (spatial, temporal) if tower is not None]
        self.fusion = Linear(len(used), classes) if linear else Average(several)

    def forward(self, batch: Batch) -> Told:
        """The losses of the streams and of what learns to fuse them, added; what each tells."""
        scores = self._scores(batch)
        told: Told = self.judge(self._fused(scores), batch)
        made = {"accuracy": told["accuracy"]}
        losses = [told["loss"]] if isinstance(self.fusion, Linear) else []
        for name, scores_BK in scores.items():
            own: Told = self.judge(scores_BK, batch)
            losses.append(own["loss"])
            made |= {f"{name}_{what}": value for what, value in own.items()}
        return {"loss": torch.stack(losses).sum(), **made}

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        return self._fused(self._scores(batch))

    def _fused(self, scores: Told) -> torch.Tensor:
        fused_BK: torch.Tensor = self.fusion(torch.stack([*scores.values()]))
        return fused_BK

    def _scores(self, batch: Batch) -> Told:
        """The scores of each stream, by its name."""
        made: Told = {}
        if self.spatial is not None:
            frames = batch["rgb"]
            made["spatial"] = self.spatial(frames[:, :, frames.shape[2] // 2])
        if self.temporal is not None and self.flow is not None:
            flow_B2LHW = self.flow(batch)
            made["temporal"] = self.temporal(flow_B2LHW.transpose(1, 2).flatten(1, 2))
        return made
