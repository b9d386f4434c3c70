"""Masked video modelling: of a clip of which a tenth is shown, tell the rest.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners", 2022. Places are hidden
in all moments alike (tubes), so that what is hidden cannot be copied from a moment before. The
encoder is the classifier `transformer` with joint attention, and sees the shown tokens alone.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from clipmill.plugin import Catalog, Decoded, Info, Meter, Sample, View
from clipmill_pretext.health import told
from clipmill_pretext.pretext import Pretext, chance_of
from clipmill_pretext.reconstruction_meter import METRIC, ReconstructionMeter, hardest
from clipmill_pretext.records import shorter_than

if TYPE_CHECKING:
    import torch


class MaskedVideo(Pretext):
    """A video transformer that sees a few tubes of a clip, and a decoder that tells the others."""

    name: ClassVar[str] = "masked_video"
    paper: ClassVar[str] = "Tong et al., VideoMAE, 2022"
    metric: ClassVar[str] = METRIC
    higher_is_better: ClassVar[bool] = False
    small: ClassVar[Mapping[str, Any]] = {
        "width": 0.5, "depth": 2, "heads": 2, "decoder_depth": 1, "decoder_width": 1.0, "patch": 16,
        "frames": 4, "size": 32, "resize": 36, "learning_rate": 0.005,
    }  # fmt: skip

    width: float = Field(1.0, gt=0, le=4, description="multiplies the features of a head")
    depth: int = Field(12, ge=1, description="blocks of the encoder")
    heads: int = Field(12, ge=1, description="attention heads; each has 64 features at width 1")
    patch: int = Field(16, ge=1, description="height and width of a token's patch, in pixels")
    tubelet: int = Field(2, ge=1, description="frames of a token")
    frames: int = Field(16, ge=1, description="frames of a clip")
    rate: float = Field(7.5, gt=0, description="frames a second")
    size: int = Field(224, ge=16, description="height and width of the frames, in pixels")
    resize: int = Field(256, ge=16, description="short side before the crop, in pixels")
    hidden: float = Field(0.9, gt=0, lt=1, description="share of the places that is hidden")
    decoder_depth: int = Field(4, ge=1, description="blocks of the decoder")
    decoder_width: float = Field(
        0.5, gt=0, le=1, description="heads of the decoder, as a share of the encoder's"
    )
    learning_rate: float = Field(3e-4, gt=0, description="of AdamW")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % self.patch:
            raise ValueError(f"a size that is a multiple of patch {self.patch}")
        if self.frames % self.tubelet:
            raise ValueError(f"frames that are a multiple of tubelet {self.tubelet}")
        if self.size // self.patch < 2:
            raise ValueError(f"a size of two patches of {self.patch} at the least")
        return self

    def downstream(self) -> tuple[str, dict[str, Any]]:
        """The transformer whose tokens attend to all at once."""
        names = ("width", "depth", "heads", "patch", "tubelet", "frames", "rate", "size", "resize")
        fields = {name: getattr(self, name) for name in names}
        return "transformer", {"attention": "joint", **fields}

    def views(self) -> Mapping[str, View]:
        """One clip."""
        return {"train": self.view(self.frames), "test": self.view(self.frames)}

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Videos that would stand still for most of a clip."""
        return shorter_than(catalog, self.frames / self.rate / 2)

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """The clip, and which of its places are shown and which are hidden."""
        shown, hidden = parted((self.size // self.patch) ** 2, self.hidden, chance_of(decoded, rng))
        return {**super().sample(decoded, rng), "shown": shown, "hidden": hidden}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the encoder of the classifiers, and a light decoder."""
        from clipmill_classify.transformer_network import JointEncoder, Shape
        from clipmill_pretext.masked_video_network import Decoder, MaskedVideoNetwork

        shape = Shape(
            self.frames, self.size, self.patch, self.tubelet, self.depth, self.heads, self.width
        )
        heads = max(1, round(self.heads * self.decoder_width))
        encoder = JointEncoder(shape, dropout=0.0, weights=None)
        return MaskedVideoNetwork(encoder, Decoder(shape, self.decoder_depth, heads), shape)

    def meter(self) -> Meter:
        """What measures the hidden tubelets that were told."""
        return ReconstructionMeter()

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """Whether the hidden is told better than by the best answer that needs no network."""
        if self.metric not in metrics:
            return None
        ratio = hardest(metrics)
        return told(metrics, ratio, chance=1.0, higher_is_better=False, todo=self.todo)


def parted(
    places: int, hidden: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the places that are shown and of those that are hidden, one of each at least."""
    shown = min(places - 1, max(1, round(places * (1 - hidden))))
    drawn = rng.permutation(places)
    return np.sort(drawn[:shown]), np.sort(drawn[shown:])
