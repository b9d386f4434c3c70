"""Early fusion: the first convolution spans all frames of the clip, then an ordinary 2D network.

Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks", 2014, on
any torchvision backbone. All motion must be read by the one first layer. A clip longer than its
video goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class EarlyFusion(LinearOnTop):
    """A torchvision backbone whose input is all frames of a clip, channel by channel."""

    name: ClassVar[str] = "early_fusion"
    paper: ClassVar[str] = "Karpathy et al., Large-scale Video Classification with CNNs, 2014"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "frames": 4, "size": 32, "resize": 36}

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    frames: int = Field(10, ge=1, description="frames of a clip")
    weights: Place | None = Field(
        None, description="file of 2D weights, spread over the frames; nothing is fetched"
    )

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the backbone with a first layer over all frames, and a linear layer on top."""
        from clipmill_classify.early_fusion_network import StackedFrames
        from clipmill_classify.encoded_network import EncodedNetwork, linear_head

        weights = None if info.restored else self.weights
        encoder = StackedFrames(self.backbone, self.frames, self.size, self.width, weights)
        return EncodedNetwork(encoder, linear_head(encoder.features, classes, self.dropout))
