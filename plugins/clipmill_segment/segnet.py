"""SegNet: an encoder like VGG-16's, and a decoder that unpools by where its maxima came from.

Badrinarayanan et al., "SegNet: A Deep Convolutional Encoder-Decoder Architecture", 2017.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from clipmill_segment.segmenter import Segmenter

if TYPE_CHECKING:
    import torch


class SegNet(Segmenter):
    """Thirteen convolutions down, thirteen up; unpooling has no parameters."""

    name: ClassVar[str] = "segnet"
    paper: ClassVar[str] = "Badrinarayanan et al., SegNet, 2017"
    small: ClassVar[Mapping[str, Any]] = {**Segmenter.small, "stages": 2}

    stages: int = Field(
        5, ge=1, le=5, description="how often the encoder pools; the first ones stay"
    )

    @model_validator(mode="after")
    def _can_be_halved(self) -> Self:
        if self.size < 1 << self.stages:
            raise ValueError(f"a size of at least {1 << self.stages}, or fewer stages")
        return self

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the encoder and its mirror."""
        from clipmill_segment.segnet_network import SegNetNetwork

        return SegNetNetwork(classes, self.stages, self.width, self.class_weights())
