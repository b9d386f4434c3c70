"""An encoder that never learns, pooling over time, and a support vector machine.

Legend: B batch, T frames, D features of a frame, E of a clip, K classes.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import nn

from clipmill_classify.frames import FrameEncoder
from clipmill_classify.network import Batch, ClipNetwork
from clipmill_classify.sequence_network import Given
from clipmill_classify.svm import LinearSVM, fit


class DescriptorNetwork(ClipNetwork):
    """Tells the class of a clip by its frames' features, pooled over time."""

    def __init__(self, encoder: FrameEncoder | Given, pool: str, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.pool = pool
        self.svm = LinearSVM(encoder.features * (2 if pool == "max-min" else 1), classes)

    def train(self, mode: bool = True) -> Self:
        """Stay as it answers: what never learns has no other mode."""
        return super().train(False)

    def describe(self, batch: Batch) -> torch.Tensor:
        """Features of each frame [B, T, D]."""
        seen = batch["features" if isinstance(self.encoder, Given) else "rgb"]
        x_BTD: torch.Tensor = self.encoder(seen)
        return x_BTD

    def pooled(self, batch: Batch) -> torch.Tensor:
        """One description of each clip [B, E]."""
        x_BTD = self.describe(batch).float()
        match self.pool:
            case "mean":
                return x_BTD.mean(1)
            case "max":
                return x_BTD.amax(1)
            case "min":
                return x_BTD.amin(1)
            case _:
                return torch.cat([x_BTD.amax(1), x_BTD.amin(1)], 1)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Margins, made as sharp as they are sure [B, K]."""
        scores_BK: torch.Tensor = self.svm(self.pooled(batch))
        return scores_BK


@torch.no_grad()
def learn(model: nn.Module, batches: Iterable[Mapping[str, Any]], c: float) -> None:
    """Describe clips batch by batch, and hold the machine that tells their classes."""
    assert isinstance(model, DescriptorNetwork)
    told = [(model.pooled(batch).cpu(), batch["target"].cpu()) for batch in batches]
    x_NE, y_N = (torch.cat(each).numpy() for each in zip(*told, strict=True))
    model.svm.take(fit(x_NE, y_N, len(model.svm.bias_K), c=c))
