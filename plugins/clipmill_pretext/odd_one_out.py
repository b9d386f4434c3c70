"""Odd one out: of several sub-clips of a video one has its frames out of order. Which?

Fernando et al., "Self-Supervised Video Representation Learning with Odd-One-Out Networks", 2017.
One encoder sees each sub-clip, as the differences of its frames or as the frames themselves; what
it makes of them is fused and answered with one of N. Sub-clips lie where much moves.
"""

from collections.abc import Mapping
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
)
from clipmill_pretext import health
from clipmill_pretext.guards import Channels, Frames, guarded
from clipmill_pretext.meters import HealthTask
from clipmill_pretext.pretext import Pretext, chance_of
from clipmill_pretext.records import shorter_than, still
from clipmill_pretext.windows import slots, starts, unmeasured

if TYPE_CHECKING:
    import torch

ODD = "odd"  # the view of the sub-clip that is out of order; the plan says which one it is


class OddOneOut(Pretext):
    """Finds the sub-clip whose frames are out of order among others in order."""

    name: ClassVar[str] = "odd_one_out"
    paper: ClassVar[str] = "Fernando et al., Odd-One-Out Networks, 2017"
    falsified_by: ClassVar[frozenset[Augmentation]] = frozenset({"reverse", "resized_crop"})
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "size": 32, "resize": 36, "hidden": 32, "frames": 4, "clips": 3, "test_clips": 3,
    }  # fmt: skip

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="side of the square that crops are taken from")
    rate: float = Field(10.0, gt=0, description="frames a second of a sub-clip")
    frames: int = Field(6, ge=3, description="frames of a sub-clip")
    clips: int = Field(6, ge=2, le=16, description="sub-clips, one of them out of order")
    encoding: Literal["differences", "frames"] = Field(
        "differences",
        description="what is seen of a sub-clip: what changes, or all, as the classifier does",
    )
    fusion: Literal["compare", "concatenate"] = Field(
        "compare",
        description="each sub-clip is judged against the mean of all by one and the same layers, "
        "or all go side by side into layers over them",
    )
    apart: int = Field(
        8, ge=0, description="pixels that the crops of two sub-clips lie apart at most"
    )
    channels: Channels = Field(
        "split", description="of each sub-clip: one for all three, of other strengths, as is"
    )
    hidden: int = Field(
        128, ge=1, description="features of the layer over them, whatever the width"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="before the last layer")
    weights: Place | None = Field(
        None, description="file of 2D weights, spread over the frames; nothing is fetched"
    )
    test_clips: int = Field(
        6, ge=1, description="questions about a video at test, each place in turn"
    )

    @property
    def chance(self) -> float:
        """Who gives the answer that is asked for most often at test is right so often."""
        return -(-self.test_clips // self.clips) / self.test_clips

    @property
    def stacked(self) -> int:
        """How many pictures of a sub-clip the network sees at once."""
        return self.frames - 1 if self.encoding == "differences" else self.frames

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The classifier that sees as many pictures at once.

        It sees frames, which weights learnt of differences have never seen; `encoding: frames` has.
        """
        names = ("backbone", "width", "size", "resize", "rate")
        return "early_fusion", {n: getattr(self, n) for n in names} | {"frames": self.stacked}

    def views(self) -> Mapping[str, View]:
        """One sub-clip, as a square that is cropped in `sample`."""
        view = self.view(self.frames, size=self.resize)
        return {"train": view, "test": view, ODD: view}

    def protocol(self) -> dict[str, Any]:
        """What of a video is tested: so many sets of sub-clips, where much moves."""
        return {**super().protocol(), "subclips": self.clips, "where": "moving", "shown": self.size}

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those shorter than a sub-clip, and those in which nothing moves."""
        return {**shorter_than(catalog, self.frames / self.rate), **still(catalog)}

    def remarks(self, catalog: Catalog) -> list[str]:
        """Of how many it is not known where they move."""
        return unmeasured(catalog)

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """Sub-clips from all over what moves in a record, any of them the odd one."""
        asked = slots(catalog, stage, draw, self.test_clips, self.test_crops)
        length = self.views()["train"].span_frames(catalog.column("fps").astype(np.float64))
        part = [(asked.shares(f"clip {at}") + at) / self.clips for at in range(self.clips)]
        first = np.stack([starts(catalog, length, asked.row, share) for share in part], 1)
        odd = asked.kinds("odd", self.clips)
        is_odd = np.arange(self.clips) == odd[:, None]
        name = "train" if stage == "train" else "test"
        last = first + length[asked.row, None] - 1
        return asked.takes((name, ODD), is_odd.astype(np.int64), first, last)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Sub-clips one after another, each guarded for itself, and which is the odd one."""
        disorder = chance_of(decoded, rng)
        parts = [
            _disordered(streams["rgb"], disorder) if view == ODD else np.asarray(streams["rgb"])
            for view, streams in zip(decoded.views, decoded.streams, strict=True)
        ]
        chance = rng if decoded.stage == "train" else None
        shown = guarded(parts, size=self.size, apart=self.apart, channels=self.channels, rng=chance)
        # Of one alone nothing is asked.
        odd = decoded.views.index(ODD) if ODD in decoded.views else 0
        return {"rgb": np.concatenate(shown), "truth": np.asarray(odd, np.int64)}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the encoder of sub-clips, and what fuses and answers."""
        from clipmill_classify.early_fusion_network import StackedFrames
        from clipmill_pretext.odd_one_out_network import Compared, Concatenated, OddNetwork

        weights = None if info.restored else self.weights
        encoder = StackedFrames(self.backbone, self.stacked, self.size, self.width, weights)
        head = (
            Compared(encoder.features, self.hidden, self.dropout)
            if self.fusion == "compare"
            else Concatenated(encoder.features, self.clips, self.hidden, self.dropout)
        )
        is_difference = self.encoding == "differences"
        return OddNetwork(encoder, self.frames, head, of_differences=is_difference)

    def meter(self) -> Meter:
        """The share that is found, and what pointing at the most changeful sub-clip would find."""
        return HealthTask(self.chance, own_accuracy="right", change_accuracy="right_by_change")

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether more was learnt than how much changes: disorder makes large differences."""
        change = metrics.get("change_accuracy", 0.0)
        by_chance = change <= self.chance
        level, than = ("chance", self.chance) if by_chance else ("by change alone", change)
        return health.told(metrics, self.metric, chance=than, level=level, todo=self.todo)


def _disordered(frames: Frames, rng: np.random.Generator) -> Frames:
    """The frames in an order that runs neither forward nor backward."""
    while True:
        order = rng.permutation(len(frames))
        steps = np.diff(order)
        if not ((steps > 0).all() or (steps < 0).all()):
            return np.asarray(frames[order])
