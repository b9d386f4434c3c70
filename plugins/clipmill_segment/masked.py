"""What all models share that learn from stored masks: a frame with its masks, and their classes.

Class 0 is what no mask names; 1, 2, ... are the dataset's mask classes. Free of torch. Knows
neither networks nor what they answer.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from clipmill.errors import PluginError
from clipmill.plugin import (
    MIXERS,
    Augmentation,
    Catalog,
    Decoded,
    Info,
    Learnt,
    Plugin,
    Sample,
    View,
)
from clipmill.takes import Stream

if TYPE_CHECKING:
    import torch


class Masked(Plugin):
    """Learns from frames with masks."""

    family: ClassVar[str] = "segment"
    higher_is_better: ClassVar[bool] = True
    streams: ClassVar[tuple[Stream, ...]] = ("rgb", "mask")

    width: float = Field(1.0, gt=0, le=4, description="multiplies the network's channels")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(224, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=16, description="short side before the crop, in pixels")
    augment: tuple[Augmentation, ...] = Field(
        ("crop", "flip"), description="what the masks go along with"
    )
    test_crops: Literal[1] = Field(1, description="masks are told of the middle of a frame")

    @field_validator("augment")
    @classmethod
    def _keeps_the_masks(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if mixers := sorted({*augment} & MIXERS):
            raise ValueError(f"without {', '.join(mixers)}, with which a pixel has no one class")
        return augment

    @property
    def learns(self) -> Learnt:
        """The classes of masks."""
        return "masks"

    def views(self) -> Mapping[str, View]:
        """One frame with its masks."""
        view = View(
            streams=self.streams, frames=1, rate=self.rate, size=self.size,
            resize=self.resize, augment=self.augment,
        )  # fmt: skip
        return {"train": view, "test": view}

    def class_names(self, catalog: Catalog) -> tuple[str, ...]:
        """The classes of the masks."""
        return catalog.mask_classes

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those without masks; where none has any, the plan tells it."""
        bare = ~catalog.has("masks_sha256")
        return {} if bare.all() else {"without masks": bare}

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The frame and its masks."""
        return {name: np.asarray(array) for name, array in decoded.streams[0].items()}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network of the ground and the classes of the masks."""
        if not info.classes:
            raise PluginError(
                f"{self.name} without classes of masks",
                "the names of what masks show",
                "ingest a table with the columns masks and mask_classes",
            )
        return self.network(len(info.classes) + 1, restored=info.restored)

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the network for so many classes, the ground included."""
        raise NotImplementedError
