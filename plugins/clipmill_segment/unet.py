"""U-Net: a contracting and an expanding path, joined by copies at each resolution.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipmill_segment.segmenter import Segmenter

if TYPE_CHECKING:
    import torch


class UNet(Segmenter):
    """Copies of fine maps join coarse ones on their way up."""

    name: ClassVar[str] = "unet"
    paper: ClassVar[str] = "Ronneberger et al., U-Net, 2015"
    small: ClassVar[Mapping[str, Any]] = {
        **Segmenter.small, "width": 0.125, "depth": 2, "batch_norm": True
    }  # fmt: skip

    depth: int = Field(4, ge=1, le=5, description="how often the sides are halved")
    edges: Literal["pad", "crop"] = Field(
        "pad",
        description="convolutions keep the sides by zeros, or the frame is mirrored around and copies are cropped",
    )
    batch_norm: bool = Field(
        False, description="whether convolutions have norms; the paper's have none"
    )

    @model_validator(mode="after")
    def _can_be_mirrored(self) -> Self:
        if self.edges == "crop" and self.size <= margin(self.depth):
            raise ValueError(f"a size above {margin(self.depth)}, or edges: pad")
        return self

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make both paths."""
        from clipmill_segment.unet_network import UNetNetwork

        return UNetNetwork(
            classes, self.depth, self.width, self.class_weights(),
            crop=self.edges == "crop", batch_norm=self.batch_norm,
        )  # fmt: skip


def margin(depth: int) -> int:
    """The most pixels at a side that unpadded convolutions take away, with what makes it even."""
    unit = 1 << depth
    return 6 * unit - 4 + unit // 2
