"""Networks that are an encoder of clips or frames and a head: what most come down to.

The heads stand here, the encoders beside their plugins.

Legend: B batch, C channels, T frames, H height, W width, D features, K classes.
"""

import torch
from torch import nn

from clipmill_classify.network import Batch, ClipNetwork


class EncodedNetwork(ClipNetwork):
    """Tells the class of a clip by the features that its encoder gives for all frames at once."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores."""
        x_BD = self.encoder(batch["rgb"])
        scores_BK: torch.Tensor = self.head(x_BD)
        return scores_BK


def linear_head(features: int, classes: int, dropout: float) -> nn.Sequential:
    """Dropout and the scores."""
    return nn.Sequential(nn.Dropout(dropout), score_layer(features, classes))


def fusion_head(features: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """One hidden layer over features that were put side by side, and the scores."""
    mixing = nn.Linear(features, hidden)
    nn.init.kaiming_normal_(mixing.weight, nonlinearity="relu")
    nn.init.zeros_(mixing.bias)
    return nn.Sequential(
        mixing, nn.ReLU(inplace=True), nn.Dropout(dropout), score_layer(hidden, classes)
    )


def score_layer(features: int, classes: int) -> nn.Linear:
    """The last layer; all classes are nearly alike at the start."""
    scores = nn.Linear(features, classes)
    nn.init.normal_(scores.weight, std=0.01)
    nn.init.zeros_(scores.bias)
    return scores


def normalise(network: nn.Module) -> None:
    """Give the last layer features of mean 0 and spread 1 over a batch (He et al., MAE, 2022)."""
    head = network.get_submodule("head")
    if isinstance(head, nn.Sequential):
        head[-1] = _normalised(head[-1])
    else:
        network.head = _normalised(head)


def _normalised(scores: nn.Module) -> nn.Sequential:
    assert isinstance(scores, nn.Linear), "a network of this kind ends with its scores"
    return nn.Sequential(nn.BatchNorm1d(scores.in_features, affine=False), scores)
