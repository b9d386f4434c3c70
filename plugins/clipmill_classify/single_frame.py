"""The single-frame classifier: a 2D network on one frame, blind to motion by construction.

The strong baseline of Karpathy et al., "Large-scale Video Classification with Convolutional
Neural Networks", 2014. In training it sees one frame at a random place of each video; at test
the class probabilities of evenly spread frames are averaged.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class SingleFrame(LinearOnTop):
    """A torchvision backbone on one frame, averaged over frames at test."""

    name: ClassVar[str] = "single_frame"
    paper: ClassVar[str] = "Karpathy et al., Large-scale Video Classification with CNNs, 2014"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "size": 56, "resize": 64}

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    frames: int = Field(1, ge=1, le=1, description="one, by the method")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="short side before the crop, in pixels")
    dropout: float = Field(0.2, ge=0, lt=1, description="before the last layer")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    test_clips: int = Field(8, ge=1, description="frames of a video at test, evenly spread")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the backbone with a linear layer on top."""
        from clipmill_classify.frame_network import FrameNetwork
        from clipmill_classify.frames import FrameEncoder

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        return FrameNetwork(encoder, classes, self.dropout)
