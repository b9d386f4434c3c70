"""Audio-visual correspondence: do this picture and this sound belong together?

Arandjelovic and Zisserman, "Look, Listen and Learn", 2017. The sound is compared with every place
of the picture, as in their "Objects that Sound", 2018, so that the network also tells where it
comes from. Each take is a pair that belongs together and one that does not, planned over all
records: the sound of another video, or of the same one far in time, so that neither a file's
noises nor its loudness, which is evened out, give the answer away. In training the picture of that
other moment is there, too: with the same two sounds it makes another pair of each kind.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipmill import video
from clipmill.plugin import (
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
    beside,
)
from clipmill_pretext.kinds import ASKED, EACH, KindTask, is_far, joined, video_number
from clipmill_pretext.moments import Against, against, against_evenly, frames_of, spans
from clipmill_pretext.pretext import Pretext
from clipmill_pretext.records import shorter_than, silent

if TYPE_CHECKING:
    import torch

SOUND = "sound"  # the view of spans that are only heard
SOUND_FRAMES = 32  # that a span of sound is told in; none is decoded
SMALLEST_SIDE = 8  # pixels, of pictures that are not decoded
LOUDNESS, LEAST_LOUDNESS = 0.1, 1e-4  # root mean squares: of all sounds, and what is still silence
SCORES, SCORES_FASTER = ("scale", "bias"), 10.0  # weights of the network, and their rate


class AudioVisual(Pretext):
    """Does this sound belong to this picture, and to which place of it?"""

    name: ClassVar[str] = "audio_visual"
    paper: ClassVar[str] = "Arandjelovic and Zisserman, Look, Listen and Learn, 2017"
    todo: ClassVar[str] = "lower the learning rate, or model.far_share"

    backbone: str = Field("resnet18", description="a convolutional network of torchvision, by name")
    size: int = Field(224, ge=32, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=32, description="short side before the crop, in pixels")
    sound_seconds: float = Field(1.0, gt=0.1, description="of sound, about the picture's moment")
    audio_rate: int = Field(16_000, ge=1000, description="sound samples a second")
    bands: int = Field(64, ge=8, description="mel bands of the spectrogram")
    window_seconds: float = Field(
        0.025, ge=0.005, description="of sound in a step of its spectrogram"
    )
    step_seconds: float = Field(0.01, ge=0.001, description="from one step to the next")
    far_seconds: float = Field(
        1.0, gt=0, description="the least between sounds of one video that do not belong together"
    )
    far_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="of the sounds that do not belong: from the same video far in time, the hardest "
        "to tell; the rest are of other videos, as are all in a test where this is 0",
    )
    gain_decibels: float = Field(
        10.0, ge=0, description="louder or softer in training, at most, once all are as loud"
    )
    embedding: int = Field(128, ge=2, description="numbers in which places and sounds are compared")
    contrast: float = Field(
        1.0,
        ge=0,
        description="weight of telling a picture's own sound from all others of the batch; 0 is "
        "the pairs of the paper alone",
    )
    test_crops: Literal[1] = Field(1, description="the middle of a picture is what is tested")
    weights: Place | None = Field(None, description="file of backbone weights; nothing is fetched")
    fits: Literal["single_frame", "cnn_rnn", "multi_stream"] = Field(
        "single_frame", description="the classifier that the backbone is meant for"
    )

    @property
    def chance(self) -> float:
        """Half of the pairs belong together."""
        return 0.5

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The classifier with this backbone on frames; multi_stream has the one of sound, too."""
        made = {name: getattr(self, name) for name in ("backbone", "width", "size", "resize")}
        if self.fits == "multi_stream":
            sound = ("bands", "audio_rate", "window_seconds", "step_seconds")
            made |= {name: getattr(self, name) for name in sound}
            made |= {"streams": ("spatial", "audio")}
        return self.fits, made

    def protocol(self) -> dict[str, Any]:
        """What of a video is tested."""
        return {**super().protocol(), "sound_seconds": self.sound_seconds}

    def views(self) -> Mapping[str, View]:
        """One picture, and spans of sound that are as long whatever the record's rate."""
        sound = self.view(
            SOUND_FRAMES, streams=("audio",), rate=SOUND_FRAMES / self.sound_seconds,
            size=SMALLEST_SIDE, resize=SMALLEST_SIDE, augment=(), audio_rate=self.audio_rate,
        )  # fmt: skip
        return {"train": self.view(1), "test": self.view(1), SOUND: sound}

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Those without sound, and those shorter than a span of it."""
        return {**silent(catalog), **shorter_than(catalog, self.sound_seconds)}

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """A picture, the sound about it, and a sound that does not belong to it.

        In training also the picture that this other sound belongs to.
        """
        length = frames_of(catalog, self.sound_seconds)
        gap = np.maximum(length, frames_of(catalog, self.far_seconds))
        if stage == "train":
            made = against(catalog, draw, length=length, gap=gap, far_share=self.far_share)
            return _takes(catalog, "train", made, length)
        made = against_evenly(
            catalog, draw, clips=self.test_clips, length=length, gap=gap, far_share=self.far_share
        )
        return _takes(catalog, "test", made, length)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The picture, or both, and the spectrograms of both sounds, as loud as one another.

        Of a span of silence nothing is asked, though the record have sound: all silences are alike.
        """
        picture, own, other, *second = decoded.streams
        names = ("rgb", "rgb_other") if second else ("rgb",)
        seen = zip(names, (picture, *second), strict=True)
        pictures = {name: np.asarray(streams["rgb"]) for name, streams in seen}
        gains = [self._gain(rng) if decoded.stage == "train" else 1.0 for _ in range(2)]
        heard = [self._heard(each, gain) for each, gain in zip((own, other), gains, strict=True)]
        return {
            **pictures,
            "spectrogram": heard[0],
            "spectrogram_other": heard[1],
            "heard": audible(own),
            "heard_other": audible(other),
            "video": np.asarray(video_number(decoded.records[0])),
            "video_other": np.asarray(video_number(decoded.records[2])),
            "is_far": is_far(decoded, 2),
        }

    def _gain(self, rng: np.random.Generator) -> float:
        return float(10 ** (rng.uniform(-self.gain_decibels, self.gain_decibels) / 20))

    def _heard(self, streams: Mapping[str, NDArray[Any]], gain: float) -> NDArray[np.float32]:
        """The spectrogram of a sound at one loudness; what is silent stays so."""
        even = evened(np.asarray(streams["audio"], np.float32)) * np.float32(gain)
        return video.log_mel(
            even, self.audio_rate, bands=self.bands,
            window_seconds=self.window_seconds, step_seconds=self.step_seconds,
        )  # fmt: skip

    def build(self, info: Info) -> "torch.nn.Module":
        """Make both towers, and what compares places with sounds."""
        from clipmill_classify.frames import FrameEncoder
        from clipmill_classify.sound_network import SoundEncoder
        from clipmill_pretext.audio_visual_network import AudioVisualNetwork

        weights = None if info.restored else self.weights
        return AudioVisualNetwork(
            FrameEncoder(self.backbone, self.size, self.width, weights),
            SoundEncoder(self.bands, self.width),
            size=self.size,
            embedding=self.embedding,
            contrast=self.contrast,
        )

    def optimizer(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """AdamW, with steps of their own for the two numbers that make cosines to scores.

        A step of Adam is as long as the rate: at a network's they would hardly leave their place.
        """
        from torch.optim import AdamW

        named = {name: each for name, each in model.named_parameters() if each.requires_grad}
        of_scores = [each for name, each in named.items() if name in SCORES]
        others = [each for name, each in named.items() if name not in SCORES]
        groups: list[dict[str, Any]] = [
            {"params": others},
            {"params": of_scores, "lr": self.learning_rate * SCORES_FASTER, "weight_decay": 0.0},
        ]
        return AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """Each question with its kind, and of each picture where its sound comes from."""
        told = joined(outputs, (*EACH, ASKED, "heat", "together"))
        return {**told, "heat_frames": np.asarray(takes.first[:, 0], np.int64)}

    def meter(self) -> Meter:
        """The share of pairs that are told rightly, by where the wrong sounds come from."""
        return KindTask(self.chance, own_accuracy="right")


def evened(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """A sound as loud as any other: loudness alone often tells a file."""
    factor = LOUDNESS / max(_loudness(samples), LEAST_LOUDNESS)
    return np.asarray(samples * np.float32(factor), np.float32)


def audible(streams: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """1 where a span has sound that is not silence."""
    is_loud = _loudness(np.asarray(streams["audio"], np.float32)) > LEAST_LOUDNESS
    return np.asarray(streams["heard"] * np.float32(is_loud), np.float32)


def _loudness(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0


def _takes(catalog: Catalog, view: str, made: Against, length: NDArray[np.int64]) -> Takes:
    """Spans of pictures in the middle of the sounds that belong to them."""
    own, other = length[made.record], length[made.other_record]
    last = catalog.column("frames") - 1
    seen = spans(view, made.record, np.minimum(made.first + own // 2, last[made.record]))
    heard = spans(SOUND, made.record, made.first, own)
    heard_other = spans(SOUND, made.other_record, made.other_first, other)
    if view != "train":
        return beside([seen, heard, heard_other])
    middle = np.minimum(made.other_first + other // 2, last[made.other_record])
    return beside([seen, heard, heard_other, spans(view, made.other_record, middle)])
