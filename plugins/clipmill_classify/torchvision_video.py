"""The video networks of torchvision: 3D residual networks, S3D, MViT and Video Swin.

Tran et al., "A Closer Look at Spatiotemporal Convolutions", 2018 (r3d_18, mc3_18, r2plus1d_18);
Xie et al., "Rethinking Spatiotemporal Feature Learning", 2018 (s3d); Fan et al., "Multiscale
Vision Transformers", 2021, and Li et al., "MViTv2", 2022; Liu et al., "Video Swin Transformer",
2022. A clip longer than its video goes on with the last frame, which stands still.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from clipmill.plugin import Info, Place
from clipmill_classify.linear import LinearOnTop

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork

Network = Literal[
    "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s",
    "swin3d_b",
]  # fmt: skip


PAPERS = {  # by how a network's name begins
    "s3d": "Xie et al., Rethinking Spatiotemporal Feature Learning, 2018",
    "mvit_v1": "Fan et al., Multiscale Vision Transformers, 2021",
    "mvit_v2": "Li et al., MViTv2, 2022",
    "swin3d": "Liu et al., Video Swin Transformer, 2022",
}
RESIDUAL = "Tran et al., A Closer Look at Spatiotemporal Convolutions, 2018"


class _Paper:
    """The paper of the network that a plugin wraps."""

    def __get__(self, plugin: "TorchvisionVideo | None", owner: type) -> str:
        wrapped = "" if plugin is None else plugin.backbone
        return next((told for start, told in PAPERS.items() if wrapped.startswith(start)), RESIDUAL)


class TorchvisionVideo(LinearOnTop):
    """One of torchvision's video networks, and a linear layer."""

    name: ClassVar[str] = "torchvision_video"
    paper: ClassVar[Any] = _Paper()
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "frames": 4, "size": 32, "resize": 36}

    backbone: Network = Field("r3d_18", description="by its name in torchvision")
    width: float = Field(
        1.0, gt=0, le=4, description="multiplies the channels, of a transformer's heads too"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="before the last layer")
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")
    weights: Place | None = Field(None, description="file of its weights; nothing is fetched")

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the network with a linear layer of ours on top."""
        from clipmill_classify.encoded_network import EncodedNetwork, linear_head
        from clipmill_classify.torchvision_video_network import clip_encoder

        weights = None if info.restored else self.weights
        encoder, features = clip_encoder(self.backbone, self.frames, self.size, self.width, weights)
        return EncodedNetwork(encoder, linear_head(features, classes, self.dropout))
