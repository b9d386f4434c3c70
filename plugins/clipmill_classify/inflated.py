"""Inflated 3D networks: any 2D network turned into one of clips, with what it knows of pictures.

Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset",
2017. Every filter is replicated over time and scaled, so that a still clip gives the 2D network's
features. A clip longer than its video goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class Inflated(LinearOnTop):
    """A torchvision backbone inflated over time."""

    name: ClassVar[str] = "inflated"
    paper: ClassVar[str] = "Carreira & Zisserman, Quo Vadis, Action Recognition?, 2017"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "backbone": "resnet18", "width": 0.125, "frames": 4, "size": 32, "resize": 36,
    }  # fmt: skip

    backbone: str = Field("resnet50", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    span: int | None = Field(
        None, ge=1, description="frames of a filter; null is as many as pixels, as in the paper"
    )
    size: int = Field(224, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=32, description="short side before the crop, in pixels")
    weights: Place | None = Field(
        None, description="file of the 2D network's weights, to be inflated; nothing is fetched"
    )

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the 2D network, inflate it, and put a linear layer on top."""
        from clipmill_classify.encoded_network import EncodedNetwork, linear_head
        from clipmill_classify.inflated_network import inflated

        weights = None if info.restored else self.weights
        encoder, features = inflated(
            self.backbone, self.frames, self.size, self.width, weights, self.span
        )
        return EncodedNetwork(encoder, linear_head(features, classes, self.dropout))
