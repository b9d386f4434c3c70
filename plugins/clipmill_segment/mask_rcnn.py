"""Mask R-CNN: boxes that are proposed, and of each its class and its mask; one thing beside another.

He et al., "Mask R-CNN", 2017. In a video a thing keeps its number from frame to frame. A thing is
what a class and a number of stored masks mark together; void is nothing and is not measured.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipmill.plugin import Meter, Place, Takes
from clipmill.takes import Stream
from clipmill.video import VOID
from clipmill_segment.masked import Masked

if TYPE_CHECKING:
    import torch

LEAST_SIDE = 32  # of a frame: the coarsest map of the backbone is a 32nd of it


class MaskRCNN(Masked):
    """Finds things, one by one: a box, a class, a score and a mask of each."""

    name: ClassVar[str] = "mask_rcnn"
    paper: ClassVar[str] = "He et al., Mask R-CNN, 2017"
    metric: ClassVar[str] = "mask_ap"
    streams: ClassVar[tuple[Stream, ...]] = ("rgb", "mask", "instances")
    small: ClassVar[Mapping[str, Any]] = {
        "backbone": "resnet18", "width": 0.25, "size": 64, "resize": 64, "anchor": 8.0,
        "proposals": 32, "regions": 32, "detections": 8, "learning_rate": 0.002, "weight_decay": 0.0,
    }  # fmt: skip

    backbone: str = Field(
        "resnet50", description="any convolutional network of torchvision with stages"
    )
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    size: int = Field(512, ge=LEAST_SIDE, description="height and width of the frames, in pixels")
    resize: int = Field(576, ge=LEAST_SIDE, description="short side before the crop, in pixels")
    pooling: Literal["align", "pool"] = Field(
        "align",
        description="how a region becomes 7 x 7 and 14 x 14: RoIAlign (bilinear), or RoIPool (maxima of whole pixels)",
    )
    anchor: float = Field(
        32.0,
        gt=0,
        description="side of the smallest anchors, in pixels; each coarser map doubles it",
    )
    proposals: int = Field(1000, ge=1, description="regions that are looked at; twice in training")
    regions: int = Field(512, ge=4, description="regions of a frame that teach the heads")
    detections: int = Field(100, ge=1, description="things of a frame that are told, at most")
    sure: float = Field(
        0.5, gt=0, lt=1, description="score from which on a thing gets a number through the video"
    )
    patience: int = Field(
        10, ge=0, description="frames that a thing may be hidden in, and keep its number"
    )

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the backbone, what proposes, and the heads."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_segment.mask_rcnn_network import Fields, MaskRcnnNetwork

        weights = None if restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        fields = Fields(**{name: getattr(self, name) for name in Fields._fields})
        return MaskRcnnNetwork(encoder, classes, fields)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The things of each frame, with numbers from a score on; what is true, where it is known."""
        from clipmill_segment.things import found, marked

        numbers = takes.first[:, 0].tolist()
        told = [found(output) for output in outputs]
        self._follow(told, [output["thing_looks"] for output in outputs])
        answer = {"frames": numbers, "things": _listed(told, numbers), "threshold": self.sure}
        if any((output["truth"] != VOID).any() for output in outputs):
            true = [marked(output["truth"], output["true_things"]) for output in outputs]
            answer["truth"] = _listed(true, numbers)
        return answer

    def _follow(
        self, told: Sequence[Sequence[dict[str, Any]]], looks: Sequence[NDArray[Any]]
    ) -> None:
        """Number the things that are sure, the same one alike in all frames."""
        from clipmill_segment.following import Follower

        follower = Follower(self.patience, itertools.count(1))
        for frame, looks_ND in zip(told, looks, strict=True):
            places = [at for at, thing in enumerate(frame) if thing["score"] >= self.sure]
            boxes_N4 = np.array([frame[at]["box"] for at in places], np.float64).reshape(-1, 4)
            ids = follower.step(boxes_N4, looks_ND[places])
            for at, number in zip(places, ids, strict=True):
                frame[at]["id"] = number

    def meter(self) -> Meter:
        """What measures things."""
        from clipmill_segment.things_meter import ThingsMeter

        return ThingsMeter()


def _listed(frames: Sequence[Sequence[dict[str, Any]]], numbers: Sequence[int]) -> list[Any]:
    """The things of all frames in one list; `at` is the place of a thing's frame among the frames."""
    return [
        {"at": at, "frame": number, **thing}
        for at, (number, frame) in enumerate(zip(numbers, frames, strict=True))
        for thing in frame
    ]
