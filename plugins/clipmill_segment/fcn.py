"""FCN: a network of pictures made convolutional, whose score maps of several depths are added.

Long et al., "Fully Convolutional Networks for Semantic Segmentation", 2015.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from clipmill.plugin import Place
from clipmill_segment.segmenter import Segmenter

if TYPE_CHECKING:
    import torch

LEVELS = {32: 1, 16: 2, 8: 3}  # maps that are scored, by the finest one's stride


class FCN(Segmenter):
    """Scores at strides of 32, 16 and 8 pixels, each doubled and added to the next finer."""

    name: ClassVar[str] = "fcn"
    paper: ClassVar[str] = "Long et al., Fully Convolutional Networks, 2015"
    small: ClassVar[Mapping[str, Any]] = {
        **Segmenter.small, "backbone": "resnet18", "head": 64, "dropout": 0.0
    }  # fmt: skip

    backbone: str = Field(
        "vgg16", description="any convolutional network of torchvision with stages"
    )
    stride: Literal[32, 16, 8] = Field(
        8, description="pixels a step of the finest map that is scored"
    )
    head: int = Field(
        4096,
        ge=0,
        description="channels of the two last layers, 7 x 7 and 1 x 1; 0 leaves them out",
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="after each of them")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the backbone, and the scores of its maps."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_segment.fcn_network import FcnNetwork, Head

        weights = None if restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        head = Head(self.head, self.width, self.dropout)
        return FcnNetwork(
            encoder, self.size, classes, LEVELS[self.stride], head, self.class_weights()
        )
