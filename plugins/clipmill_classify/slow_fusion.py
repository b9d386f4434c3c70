"""Slow fusion: the first three convolutions take in ever more frames, the rest is a 2D network.

Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks", 2014: ten
frames of 170 x 170 by default. A clip longer than its video goes on with the last frame, which
stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info
from clipmill_classify.classifier import Classifier

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class SlowFusion(Classifier):
    """Five convolutions, three of them over time, three pools and three linear layers."""

    name: ClassVar[str] = "slow_fusion"
    paper: ClassVar[str] = "Karpathy et al., Large-scale Video Classification with CNNs, 2014"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "frames": 8, "size": 32, "resize": 36, "batch_norm": True,
    }  # fmt: skip

    width: float = Field(1.0, gt=0, le=4, description="multiplies all channels and linear layers")
    frames: int = Field(10, ge=4, description="frames of a clip")
    size: int = Field(170, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(200, ge=32, description="short side before the crop, in pixels")
    dropout: float = Field(0.5, ge=0, lt=1, description="after each large linear layer")
    batch_norm: bool = Field(
        False, description="after each convolution, for response norms: learns far faster"
    )
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the network for clips of these fields' shape."""
        from clipmill_classify.slow_fusion_network import SlowFusionNetwork

        return SlowFusionNetwork(
            classes=classes,
            clip=(self.frames, self.size, self.size),
            width=self.width,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )
