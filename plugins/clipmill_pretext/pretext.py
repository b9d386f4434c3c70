"""What all pretexts share: how much of a video is seen, no labels, the meter of the own task.

A pretext adds its fields, its plan or sample, and `build`. Free of torch; networks are in
modules of their own.
"""

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from clipmill.plugin import MIXERS, Augmentation, Decoded, Learnt, Meter, Plugin, Sample, View
from clipmill.takes import generator
from clipmill_pretext import health
from clipmill_pretext.meters import HealthTask


class Pretext(Plugin):
    """A task that needs no labels: videos with and without classes are alike to it."""

    family: ClassVar[str] = "pretext"
    metric: ClassVar[str] = "own_accuracy"
    higher_is_better: ClassVar[bool] = True
    falsified_by: ClassVar[frozenset[Augmentation]] = frozenset()  # augmentations, beside mixers
    todo: ClassVar[str] = "lower the learning rate"  # where all embeddings are alike
    small: ClassVar[Mapping[str, Any]] = {"width": 0.125, "size": 32, "resize": 36}

    width: float = Field(1.0, gt=0, le=4, description="multiplies the network's channels")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(112, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=16, description="short side before the crop, in pixels")
    augment: tuple[Augmentation, ...] = Field(
        ("crop", "flip"), description="what keeps the task's answer true"
    )

    @field_validator("augment")
    @classmethod
    def _keeps_the_answer(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if false := sorted({*augment} & (MIXERS | cls.falsified_by)):
            raise ValueError(
                f"without {', '.join(false)}, with which {cls.name} has no true answer"
            )
        return augment

    @model_validator(mode="after")
    def _fits(self) -> Self:  # some cut their own crops, of a view as large as `resize`
        if self.resize < self.size:
            raise ValueError(f"resize {self.resize} of at least size {self.size}")
        return self

    @property
    def learns(self) -> Learnt:
        """No classes."""
        return "none"

    @property
    def chance(self) -> float | None:
        """What the metric is for one who guesses; None where that is not known beforehand."""
        return None

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The classifier, and its fields, whose tensors this backbone fits by their names."""
        raise NotImplementedError

    def view(self, frames: int, **fields: Any) -> View:
        """A view of so many frames, with the common fields."""
        told = {"rate": self.rate, "size": self.size, "resize": self.resize, **fields}
        return View(frames=frames, **{"augment": self.augment, **told})

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The streams of a take's first span."""
        return {name: np.asarray(array) for name, array in decoded.streams[0].items()}

    def meter(self) -> Meter:
        """What measures the own task: the share of its questions that are answered rightly."""
        return HealthTask(self.chance, own_accuracy="right")

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether the own task was learnt, and whether embeddings tell videos apart."""
        better = self.higher_is_better
        return health.told(
            metrics, self.metric, chance=self.chance, higher_is_better=better, todo=self.todo
        )


def chance_of(decoded: Decoded, rng: np.random.Generator) -> np.random.Generator:
    """The chance of a sample: the take's own in training, at test that of the frames it asks about.

    A take's place in its plan decides its own, and so does what is tested before it.
    """
    if decoded.stage == "train":
        return rng
    first = [int(frames[0]) for frames in decoded.frames]
    asked = f"{decoded.records[0].get('key')} {first}"
    return generator(zlib.crc32(asked.encode()))
