"""The profiles in which a record's video is stored, and what is told of a video that was.

Values only; knows nothing of files.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from clipmill.errors import UsageError

Name = Literal["training", "keep", "frames", "raw"]

LONGEST_KEY_INTERVAL = 30  # frames; longer ones cost seeks, shorter ones hardly pay


@dataclass(frozen=True)
class Profile:
    """How a video is stored; all fields but the name are of profiles that write pictures anew."""

    name: Name = "training"
    short_side: int = 256  # pixels; smaller videos keep their size
    rate: float = 30.0  # frames a second
    k: int = 6  # training: every k-th frame is a reference
    crf: int = 20  # training: quality of x264, lower is better
    quality: int = 4  # frames: coarseness of JPEG, 2 is best, 31 worst

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise UsageError(f"profile {self.name!r}", f"one of {', '.join(get_args(Name))}")
        if not (1 <= self.k <= 17 and self.short_side >= 16 and 0 < self.rate <= 1000):
            raise UsageError(f"{self}", "k of 1 to 17, short_side from 16, rate above 0")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"crf={self.crf}", "0 to 51")
        if not 2 <= self.quality <= 31:
            raise UsageError(f"quality={self.quality}", "2 to 31")

    def x264(self) -> dict[str, str]:
        """Give the encoder's settings that make the ladder."""
        interval = self.k * max(1, LONGEST_KEY_INTERVAL // self.k)
        ladder = "b-pyramid=none:b-adapt=0:scenecut=0:open-gop=1"  # closed: one more reference
        return {
            "preset": "veryfast",
            "tune": "fastdecode",
            "crf": str(self.crf),
            "bf": str(self.k - 1),
            "g": str(interval),
            "keyint_min": str(interval),
            "sc_threshold": "0",
            "x264-params": ladder,
        }


PROFILES = MappingProxyType(
    {
        "training": Profile("training"),  # cheapest to decode of all that stay small
        "keep": Profile("keep"),  # the stream as it is
        "frames": Profile("frames"),  # a JPEG a frame: no frame leans on another
        "raw": Profile("raw"),  # RGB: nothing to decode
    }
)


@dataclass(frozen=True, eq=False)
class Transcoded:
    """A video as stored."""

    suffix: str  # its container's, without a dot
    width: int  # as shown
    height: int
    fps: float
    frames: int
    frames_from: Literal["decode", "packets"]
    duration_seconds: float
    source_times_seconds: npt.NDArray[np.float64]  # since the source's first frame
    has_audio: bool
    corrupt_frames: int  # packets that did not decode and frames that decoded damaged
    faults: tuple[str, ...]
