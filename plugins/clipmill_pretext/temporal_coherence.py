"""Temporal coherence: what is near in time is near in features, what is far or foreign is not.

With `loss=slow` pairs are drawn together or pushed beyond a margin (Hadsell et al., "Dimensionality
Reduction by Learning an Invariant Mapping", 2006; of videos Mobahi et al., "Deep Learning from
Temporal Coherence in Video", 2009). With `loss=contrastive` the neighbour is told from the frames
of all other videos of the batch (van den Oord et al., "Contrastive Predictive Coding", 2018).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipmill.plugin import (
    Augmentation,
    Catalog,
    Decoded,
    Draw,
    Info,
    Meter,
    Place,
    Sample,
    Stage,
    Takes,
    View,
    beside,
)
from clipmill_pretext.disguise import disguised
from clipmill_pretext.health import told
from clipmill_pretext.kinds import EACH, KindTask, is_far, joined, video_number
from clipmill_pretext.moments import (
    PARTS,
    Against,
    against,
    against_evenly,
    frames_of,
    near,
    spans,
)
from clipmill_pretext.pretext import Pretext, chance_of

if TYPE_CHECKING:
    import torch

LEAST_FRAMES = 2  # a frame and its neighbour


class TemporalCoherence(Pretext):
    """Is the neighbour nearer to a frame than one far in time, or of another video?"""

    name: ClassVar[str] = "temporal_coherence"
    paper: ClassVar[str] = (
        "Hadsell et al., Learning an Invariant Mapping, 2006; Mobahi et al., 2009"
    )
    todo: ClassVar[str] = "raise the margin or lower the learning rate"

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="short side before the crop, in pixels")
    augment: tuple[Augmentation, ...] = Field(
        ("resized_crop", "flip", "color", "grey"),
        description="what a frame and its neighbour may differ in, each with chance of its own",
    )
    loss: Literal["slow", "contrastive"] = Field(
        "contrastive", description="a margin between pairs, or the neighbour among the batch"
    )
    neighbour_seconds: float = Field(
        0.2, gt=0, description="the most from a frame to its neighbour"
    )
    far_seconds: float = Field(1.0, gt=0, description="the least between frames that are far apart")
    far_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="of the takes: a far frame of the same video stands against the neighbour, "
        "and a frame of another video in the rest; where this is 0, in all of a test, too",
    )
    embedding: int = Field(128, ge=2, description="numbers in which frames are compared")
    margin: float = Field(1.0, gt=0, description="of the slow loss, in Euclidean distance")
    temperature: float = Field(0.1, gt=0, description="of the contrastive loss")
    test_crops: Literal[1] = Field(1, description="the middle of a frame is what is tested")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    fits: Literal["single_frame", "cnn_rnn"] = Field(
        "single_frame", description="the classifier that the backbone is meant for"
    )

    @property
    def chance(self) -> float:
        """Of two frames one is nearer."""
        return 0.5

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The classifier that has this backbone on single frames."""
        names = ("backbone", "width", "size", "resize")
        return self.fits, {name: getattr(self, name) for name in names}

    def views(self) -> Mapping[str, View]:
        """One frame, for each span of a take."""
        return {"train": self.view(1), "test": self.view(1)}

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those of a single frame, which has no neighbour."""
        single = catalog.column("frames") < LEAST_FRAMES
        return {"of a single frame, which has no neighbour": np.asarray(single, np.bool_)}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """A frame, its neighbour, and one far in time or of another video."""
        gap = np.maximum(self._reach(catalog) + 1, frames_of(catalog, self.far_seconds))
        if stage == "train":
            made = against(catalog, draw, length=1, gap=gap, far_share=self.far_share)
            return self._takes(catalog, "train", made, draw)
        made = against_evenly(
            catalog, draw, clips=self.test_clips, length=1, gap=gap, far_share=self.far_share
        )
        return self._takes(catalog, "test", made, draw)

    def _reach(self, catalog: Catalog) -> NDArray[np.int64]:
        return frames_of(catalog, self.neighbour_seconds)

    def _takes(self, catalog: Catalog, view: str, made: Against, draw: Draw) -> Takes:
        rooms = catalog.column("frames")[made.record] - 1
        beside_it = near(made.first, rooms, self._reach(catalog)[made.record], draw)
        return beside(
            [
                spans(view, made.record, made.first),
                spans(view, made.record, beside_it),
                spans(view, made.other_record, made.other_first),
            ]
        )

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The three frames, apart by name, so that each is augmented for itself.

        Those that are compared with the first are so in tests, too: of frames as they are, pixels
        alone tell which are neighbours.
        """
        frames = {
            f"rgb_{part}": np.asarray(streams["rgb"])
            for part, streams in zip(PARTS, decoded.streams, strict=True)
        }
        chance = chance_of(decoded, rng)
        if decoded.stage != "train":  # there the device does it
            for part in PARTS[1:]:
                frames[f"rgb_{part}"] = disguised(frames[f"rgb_{part}"], self.augment, chance)
        videos = {
            "video": np.asarray(video_number(decoded.records[0])),
            "video_other": np.asarray(video_number(decoded.records[PARTS.index("other")])),
        }
        return {**frames, **videos, "is_far": is_far(decoded, PARTS.index("other"))}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the backbone, and what turns its features into what is compared."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_pretext.temporal_coherence_network import CoherenceNetwork, Contrast, Slow

        weights = None if info.restored else self.weights
        encoder = FrameEncoder(self.backbone, self.size, self.width, weights)
        rule = Slow(self.margin) if self.loss == "slow" else Contrast(self.temperature)
        return CoherenceNetwork(encoder, self.embedding, rule)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """Each question with its kind, in features and in pixels; of the embeddings the mean."""
        return joined(outputs, (*EACH, "right_in_pixels"))

    def meter(self) -> Meter:
        """The share of neighbours that are nearer, by what stands against them; and in pixels."""
        return KindTask(self.chance, own_accuracy="right", pixel_accuracy="right_in_pixels")

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether features tell neighbours better than pixels, which need no training."""
        if self.metric not in metrics:
            return None
        pixels = metrics["pixel_accuracy"]
        level, than = ("in pixels", pixels) if pixels > self.chance else ("chance", self.chance)
        return told(metrics, self.metric, chance=than, level=level, todo=self.todo)
