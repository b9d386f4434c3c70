"""What classifiers share whose last layer is a linear one on an encoder's features."""

from typing import TYPE_CHECKING

from pydantic import Field

from clipmill.plugin import Info
from clipmill_classify.classifier import Classifier

if TYPE_CHECKING:
    import torch


class LinearOnTop(Classifier):
    """An encoder and a linear layer: what a probe of features is, where the encoder is frozen."""

    normalised: bool = Field(
        False,
        description="the last layer is given features normalised over each batch: those of a frozen"
        " encoder may lie close together, and far from zero",
    )

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network, with its last layer as asked."""
        from clipmill_classify.encoded_network import normalise

        network = super().build(info)
        if self.normalised:
            normalise(network)
        return network
