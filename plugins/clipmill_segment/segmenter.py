"""What all segmenters share: rare classes, the answer, the meter.

A segmenter adds its fields and `network`. Free of torch; networks are in modules of their own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from clipmill.errors import PluginError
from clipmill.plugin import Info, Meter, Takes
from clipmill_segment.masked import Masked
from clipmill_segment.meters import SegmentMeter, confusion

if TYPE_CHECKING:
    import torch

SMOOTHING = 1.02  # added to a class's share before the logarithm (Paszke et al., ENet, 2016)


class Segmenter(Masked):
    """Tells the class of each pixel of a frame."""

    metric: ClassVar[str] = "miou"
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.25, "size": 32, "resize": 32, "learning_rate": 0.005, "weight_decay": 0.0
    }  # fmt: skip

    shares: tuple[float, ...] = Field(
        (),
        description="share of all pixels of the ground and of each class, by which rare ones count more",
    )
    balance: Literal["log", "median"] = Field(
        "log", description="weight of a class of share p: 1 / ln(1.02 + p), or median of shares / p"
    )

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < share <= 1 for share in shares):
            raise ValueError("shares above 0 and at most 1, of the ground and of each class")
        return shares

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network; each class has its share, if any has."""
        wanted = len(info.classes) + 1
        if info.classes and self.shares and len(self.shares) != wanted:
            raise PluginError(
                f"model.shares has {len(self.shares)} numbers",
                f"{wanted}: the ground, and {', '.join(info.classes)}",
            )
        return super().build(info)

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
