"""Multi-stream networks: frames and flow, each through a CNN and an LSTM, and sound, fused.

After Wu et al., "Multi-Stream Multi-Class Fusion of Deep Networks for Video Classification",
2016. The streams are joined before the class is told, so that what only shows in two of them
together can be learnt.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from clipmill import video
from clipmill.plugin import Decoded, Info, Place, Sample, View
from clipmill_classify.classifier import Classifier
from clipmill_classify.flow_field import FlowWay, RaftSize, RaftWeights, with_flow

if TYPE_CHECKING:
    from torch import nn

    from clipmill_classify.multi_stream_network import Heard, Watched
    from clipmill_classify.network import ClipNetwork

Way = Literal["spatial", "motion", "audio"]
FALSE_WITH_SOUND = ("reverse", "mixup", "cutmix")  # a spectrogram is neither turned nor mixed


class MultiStream(Classifier):
    """What is seen, how it moves and what is heard, joined; a video without sound is silent."""

    name: ClassVar[str] = "multi_stream"
    paper: ClassVar[str] = "Wu et al., Multi-Stream Multi-Class Fusion of Deep Networks, 2016"
    small: ClassVar[Mapping[str, Any]] = {
        "backbone": "resnet18", "width": 0.125, "frames": 6, "size": 56, "resize": 64,
    }  # fmt: skip

    backbone: str = Field("resnet50", description="any 2D image network of torchvision, by name")
    width: float = Field(1.0, gt=0, le=4, description="multiplies channels and hidden units")
    size: int = Field(224, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=32, description="short side before the crop, in pixels")
    frames: int = Field(16, ge=2, description="frames of a clip")
    hidden: int = Field(512, ge=8, description="units of each LSTM, and of the fusion")
    layers: int = Field(1, ge=1, description="of each LSTM")
    bands: int = Field(64, ge=8, description="mel bands of the spectrogram")
    audio_rate: int = Field(16_000, ge=1000, description="sound samples a second")
    window_seconds: float = Field(
        0.025, ge=0.005, description="of sound in a step of its spectrogram"
    )
    step_seconds: float = Field(0.01, ge=0.001, description="from one step to the next")
    streams: tuple[Way, ...] = Field(
        ("spatial", "motion", "audio"), min_length=1, description="which to use"
    )
    flow: FlowWay = "dis"
    raft_size: RaftSize = "large"
    raft_weights: RaftWeights = None
    weights: Place | None = Field(
        None, description="file of backbone weights, for frames and flow; nothing is fetched"
    )

    @model_validator(mode="after")
    def _keeps_labels_true(self) -> "MultiStream":
        wrong = [name for name in FALSE_WITH_SOUND if name in self.augment]
        if wrong and "audio" in self.streams:
            raise ValueError(f"no {wrong[0]} in augment with sound, which it would not change")
        return self

    def views(self) -> Mapping[str, View]:
        """One clip: its frames, its flow and its sound, as far as a stream needs them."""
        return {name: self._seen(view) for name, view in super().views().items()}

    def _seen(self, view: View) -> View:
        kinds = {"spatial": "rgb", "audio": "audio"}
        wanted = tuple(kinds[name] for name in dict.fromkeys(self.streams) if name in kinds)
        view = view.model_copy(update={"streams": wanted, "audio_rate": self.audio_rate})
        return with_flow(view, self.flow) if "motion" in self.streams else view

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Frames and flow, and of the sound its spectrogram."""
        made = super().sample(decoded, rng)
        if "audio" in made:
            made["spectrogram"] = video.log_mel(
                made.pop("audio"), self.audio_rate, bands=self.bands,
                window_seconds=self.window_seconds, step_seconds=self.step_seconds,
            )  # fmt: skip
        return made

    def network(self, info: Info, classes: int) -> "ClipNetwork":
        """Make a part for each stream that is used, and what joins them."""
        from clipmill_classify.multi_stream_network import MultiStreamNetwork

        return MultiStreamNetwork(self._parts(info), self._units, classes, self.dropout)

    @property
    def _units(self) -> int:
        return max(8, round(self.hidden * self.width))

    def _parts(self, info: Info) -> "dict[str, Watched | Heard]":
        from clipmill_classify.flow_network import flow_source
        from clipmill_classify.frames import FrameEncoder
        from clipmill_classify.multi_stream_network import Frames, Heard, Watched
        from clipmill_classify.recurrent_network import Recurrent
        from clipmill_classify.sound_network import SoundEncoder

        weights = None if info.restored else self.weights

        def watched(source: "nn.Module", channels: int) -> Watched:
            encoder = FrameEncoder(self.backbone, self.size, self.width, weights, channels)
            memory = Recurrent(
                encoder.features, self._units, cell="lstm", layers=self.layers,
                dropout=self.dropout, both_ways=False,
            )  # fmt: skip
            return Watched(source, encoder, memory)

        def motion() -> Watched:
            view, file = self.views()["train"], self.raft_weights
            source = flow_source(self.flow, self.raft_size, file, view, restored=info.restored)
            return watched(source, 2)

        makers: dict[str, Callable[[], Watched | Heard]] = {
            "spatial": lambda: watched(Frames(), 3),
            "motion": motion,
            "audio": lambda: Heard(SoundEncoder(self.bands, self.width)),
        }
        return {name: makers[name]() for name in makers if name in self.streams}
