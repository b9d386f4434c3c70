"""Motion as a proxy for the foreground: from one frame, the mask of what moves in its video.

Pathak et al., "Learning Features by Watching Objects Move", 2017. The masks are those of the
stream `motion`, what moves otherwise than the camera, cleaned by a vote of colours: nobody draws
any. A frame in which nothing moves tells nothing of what could, and teaches nothing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipmill.plugin import Catalog, Decoded, Info, Meter, Place, Sample, Takes, View
from clipmill.video import VOID
from clipmill_pretext.foreground_meter import ForegroundMeter, best_simple, counted
from clipmill_pretext.health import told
from clipmill_pretext.pretext import Pretext
from clipmill_pretext.records import shorter_than, still
from clipmill_pretext.votes import voted

if TYPE_CHECKING:
    import torch

LEAST_SHARE = 0.002  # of a frame that moves: less are specks
MOST_SHARE = 0.75  # more than that cannot move otherwise than most of the frame


class MotionForeground(Pretext):
    """A 2D network that tells from one frame what moves, learnt from the motion itself."""

    name: ClassVar[str] = "motion_foreground"
    paper: ClassVar[str] = "Pathak et al., Learning Features by Watching Objects Move, 2017"
    metric: ClassVar[str] = "iou"
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "size": 56, "resize": 64, "learning_rate": 0.005
    }  # fmt: skip

    backbone: str = Field("resnet18", description="any convolutional network of torchvision")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="short side before the crop, in pixels")
    frames: int = Field(4, ge=2, description="frames whose motion is looked at; one is shown")
    vote: bool = Field(True, description="whether pixels of like colours tell together what moves")
    decoder: int = Field(32, ge=4, description="channels of what makes masks of the features")
    trim: int = Field(
        1, ge=0, description="pixels at either side of a mask's border that teach nothing"
    )
    truth: Literal["motion", "mask"] = Field(
        "motion",
        description="what a test compares with: the motion, or a record's own masks where it has some",
    )
    test_crops: Literal[1] = Field(1, description="masks are told of the middle of a frame")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """One frame, encoded alike."""
        names = ("backbone", "width", "size", "resize")
        return "single_frame", {name: getattr(self, name) for name in names}

    def views(self) -> Mapping[str, View]:
        """Neighbouring frames with what moves in them; at test with the record's masks, if asked."""
        train, marks = ("rgb", "motion"), ("mask",) if self.truth == "mask" else ()
        return {
            "train": self.view(self.frames, streams=train),
            "test": self.view(self.frames, streams=(*train, *marks)),
        }

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Stills, and videos without a second frame to look at."""
        return {**shorter_than(catalog, (self.frames - 1) / self.rate), **still(catalog)}

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """One of the frames with its masks, and whether its motion tells anything."""
        streams = dict(decoded.streams[0])
        at = int(rng.integers(self.frames)) if decoded.stage == "train" else 0
        if self.vote:
            streams["motion"] = voted(streams["rgb"], streams["motion"] > 0).astype(np.uint8)
        made = {name: np.asarray(array)[at : at + 1] for name, array in streams.items()}
        share = float((made["motion"] > 0).mean())
        return {**made, "moves": np.asarray(LEAST_SHARE <= share <= MOST_SHARE, np.float32)}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the encoder of frames, and a light decoder of its features."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_pretext.motion_foreground_network import MotionForegroundNetwork

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        return MotionForegroundNetwork(encoder, self.size, self.decoder, self.trim)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The mask of the frame in the middle, its number, and the pixels of all by their truth."""
        middle = len(outputs) // 2
        is_marked = self.truth == "mask" and any((out["truth"] != VOID).any() for out in outputs)
        return {
            "mask": outputs[middle]["mask"],
            "frame": int(takes.first[middle, 0]),
            "pixels": np.stack([_counted(output, is_marked=is_marked) for output in outputs]),
            "marked": int(is_marked),
            "embedding": np.mean([output["embedding"] for output in outputs], axis=0),
        }

    def meter(self) -> Meter:
        """What measures masks."""
        return ForegroundMeter()

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether masks are told better than without looking."""
        if self.metric not in metrics:
            return None
        return told(metrics, self.metric, chance=best_simple(metrics), todo=self.todo)


def _counted(output: Mapping[str, NDArray[Any]], *, is_marked: bool) -> NDArray[np.int64]:
    """The pixels of one frame, by its own mask or by its motion."""
    moves, motion = bool(output["moves"]), output["motion"] > 0
    truth, known = motion, np.full(motion.shape, moves)
    if is_marked:
        truth, known = output["truth"] > 0, output["truth"] != VOID
    return counted(output["mask"], motion, truth, known_HW=known, moves=moves)
