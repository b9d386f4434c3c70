"""A video transformer: tokens of patches or tubelets, attention over time and over space.

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", 2021, and
Arnab et al., "ViViT: A Video Vision Transformer", 2021: ViT-B/16 on 16 frames, every fourth of 30
a second, by default. A clip longer than its video goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class Transformer(LinearOnTop):
    """A vision transformer whose tokens attend over time, too: in a half of its own, or at once."""

    name: ClassVar[str] = "transformer"
    paper: ClassVar[str] = "Bertasius et al., Is Space-Time Attention All You Need?, 2021"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.25, "depth": 2, "heads": 2, "patch": 8, "frames": 4, "size": 32, "resize": 36, "learning_rate": 0.003,
    }  # fmt: skip

    width: float = Field(1.0, gt=0, le=4, description="multiplies the features of a head")
    depth: int = Field(12, ge=1, description="blocks")
    heads: int = Field(12, ge=1, description="attention heads; each has 64 features at width 1")
    patch: int = Field(16, ge=1, description="height and width of a token's patch, in pixels")
    tubelet: int = Field(2, ge=1, description="frames of a token; 1 is a patch")
    rate: float = Field(7.5, gt=0, description="frames a second")
    size: int = Field(224, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=16, description="short side before the crop, in pixels")
    attention: Literal["divided", "joint"] = Field(
        "divided", description="over time and then over space in each block, or over all at once"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="in every block and before the last layer")
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")
    weights: Place | None = Field(
        None, description="file of a torchvision vision transformer's weights; nothing is fetched"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"a size that is a multiple of patch {self.patch}")
        if self.frames % self.tubelet:
            raise ValueError(f"frames that are a multiple of tubelet {self.tubelet}")
        return self

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the transformer for clips of these fields' shape, and a linear layer on top."""
        from clipmill_classify.encoded_network import EncodedNetwork, linear_head
        from clipmill_classify.transformer_network import JointEncoder, Shape, SpaceTimeEncoder

        shape = Shape(
            self.frames, self.size, self.patch, self.tubelet, self.depth, self.heads, self.width
        )
        weights = None if info.restored else self.weights
        kind = {"divided": SpaceTimeEncoder, "joint": JointEncoder}[self.attention]
        encoder = kind(shape, self.dropout, weights)
        return EncodedNetwork(encoder, linear_head(encoder.features, classes, self.dropout))
