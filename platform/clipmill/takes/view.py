"""Views: what a plugin wants to see of a span of video.

Values only; knows neither takes nor how anything is decoded.
"""

from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Stream = Literal["rgb", "flow", "audio", "motion", "mask", "instances", "features"]
Augmentation = Literal[
    "crop", "resized_crop", "flip", "color", "grey", "blur", "erase", "mixup", "cutmix",
    "reverse", "jitter",
]  # fmt: skip
MIXERS: frozenset[Augmentation] = frozenset({"mixup", "cutmix"})  # of two videos and their classes


class View(BaseModel):
    """What a plugin wants to see of a span of video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: tuple[Stream, ...] = Field(("rgb",), description="what to decode")
    frames: int = Field(16, ge=1, description="frames of a clip")
    rate: float = Field(5.0, gt=0, description="frames a second")
    size: int = Field(112, ge=8, description="height and width of the frames, in pixels")
    resize: int = Field(128, ge=8, description="short side before the crop, in pixels")
    mean: tuple[float, float, float] = Field((0.45, 0.45, 0.45), description="taken off, of 1")
    std: tuple[float, float, float] = Field((0.225, 0.225, 0.225), description="divided by, of 1")
    augment: tuple[Augmentation, ...] = Field(
        ("crop",), description="what keeps the labels true; `crop` is a random place in training"
    )
    crop_area: tuple[float, float] = Field(
        (0.4, 1.0), description="share of the frame that `resized_crop` keeps, from and to"
    )
    crop_aspect: tuple[float, float] = Field(
        (0.75, 1.3333), description="width by height of what `resized_crop` keeps, from and to"
    )
    audio_rate: int = Field(16_000, ge=1000, description="sound samples a second")
    features: int = Field(512, ge=1, description="numbers in each row of the stream `features`")

    @model_validator(mode="after")
    def _fits(self) -> "View":
        if self.resize < self.size:
            raise ValueError(f"resize {self.resize} of at least size {self.size}")
        return self

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _rises(cls, told: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        most = 1.0 if info.field_name == "crop_area" else float("inf")
        low, high = told
        if not (0 < low <= high <= most and isfinite(high)):
            upper = " and at most 1" if isfinite(most) else ""
            raise ValueError(f"from {low:g} to {high:g}: two rising numbers above 0{upper}")
        return told

    def span_frames(self, fps: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many frames of a record, at its own rate, lie from the first to the last seen."""
        return np.maximum(1, np.rint((self.frames - 1) * fps / self.rate).astype(np.int64) + 1)
