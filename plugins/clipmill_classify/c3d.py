"""C3D: the 3D convolutional network that sees appearance and motion together.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", 2015. Clips of
16 frames of 112 x 112 by default; every size that leaves something to see works.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info
from clipmill_classify.classifier import Classifier

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class C3D(Classifier):
    """Eight 3x3x3 convolutions, five pools and three linear layers on a clip."""

    name: ClassVar[str] = "c3d"
    paper: ClassVar[str] = "Tran et al., Learning Spatiotemporal Features with C3D, 2015"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125,
        "frames": 8,
        "size": 32,
        "resize": 36,
        "batch_norm": True,
    }

    width: float = Field(1.0, gt=0, le=4, description="multiplies all channels and linear layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="after each large linear layer")
    batch_norm: bool = Field(False, description="after each convolution: learns far faster")
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the network for clips of these fields' shape."""
        from clipmill_classify.c3d_network import C3DNetwork

        return C3DNetwork(
            classes=classes,
            clip=(self.frames, self.size, self.size),
            width=self.width,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )
