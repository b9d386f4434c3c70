"""C3D: the 3D convolutional network that sees appearance and motion together.

Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", 2015. Clips of
16 frames of 112 x 112 by default; every size that leaves something to see works.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from clipmill.plugin import Catalog, Draw, Info, Plugin, Stage, Takes, View
from clipmill_classify.labels import class_count, refuse_unlabelled
from clipmill_classify.meters import ClassMeter

if TYPE_CHECKING:
    import torch


class C3D(Plugin):
    """Eight 3x3x3 convolutions, five pools and three linear layers on a clip."""

    name: ClassVar[str] = "c3d"
    family: ClassVar[str] = "classify"
    paper: ClassVar[str] = "Tran et al., Learning Spatiotemporal Features with C3D, 2015"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125,
        "frames": 8,
        "size": 32,
        "resize": 36,
        "batch_norm": True,
    }

    width: float = Field(1.0, gt=0, le=4, description="multiplies all channels and linear layers")
    frames: int = Field(16, ge=1, description="frames of a clip")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(112, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=16, description="short side before the crop, in pixels")
    dropout: float = Field(0.5, ge=0, lt=1, description="after each large linear layer")
    batch_norm: bool = Field(False, description="after each convolution: learns far faster")
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")

    def views(self) -> Mapping[str, View]:
        """One clip, in training and at test."""
        view = View(frames=self.frames, rate=self.rate, size=self.size, resize=self.resize)
        return {"train": view, "test": view}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """The default plan, for records that have a class wherever a class is needed."""
        refuse_unlabelled(catalog, stage)
        return super().plan(catalog, stage, draw)

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network for clips of these fields' shape."""
        from clipmill_classify.c3d_network import C3DNetwork

        return C3DNetwork(
            classes=class_count(info, self.name),
            clip=(self.frames, self.size, self.size),
            width=self.width,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
        )

    def meter(self) -> ClassMeter:
        """Accuracy, over all videos and by class."""
        return ClassMeter()
