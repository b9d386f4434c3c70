"""What all segmenters share: one frame and its mask, rare classes, the answer, the meter.

A segmenter adds its fields and `network`. Class 0 is what no mask names; 1, 2, ... are the
dataset's mask classes. Free of torch; networks are in modules of their own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from clipmill.errors import PluginError
from clipmill.plugin import (
    Augmentation,
    Catalog,
    Decoded,
    Info,
    Meter,
    Plugin,
    Sample,
    Takes,
    View,
)
from clipmill_segment.meters import SegmentMeter, confusion

if TYPE_CHECKING:
    import torch

MIXERS: frozenset[Augmentation] = frozenset({"mixup", "cutmix"})  # they mix classes of videos
SMOOTHING = 1.02  # added to a class's share before the logarithm (Paszke et al., ENet, 2016)


class Segmenter(Plugin):
    """Tells the class of each pixel of a frame."""

    family: ClassVar[str] = "segment"
    labels: ClassVar[str] = "masks"
    metric: ClassVar[str] = "miou"
    higher_is_better: ClassVar[bool] = True
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.25, "size": 32, "resize": 32, "learning_rate": 0.005, "weight_decay": 0.0
    }  # fmt: skip

    width: float = Field(1.0, gt=0, le=4, description="multiplies the network's channels")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(224, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=16, description="short side before the crop, in pixels")
    augment: tuple[Augmentation, ...] = Field(
        ("crop", "flip"), description="what the masks go along with"
    )
    shares: tuple[float, ...] = Field(
        (),
        description="share of all pixels of the ground and of each class, by which rare ones count more",
    )
    balance: Literal["log", "median"] = Field(
        "log", description="weight of a class of share p: 1 / ln(1.02 + p), or median of shares / p"
    )

    @field_validator("augment")
    @classmethod
    def _keeps_the_masks(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        return check_mixers(augment)

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= 1 for share in shares):
            raise ValueError("shares above 0 and at most 1, of the ground and of each class")
        return shares

    def views(self) -> Mapping[str, View]:
        """One frame with its mask."""
        view = View(
            streams=("rgb", "mask"), frames=1, rate=self.rate, size=self.size,
            resize=self.resize, augment=self.augment,
        )  # fmt: skip
        return {"train": view, "test": view}

    def class_names(self, catalog: Catalog) -> tuple[str, ...]:
        """The classes of the masks."""
        return catalog.mask_classes

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those without masks; where none has any, the plan tells it."""
        return without_masks(catalog)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The frame and its mask."""
        return {name: np.asarray(array) for name, array in decoded.streams[0].items()}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network of the ground and the classes of the masks."""
        if not info.classes:
            raise PluginError(
                f"{self.name} without classes of masks",
                "the names of what masks show",
                "ingest a table with the columns masks and mask_classes",
            )
        count = len(info.classes) + 1
        if self.shares and len(self.shares) != count:
            raise PluginError(
                f"model.shares has {len(self.shares)} numbers",
                f"{count}: the ground, and {', '.join(info.classes)}",
            )
        return self.network(count, restored=info.restored)

    def network(self, classes: int, *, restored: bool) -> "torch.nn.Module":
        """Make the network for so many classes, the ground included."""
        raise NotImplementedError

    def class_weights(self) -> tuple[float, ...]:
        """What an error on each class counts; none where all count alike."""
        shares = np.array(self.shares, np.float64)
        if not len(shares):
            return ()
        weights = np.median(shares) / shares
        if self.balance == "log":
            weights = 1 / np.log(SMOOTHING + shares)
        return tuple(weights.tolist())

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """The mask of the frame in the middle with its number; pixels of all by class, told and true."""
        middle = len(outputs) // 2
        told = [output["class_scores"].argmax(0) for output in outputs]
        known = {}
        if all("truth" in output for output in outputs):
            classes = len(outputs[0]["class_scores"])
            pairs = zip(told, (output["truth"] for output in outputs), strict=True)
            counts = np.sum([confusion(*pair, classes) for pair in pairs], axis=0)
            known = {"confusion": counts} if counts.any() else {}
        return {
            "mask": told[middle].astype(np.uint8),
            "frame": int(takes.first[middle, 0]),
            **known,
        }

    def meter(self) -> Meter:
        """What measures masks."""
        return SegmentMeter()


def check_mixers(augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
    """Refuse augmentations after which a pixel has no one class."""
    if mixers := sorted({*augment} & MIXERS):
        raise ValueError(f"without {', '.join(mixers)}, with which a pixel has no one class")
    return augment


def without_masks(catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
    """The records without masks, where others have some."""
    bare = ~catalog.has("masks_sha256")
    return {} if bare.all() else {"without masks": bare}
