"""Late fusion by pooling: a 2D network on each frame, features pooled over space and time.

The bag of frames of Karpathy et al., 2014, and Ng et al., "Beyond Short Snippets", 2015. Blind
to the order of frames by construction, so it tells what a clip shows and never which came first.
A clip longer than its video goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class Pooled(LinearOnTop):
    """A torchvision backbone on every frame, pooled over time, and a linear layer."""

    name: ClassVar[str] = "pooled"
    paper: ClassVar[str] = "Ng et al., Beyond Short Snippets, 2015"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "frames": 4, "size": 32, "resize": 36}

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbone's channels")
    pool: Literal["mean", "max", "sum"] = Field("mean", description="of a feature over all frames")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the backbone with a linear layer over pooled frames."""
        from torch import nn

        from clipmill_classify.encoded_network import EncodedNetwork, linear_head
        from clipmill_classify.frames import FrameEncoder
        from clipmill_classify.pooled_network import Pool

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        head = linear_head(encoder.features, classes, self.dropout)
        return EncodedNetwork(encoder, nn.Sequential(Pool(self.pool), *head))
