"""ENet: a small and fast segmenter of bottlenecks.

Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", 2016.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from clipmill_segment.segmenter import Segmenter

if TYPE_CHECKING:
    import torch

SHRINKS = 8  # times, from the frame to the coarsest map


class ENet(Segmenter):
    """Large encoder, small decoder: 0.37 M parameters with 20 classes, the ground included.

    Two stages of dilated and asymmetric bottlenecks, learnt slopes in the encoder, index unpooling,
    no biases, and a last transposed convolution of 3 x 3.
    """

    name: ClassVar[str] = "enet"
    paper: ClassVar[str] = "Paszke et al., ENet, 2016"
    small: ClassVar[Mapping[str, Any]] = {**Segmenter.small, "width": 0.5, "dropout": 0.0}

    dropout: float = Field(
        0.1, ge=0, lt=1, description="of a bottleneck's maps; a tenth of it in the first stage"
    )

    @field_validator("size")
    @classmethod
    def _is_halved(cls, size: int) -> int:
        if size % SHRINKS:
            raise ValueError(f"a multiple of {SHRINKS}, which can be halved three times")
        return size

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the five stages."""
        from clipmill_segment.enet_network import ENetNetwork

        return ENetNetwork(classes, self.width, self.dropout, self.class_weights())
