"""What the networks of all segmenters share: their loss, and their answer.

Legend: B batch, C channels, K classes with the ground, T frames (one here), H height, W width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipmill.video import VOID

Batch = Mapping[str, torch.Tensor]


class SegmentNetwork(nn.Module):
    """Tells the class of each pixel; a network of its kind adds `scores`."""

    class_weights: torch.Tensor | None

    def __init__(self, class_weights: Sequence[float] = ()) -> None:
        super().__init__()
        # They come from the fields: no checkpoint brings those of another run.
        weights = torch.tensor(class_weights) if class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of a batch, and the share of its pixels that is told rightly."""
        scores_BKHW, truth_BHW = self.scores(batch["rgb"][:, :, 0]).float(), batch["mask"][:, 0]
        known_BHW = truth_BHW != VOID
        right = ((scores_BKHW.argmax(1) == truth_BHW) & known_BHW).sum()
        return {
            "loss": pixel_loss(scores_BKHW, truth_BHW, self.class_weights),
            "pixel_accuracy": right / known_BHW.sum().clamp(min=1),
        }

    def predict(self, batch: Batch, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        """Class probabilities of a frame's pixels, and what is true of them as far as it is known."""
        told = {"class_scores": self.scores(batch["rgb"][:, :, 0]).float().softmax(1)}
        known = {"truth": batch["mask"][:, 0].float()} if "mask" in batch else {}
        return {**told, **known}, state

    def scores(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of pixels [B, K, H, W]."""
        raise NotImplementedError


def pixel_loss(
    scores_BKHW: torch.Tensor, truth_BHW: torch.Tensor, weights_K: torch.Tensor | None
) -> torch.Tensor:
    """Cross entropy over a frame's known pixels, and its mean over frames.

    A frame of which nothing is known counts nothing, and keeps its place in the mean: so the
    gradient of a batch is the same on any number of ranks.
    """
    wrong_BHW = functional.cross_entropy(
        scores_BKHW, truth_BHW, weights_K, ignore_index=VOID, reduction="none"
    )
    known_B = (truth_BHW != VOID).sum((1, 2))
    return (wrong_BHW.sum((1, 2)) / known_B.clamp(min=1)).mean()


def drawn(module: nn.Module) -> None:
    """Draw the weights of a convolution before ReLU (He et al., 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
