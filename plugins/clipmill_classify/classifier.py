"""What all clip classifiers share: the clip, the rules for labels, training aids, the meter.

A classifier adds its fields and `network`; one that tells frames apart has "frames" among its
`label_kinds`. Free of torch; networks are in modules of their own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from clipmill.plugin import (
    Augmentation,
    Catalog,
    Decoded,
    Draw,
    Info,
    Learnt,
    Meter,
    Plugin,
    Sample,
    Stage,
    Takes,
    View,
)
from clipmill_classify.frame_labels import covering_spans, frame_sample, joined_frames
from clipmill_classify.labels import (
    METRICS,
    Labels,
    class_count,
    refuse_unlabelled,
    several_targets,
    weights_of,
)
from clipmill_classify.meters import ClassMeter, FrameMeter, SeveralMeter

if TYPE_CHECKING:
    import torch

    from clipmill_classify.network import ClipNetwork


Spread = Annotated[float, Field(gt=0)]
Colour = tuple[float, float, float]


class _Metric:
    """The name of the metric, which goes by what a plugin's labels are."""

    def __get__(self, plugin: "Classifier | None", owner: type) -> str:
        return METRICS["one" if plugin is None else plugin.labels]


class Classifier(Plugin):
    """One class a video, several, or one a frame, learnt from clips."""

    family: ClassVar[str] = "classify"
    metric: ClassVar[Any] = _Metric()
    label_kinds: ClassVar[tuple[Labels, ...]] = ("one", "several")
    higher_is_better: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "frames": 8, "size": 56, "resize": 64}

    width: float = Field(1.0, gt=0, le=4, description="multiplies the network's channels")
    frames: int = Field(16, ge=1, description="frames of a clip")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(112, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=16, description="short side before the crop, in pixels")
    mean: Colour = Field(
        (0.45, 0.45, 0.45),
        description="of red, green and blue, taken off, of 1; as the given weights were trained",
    )
    std: tuple[Spread, Spread, Spread] = Field(
        (0.225, 0.225, 0.225), description="of the same, which they are then divided by"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="before the last layer")
    augment: tuple[Augmentation, ...] = Field(
        ("crop",), description="what keeps the labels true, such as flip, color, mixup"
    )
    labels: Labels = Field(
        "one", description="classes a video has: one, several, or one for each of its frames"
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="probability from which on one of several classes is told"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share given to all classes alike")
    class_weights: Mapping[str, float] = Field(
        default_factory=dict, description="what an error on a class counts, by its name; else 1"
    )
    frozen: tuple[str, ...] = Field(
        (), description="parts of the network that do not learn, by how their weights' names begin"
    )
    rates: Mapping[str, float] = Field(
        default_factory=dict,
        description="factors on the learning rate, by how the weights' names begin",
    )

    @field_validator("labels")
    @classmethod
    def _can_tell(cls, labels: Labels) -> Labels:
        if labels not in cls.label_kinds:
            raise ValueError(f"one of {', '.join(cls.label_kinds)}, which {cls.name} can tell")
        return labels

    @model_validator(mode="after")
    def _turns_no_classes(self) -> Self:
        if self.labels == "frames" and "reverse" in self.augment:
            raise ValueError("no reverse in augment with labels=frames, which it would not turn")
        return self

    def __hash__(self) -> int:  # pydantic's own knows no mappings among the fields
        return hash((type(self), self.model_dump_json()))

    @property
    def learns(self) -> Learnt:
        """What its labels are."""
        return self.labels

    def views(self) -> Mapping[str, View]:
        """One clip, in training and at test."""
        view = View(
            frames=self.frames, rate=self.rate, size=self.size, resize=self.resize,
            mean=self.mean, std=self.std, augment=self.augment,
        )  # fmt: skip
        return {"train": view, "test": view}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """The default plan, for records that have labels wherever such are needed.

        Where frames have classes, a test sees all of every video, not `test_clips` of it.
        """
        refuse_unlabelled(catalog, stage, self.labels)
        if self.labels == "frames" and stage != "train":
            return covering_spans(catalog, self.views()["test"], crops=self.test_crops)
        return super().plan(catalog, stage, draw)

    def protocol(self) -> dict[str, Any]:
        """What of a video is tested: where frames have classes, all of it."""
        told = super().protocol()
        if self.labels == "several":
            return {**told, "threshold": self.threshold}
        return {**told, "clips": "all"} if self.labels == "frames" else told

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The streams of a take, and what is true of it."""
        made = super().sample(decoded, rng)
        if self.labels == "several":
            return {**made, "target": several_targets(decoded.records[0])}
        return {**made, **frame_sample(decoded)} if self.labels == "frames" else made

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the network that tells so many classes apart."""
        raise NotImplementedError

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network, with what judges its scores, and with what must not learn frozen."""
        from clipmill_classify.scores import FrameJudge, Judge, SeveralJudge

        network = self.network(info, class_count(info, self.name))
        judges = {"one": Judge, "several": SeveralJudge, "frames": FrameJudge}
        network.judge = judges[self.labels](
            self.label_smoothing, weights_of(self.class_weights, info)
        )
        network.freeze(self.frozen)
        return network

    def optimizer(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """AdamW, with a learning rate of their own for the parts that have a factor."""
        from torch.optim import AdamW

        from clipmill_classify.network import groups

        parts = groups(model, self.rates, self.learning_rate)
        return AdamW(parts, lr=self.learning_rate, weight_decay=self.weight_decay)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The mean over all takes of a video; of frames over the takes that saw them."""
        if self.labels == "frames":
            return joined_frames(outputs, takes)
        told = super().answer(outputs, takes)
        return {**told, "threshold": self.threshold} if self.labels == "several" else told

    def meter(self) -> Meter:
        """What measures answers of these labels."""
        if self.labels == "several":
            return SeveralMeter(self.threshold)
        return FrameMeter() if self.labels == "frames" else ClassMeter()
