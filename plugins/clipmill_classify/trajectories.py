"""Dense trajectories: the best of what came before deep learning, and learnt without gradients.

Points are followed through a clip on the CPU workers; the network sees only what is told of each
track. Free of torch; the words and the classifier are in trajectories_network.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from clipmill.plugin import Decoded, Info, Sample, View
from clipmill.video import FLOW_STEPS_A_PIXEL
from clipmill_classify.classifier import Classifier
from clipmill_classify.labels import Labels
from clipmill_classify.trajectories_tracks import Tracking, described

if TYPE_CHECKING:
    import torch

    from clipmill_classify.network import ClipNetwork

BEFORE_TRACKS = {"crop", "jitter"}  # augmentations that the decoder does


class Trajectories(Classifier):
    """Tracks of points, their Fisher vectors, and a linear support vector machine."""

    name: ClassVar[str] = "trajectories"
    paper: ClassVar[str] = (
        "Wang, Klaeser, Schmid, Liu: Dense Trajectories and Motion Boundary Descriptors for Action"
        " Recognition (2013)"
    )
    label_kinds: ClassVar[tuple[Labels, ...]] = ("one",)
    exports: ClassVar[bool] = True
    by_gradient: ClassVar[bool] = False
    small: ClassVar[Mapping[str, Any]] = {
        "width": 1 / 64, "frames": 7, "size": 56, "resize": 64, "length": 6, "patch": 16,
        "scales": 1, "tracks": 40,
    }  # fmt: skip

    frames: int = Field(31, ge=2, description="frames of a clip: windows of `length`, and one")
    rate: float = Field(15.0, gt=0, description="frames a second")
    size: int = Field(224, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=16, description="short side before the crop, in pixels")
    point_step: int = Field(5, ge=1, description="pixels from one point to the next")
    length: int = Field(15, ge=3, description="steps that a point is followed for")
    patch: int = Field(32, ge=4, description="side of what is described around it, in pixels")
    scales: int = Field(3, ge=1, le=8, description="sizes of the picture, each 0.71 of the last")
    least_motion: float = Field(1.0, ge=0, description="pixels that a track must go at least")
    tracks: int = Field(500, ge=1, description="of a clip, at most; of more a random choice")
    words: int = Field(256, ge=1, description="Gaussians of each kind of description; x width")
    word_tracks: int = Field(256_000, ge=1, description="tracks that the words are learnt from")
    penalty: float = Field(
        1.0, gt=0, description="what a clip on the wrong side counts against a wide margin"
    )

    @model_validator(mode="after")
    def _can_track(self) -> Self:
        if self.frames <= self.length:
            raise ValueError(f"more frames than length={self.length}")
        if late := set(self.augment) - BEFORE_TRACKS:
            raise ValueError(
                f"augment of crop and jitter, which tracks can follow, not {min(late)}"
            )
        return self

    def views(self) -> Mapping[str, View]:
        """One clip with its flow, in training and at test."""
        return {
            name: view.model_copy(update={"streams": ("rgb", "flow")})
            for name, view in super().views().items()
        }

    @property
    def tracking(self) -> Tracking:
        """How points are followed."""
        return Tracking(self.point_step, self.length, self.patch, self.scales, self.least_motion)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """What is told of a clip's tracks, in place of its frames; `kept` of them are there."""
        streams = decoded.streams[0]
        flow = np.asarray(streams["flow"] / FLOW_STEPS_A_PIXEL, np.float32)
        found = described(streams["rgb"], flow, self.tracking)
        if len(found) > self.tracks:
            found = found[np.sort(rng.choice(len(found), self.tracks, replace=False))]
        told = np.zeros((self.tracks, found.shape[1]), np.float32)
        told[: len(found)] = found
        rest = {n: a for n, a in super().sample(decoded, rng).items() if n not in streams}
        return {**rest, "tracks": told, "kept": np.int64(len(found))}  # type: ignore[dict-item]

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Words and a classifier that have learnt nothing yet."""
        from clipmill_classify.trajectories_network import TrajectoryNetwork

        words = max(1, round(self.words * self.width))
        return TrajectoryNetwork(self.tracking.kinds, words, classes)

    def fit(self, model: "torch.nn.Module", batches: Iterable[Mapping[str, Any]]) -> None:
        """Learn the words from some of the tracks, then the classifier from all clips."""
        from clipmill_classify.trajectories_network import learn

        learn(model, batches, self.word_tracks, self.penalty)
