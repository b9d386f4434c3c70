"""A small clip classifier: copy this package, and change what you want to be different."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from clipmill.plugin import Info, Plugin, View
from clipmill_classify.meters import ClassMeter

if TYPE_CHECKING:
    import torch


class TinyVideo(Plugin):
    """Two 3D convolutions; the fields below are the keys of `model:` in a recipe."""

    name: ClassVar[str] = "tiny_video"  # as in the entry point
    family: ClassVar[str] = "classify"
    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    channels: int = Field(16, ge=4, description="of the first convolution")
    learning_rate: float = Field(3e-3, gt=0, description="of AdamW")

    def views(self) -> Mapping[str, View]:
        """What to decode: eight frames of 32 x 32, in training and at test."""
        view = View(frames=8, rate=5, size=32, resize=36)
        return {"train": view, "test": view}

    def build(self, info: Info) -> "torch.nn.Module":
        """Import the network here, so that workers that only decode never load torch."""
        from clipmill_template.network import TinyNetwork

        return TinyNetwork(self.channels, len(info.classes))

    def meter(self) -> ClassMeter:
        """Count rightly told videos."""
        return ClassMeter()
