"""Temporal order: are three frames of a video in order, or in which order are its clips?

With `task=verify`, Shuffle and Learn (Misra et al., 2016): frames b, c, d against b, a, d or
b, e, d, where a < b < c < d < e lie where much moves; a tuple and its reversal are alike, as
there. With `task=clips`, clip order prediction (Xu et al., 2019): the order of n clips is one of
n!, a reversal being another, as there. Features are compared in pairs in both, where Shuffle and
Learn has one linear layer over all, which can set no frame beside another.
"""

from collections.abc import Mapping
from functools import partial
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from clipmill.plugin import (
    Augmentation,
    Catalog,
    Decoded,
    Draw,
    Info,
    Place,
    Sample,
    Stage,
    Takes,
    View,
)
from clipmill_pretext.guards import Channels, guarded
from clipmill_pretext.moments import frames_of
from clipmill_pretext.pretext import Pretext
from clipmill_pretext.records import shorter_than, still
from clipmill_pretext.windows import Numbers, Slots, slots, starts, unmeasured

if TYPE_CHECKING:
    import torch


class TemporalOrder(Pretext):
    """Tells frames in order from others, or the order of clips."""

    name: ClassVar[str] = "temporal_order"
    paper: ClassVar[str] = "Misra et al., Shuffle and Learn, 2016; Xu et al., 2019"
    falsified_by: ClassVar[frozenset[Augmentation]] = frozenset({"reverse", "resized_crop"})
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "size": 32, "resize": 36, "hidden": 32, "test_clips": 8,
    }  # fmt: skip

    task: Literal["verify", "clips"] = Field(
        "verify", description="is a tuple of frames in order, or which order are clips in"
    )
    backbone: str = Field("resnet18", description="of frames: any 2D image network of torchvision")
    clip_network: Literal["c3d", "stacked"] = Field(
        "c3d", description="of clips: C3D, or the backbone over all frames of a clip at once"
    )
    batch_norm: bool = Field(True, description="in C3D, after each convolution")
    size: int = Field(112, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=32, description="side of the square that crops are taken from")
    rate: float = Field(30.0, gt=0, description="frames a second of a clip")
    frames: int = Field(16, ge=2, description="frames of a clip")
    clips: int = Field(3, ge=2, le=5, description="clips that are put in order")
    tuple_seconds: float = Field(
        2.0, gt=0, description="the most from the first to the last frame of a tuple, half is least"
    )
    gap_seconds: float = Field(
        0.5,
        gt=0,
        description="from one clip to the next; of tuples the least from a frame that is out of "
        "order to those that are in order",
    )
    positives: float = Field(
        0.5, gt=0, lt=1, description="share of the tuples in training that are in order"
    )
    apart: int = Field(
        8, ge=0, description="pixels that the crops of two frames, or clips, lie apart at most"
    )
    channels: Channels = Field(
        "split", description="of each frame, or clip: one for all three, of other strengths, as is"
    )
    hidden: int = Field(512, ge=1, description="features of each pair, whatever the width")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the last layer")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    test_clips: int = Field(
        6, ge=1, description="questions about a video at test, each kind in turn"
    )

    @field_validator("weights")
    @classmethod
    def _has_a_backbone(cls, weights: str | None, info: ValidationInfo) -> str | None:
        told = info.data
        if weights and (told.get("task"), told.get("clip_network")) == ("clips", "c3d"):
            raise ValueError("none for C3D: start it with train.init_from")
        return weights

    @property
    def kinds(self) -> int:
        """How many answers there are."""
        return 2 if self.task == "verify" else factorial(self.clips)

    @property
    def chance(self) -> float:
        """Who gives the answer that is asked for most often at test is right so often."""
        return -(-self.test_clips // self.kinds) / self.test_clips

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The classifier of frames or clips that has this backbone."""
        told = {"width": self.width, "size": self.size, "resize": self.resize}
        if self.task == "verify":
            return "single_frame", {**told, "backbone": self.backbone}
        told |= {"frames": self.frames, "rate": self.rate}
        if self.clip_network == "c3d":
            return "c3d", {**told, "batch_norm": self.batch_norm}
        return "early_fusion", {**told, "backbone": self.backbone}

    def views(self) -> Mapping[str, View]:
        """One frame or one clip, as a square that is cropped in `sample`."""
        frames = 1 if self.task == "verify" else self.frames
        view = self.view(frames, size=self.resize)
        return {"train": view, "test": view}

    def protocol(self) -> dict[str, Any]:
        """What of a video is tested: so many tuples, where much moves."""
        told = {"task": self.task, "where": "moving", "shown": self.size}
        return {**super().protocol(), **told}

    # --- which takes

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those shorter than a tuple, and those in which nothing moves."""
        return {**shorter_than(catalog, self.seconds), **still(catalog)}

    def remarks(self, catalog: Catalog) -> list[str]:
        """Of how many it is not known where they move."""
        return unmeasured(catalog)

    @property
    def seconds(self) -> float:
        """What a tuple needs of a video."""
        if self.task == "verify":
            return self.tuple_seconds + self.gap_seconds
        return self.clips * self.frames / self.rate + (self.clips - 1) * self.gap_seconds

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """A tuple a record in training, some a record at test, where much moves."""
        asked = slots(catalog, stage, draw, self.test_clips, self.test_crops)
        first, last = (self._frames if self.task == "verify" else self._clips)(catalog, asked)
        name = "train" if stage == "train" else "test"
        return asked.takes((name,), np.zeros(1, np.int64), first, last)

    def _frames(self, catalog: Catalog, asked: Slots) -> tuple[Numbers, Numbers]:
        """Three frames a take; the middle one lies between the others, or beyond one of them."""
        most = frames_of(catalog, self.tuple_seconds, least=2)
        gap = frames_of(catalog, self.gap_seconds)
        window = starts(catalog, most + gap + 1, asked.row, asked.shares("window"))
        places = _scaled(
            _tuples(asked, most[asked.row], gap[asked.row], self.positives),
            most[asked.row] + gap[asked.row],
            catalog.column("frames")[asked.row] - 1,
        )
        numbers = window[:, None] + places
        return numbers, numbers

    def _clips(self, catalog: Catalog, asked: Slots) -> tuple[Numbers, Numbers]:
        """The clips of a window, in the order that is asked for."""
        length = self.views()["train"].span_frames(catalog.column("fps").astype(np.float64))
        step = length + frames_of(catalog, self.gap_seconds)
        reach = (self.clips - 1) * step
        window = starts(catalog, reach + length, asked.row, asked.shares("window"))
        order = np.array(list(permutations(range(self.clips))))
        shown = order[asked.kinds("order", self.kinds)]
        room = np.maximum(0, catalog.column("frames") - length)[asked.row]
        first = window[:, None] + _scaled(shown * step[asked.row, None], reach[asked.row], room)
        return first, first + length[asked.row, None] - 1

    # --- what a network sees

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Frames or clips one after another, each guarded for itself, and the true answer."""
        parts = [np.asarray(streams["rgb"]) for streams in decoded.streams]
        chance = rng if decoded.stage == "train" else None
        shown = guarded(parts, size=self.size, apart=self.apart, channels=self.channels, rng=chance)
        first = [int(frames[0]) for frames in decoded.frames]
        return {"rgb": np.concatenate(shown), "truth": np.asarray(self._truth(first), np.int64)}

    def _truth(self, first: list[int]) -> int:
        """The answer, by where in the video frames or clips begin; of one alone nothing is asked."""
        if len(first) == 1:
            return 0
        if self.task == "verify":
            before, middle, behind = first
            return int(min(before, behind) <= middle <= max(before, behind))
        ranks = tuple(np.argsort(np.argsort(first, kind="stable")).tolist())
        return list(permutations(range(self.clips))).index(ranks)

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network of frames or of clips, and what compares their features."""
        from clipmill_classify.early_fusion_network import StackedFrames
        from clipmill_classify.frames import FrameEncoder
        from clipmill_pretext import temporal_order_network as networks
        from clipmill_pretext.order_network import Pairwise

        weights = None if info.restored else self.weights
        head = partial(Pairwise, hidden=self.hidden, answers=self.kinds, dropout=self.dropout)
        if self.task == "verify":
            frames = FrameEncoder(self.backbone, self.size, self.width, weights)
            return networks.frame_order(frames, head)
        if self.clip_network == "stacked":
            stack = StackedFrames(self.backbone, self.frames, self.size, self.width, weights)
            return networks.stacked_order(stack, self.frames, self.clips, head)
        clip = self.frames, self.size, self.size
        return networks.c3d_order(clip, self.clips, self.width, self.batch_norm, head)


def _tuples(asked: Slots, most: Numbers, gap: Numbers, positives: float) -> Numbers:
    """Places of three frames in windows of `most` + `gap` frames and one more, [takes, 3]."""
    length = np.maximum(2, most - (asked.shares("length") * (most // 2 + 1)).astype(np.int64))
    middle = np.clip(np.rint(length * (0.25 + 0.5 * asked.shares("middle"))), 1, length - 1)
    beyond = gap + (asked.shares("beyond") * (most - length + 1)).astype(np.int64)
    slack = most + gap - length - beyond
    start = (asked.shares("start") * (slack + 1)).astype(np.int64)
    is_early = asked.kinds("side", 2, every=2) == 0  # the frame out of order comes before
    first = np.where(is_early, start + beyond, start)
    outside = np.where(is_early, start, start + length + beyond)
    in_order = np.where(
        asked.stage == "train", asked.shares("order") < positives, asked.turn % 2 == 0
    )
    shown = np.where(in_order, first + middle.astype(np.int64), outside)
    is_turned = asked.kinds("turned", 2, every=4) == 1
    ends = np.stack([first, first + length], 1)
    ends = np.where(is_turned[:, None], ends[:, ::-1], ends)
    return np.stack([ends[:, 0], shown, ends[:, 1]], 1)


def _scaled(places: Numbers, reach: Numbers, room: Numbers) -> Numbers:
    """Places up to `reach` drawn together where a video has less room: a test answers it, too."""
    share = np.minimum(1.0, room / np.maximum(reach, 1))
    return np.floor(places * share[:, None]).astype(np.int64)
