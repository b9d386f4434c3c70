"""Late fusion: a 2D network on each frame, all features side by side, and a hidden layer on top.

After Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks",
2014, with every frame of the clip in place of its first and last. Sees what each frame shows and
in which order, motion only as far as features of frames tell it. A clip longer than its video
goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.classifier import Classifier

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class LateFusion(Classifier):
    """A torchvision backbone on every frame, its features concatenated."""

    name: ClassVar[str] = "late_fusion"
    paper: ClassVar[str] = "Karpathy et al., Large-scale Video Classification with CNNs, 2014"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "frames": 4, "size": 32, "resize": 36, "hidden": 32,
    }  # fmt: skip

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    hidden: int = Field(1024, ge=1, description="features of the hidden layer")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the backbone with a hidden layer over all frames.

        Their features stand side by side: place in the vector is place in time.
        """
        from torch import nn

        from clipmill_classify.encoded_network import EncodedNetwork, fusion_head
        from clipmill_classify.frames import FrameEncoder

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        features = encoder.features * self.frames
        head = fusion_head(features, self.hidden, classes, self.dropout)
        return EncodedNetwork(encoder, nn.Sequential(nn.Flatten(1), *head))
