"""Two-stream networks: one sees a frame, the other a stack of optical flow; scores fused late.

Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos",
2014. Both streams learn for themselves. Their class probabilities are averaged, or a linear layer
that learns from their scores, and does not change them, tells the class.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clipmill.plugin import Decoded, Info, Place, Sample, View
from clipmill_classify.classifier import Classifier
from clipmill_classify.flow_field import FlowWay, RaftSize, RaftWeights, with_flow

if TYPE_CHECKING:
    from clipmill_classify.network import ClipNetwork


class TwoStream(Classifier):
    """A 2D network on one frame, another on a stack of flow, and their scores together."""

    name: ClassVar[str] = "two_stream"
    paper: ClassVar[str] = "Simonyan and Zisserman, Two-Stream Convolutional Networks, 2014"
    exports: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "backbone": "resnet18", "width": 0.125, "frames": 6, "size": 56, "resize": 64
    }  # fmt: skip

    backbone: str = Field("resnet50", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the backbones' channels")
    frames: int = Field(11, ge=2, description="frames of a clip: one more than there are flows")
    rate: float = Field(30.0, gt=0, description="frames a second; the paper's are neighbours")
    size: int = Field(224, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=32, description="short side before the crop, in pixels")
    test_clips: int = Field(25, ge=1, description="clips of a video at test, evenly spread")
    streams: Literal["both", "spatial", "temporal"] = Field("both", description="which to use")
    fusion: Literal["average", "linear"] = Field(
        "average", description="of class probabilities, or a linear layer on the streams' scores"
    )
    flow: FlowWay = "dis"
    raft_size: RaftSize = "large"
    raft_weights: RaftWeights = None
    weights: Place | None = Field(
        None, description="file of backbone weights, for both streams; nothing is fetched"
    )

    def views(self) -> Mapping[str, View]:
        """One clip: its frames, its flow, or both, as far as a stream needs them."""
        return {name: self._seen(view) for name, view in super().views().items()}

    def _seen(self, view: View) -> View:
        if self.streams == "spatial":
            return view.model_copy(update={"frames": 1})
        own = () if self.streams == "temporal" else ("rgb",)
        return with_flow(view.model_copy(update={"streams": own}), self.flow)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The flow, and of the frames the middle one, where no flow is to be found from them."""
        made = super().sample(decoded, rng)
        if "rgb" in made and self.flow == "dis":
            middle = len(made["rgb"]) // 2
            made["rgb"] = made["rgb"][middle : middle + 1]
        return made

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make a tower for each stream that is used."""
        from clipmill_classify.backbones import frame_encoder
        from clipmill_classify.flow_network import flow_source
        from clipmill_classify.two_stream_network import Tower, TwoStreamNetwork

        weights = None if info.restored else self.weights

        def tower(channels: int) -> Tower:
            made = frame_encoder(self.backbone, self.size, self.width, weights, channels)
            return Tower(*made, classes, self.dropout)

        source, view = None, self.views()["train"]
        if self.streams != "spatial":
            source = flow_source(
                self.flow, self.raft_size, self.raft_weights, view, restored=info.restored
            )
        return TwoStreamNetwork(
            classes=classes,
            spatial=None if self.streams == "temporal" else tower(3),
            temporal=None if source is None else tower(2 * (self.frames - 1)),
            flow=source,
            linear=self.fusion == "linear",
            several=self.labels == "several",
        )
