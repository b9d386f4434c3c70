"""What the classifiers that remember have in common: the span they see, windows, frames in a row.

`FrameSequence` adds what those share whose memory is over the features of a 2D network. Free of
torch; networks are in modules of their own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from clipmill.plugin import Catalog, Draw, Info, Place, Stage, Takes, View, even_spans
from clipmill_classify.classifier import Classifier
from clipmill_classify.labels import Labels

if TYPE_CHECKING:
    from clipmill_classify.frames import FrameEncoder
    from clipmill_classify.network import ClipNetwork
    from clipmill_classify.readouts import Readout
    from clipmill_classify.recurrent_network import Recurrent
    from clipmill_classify.sequence_network import Given

Numbers = NDArray[np.int64]


class SequenceClassifier(Classifier):
    """Goes through a clip, or a whole video, frame by frame."""

    label_kinds: ClassVar[tuple[Labels, ...]] = ("one", "several", "frames")

    span: Literal["clip", "video"] = Field(
        "clip",
        description="what a take is: a clip at `rate`, or the whole video, of which `frames` frames "
        "are seen at even distances, whatever the rate; it is one take at test too",
    )
    window: int | None = Field(
        None,
        ge=1,
        description="frames that gradients go back through, and that memory is needed for; what "
        "must be remembered for longer is not learnt. Batch norms see a window at a time",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_one_take(cls, fields: Any) -> Any:
        whole = isinstance(fields, Mapping) and fields.get("span") == "video"
        return {"test_clips": 1, **fields} if whole else fields

    @field_validator("span")
    @classmethod
    def _has_no_clips(cls, span: str, info: ValidationInfo) -> str:
        clips = info.data.get("test_clips")
        if span == "video" and clips != 1:
            raise ValueError(f"clip with test_clips={clips}: a whole video is one take")
        return span

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """The takes of all classifiers, or one for each video that sees all of it."""
        takes = super().plan(catalog, stage, draw)
        if self.span == "clip":
            return takes
        name, crops = ("train", 1) if stage == "train" else ("test", self.test_crops)
        frames, fps = catalog.column("frames"), catalog.column("fps")
        made = even_spans(frames, fps, self.views()[name], 1, name, crops)
        last = last_seen(frames, self.frames)[made.record[:, 0], None]
        return replace(made, first=np.zeros_like(last), last=last)


def last_seen(available: Numbers, frames: int) -> Numbers:
    """The last frame, where so many are seen of a video from its first frame on.

    It is the video's last, or the last at a whole distance where that leaves less than a distance
    unseen: frames at whole distances are cheap to decode.
    """
    end, gaps = available - 1, max(1, frames - 1)
    reach = end // gaps * gaps
    return np.where(end - reach < end // gaps, reach, end)


class _UnlessAhead:
    """A promise that those keep who do not look ahead."""

    def __get__(self, plugin: "FrameSequence | None", owner: type) -> bool:
        return plugin is None or not plugin.bidirectional


class FrameSequence(SequenceClassifier):
    """A 2D network on each frame, and an LSTM or GRU over what it gives."""

    streaming: ClassVar[Any] = _UnlessAhead()
    beside: ClassVar[bool] = False  # the readout is given each frame's features as well
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.125, "frames": 8, "size": 32, "resize": 36, "hidden": 32,
    }  # fmt: skip

    backbone: str = Field("resnet18", description="any 2D image network of torchvision, by name")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    features: int | None = Field(
        None,
        ge=1,
        description="numbers a frame of a dataset of features, which is then what is seen; the "
        "backbone is not made",
    )
    normalised: bool = Field(
        False,
        description="bring every feature of frames to one scale, by a batch norm, before it comes "
        "to the gates: what is small and tells most is heard from the first step",
    )
    cell: Literal["lstm", "gru"] = Field("lstm", description="kind of the recurrent layers")
    hidden: int = Field(256, ge=1, description="units of a recurrent layer, whatever the width")
    layers: int = Field(1, ge=1, description="recurrent layers, one on another")
    bidirectional: bool = Field(
        False, description="a second memory runs backwards; then videos cannot come in chunks"
    )

    @field_validator("bidirectional")
    @classmethod
    def _sees_all(cls, bidirectional: bool, info: ValidationInfo) -> bool:
        window = info.data.get("window")
        if bidirectional and window is not None and window < info.data.get("frames", 0):
            raise ValueError(f"false with window={window}: a window ends before what comes after")
        return bidirectional

    def views(self) -> Mapping[str, View]:
        """A clip's frames, or what was computed of them before."""
        made = super().views()
        if self.features is None:
            return made
        seen = {"streams": ("features",), "features": self.features}
        return {name: view.model_copy(update=seen) for name, view in made.items()}

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make the encoder, the recurrent layers and what is read from them."""
        from clipmill_classify.sequence_network import SequenceNetwork

        encoder = self._encoder(info)
        recurrent = self._recurrent(encoder.features)
        readout = self.reading(recurrent, encoder.features, classes)
        stream = "rgb" if self.features is None else "features"
        return SequenceNetwork(encoder, recurrent, readout, self.window, stream)

    def reading(self, recurrent: "Recurrent", frame_features: int, classes: int) -> "Readout":
        """Make what tells classes by the memory at each frame."""
        raise NotImplementedError

    def _encoder(self, info: Info) -> "FrameEncoder | Given":
        from clipmill_classify.frames import FrameEncoder
        from clipmill_classify.sequence_network import Given

        if self.features is not None:
            return Given(self.features)
        weights = None if info.restored else self.weights
        return FrameEncoder(self.backbone, self.size, self.width, weights)

    def _recurrent(self, features: int) -> "Recurrent":
        from clipmill_classify.recurrent_network import Recurrent

        return Recurrent(
            features, self.hidden, cell=self.cell, layers=self.layers,
            dropout=self.dropout, both_ways=self.bidirectional, beside=self.beside,
            normalised=self.normalised,
        )  # fmt: skip
