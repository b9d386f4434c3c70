"""What an ingest was asked for: one frozen value, plain data in `dataset.json`.

Knows what the choices are, not how they are carried out.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clipmill import video
from clipmill.errors import UsageError

MEASURES = ("motion", "motion_curve", "brightness", "sharpness", "silence", "shots", "phash")


@dataclass(frozen=True)
class Options:
    """The choices of an ingest; all but the limits decide what is in the dataset."""

    layout: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the table's
    fold: int = 1  # which official split, where a set has several
    profile: video.Profile = field(default_factory=video.Profile)
    where: str | None = None
    measures: tuple[str, ...] = ()
    split_seconds: float | None = None
    split_shots: bool = False
    max_corrupt_frames: int = 0
    check: bool = False  # decode all of what is kept as it is
    flow: bool = False  # keep the flow beside each video, as a member
    background: str | None = None  # class of the frames that no span covers
    memory_bytes: int = 4 << 30  # of a decoder
    seconds_a_second: float = 30.0  # of work for a second of video, at most

    def __post_init__(self) -> None:
        if unknown := set(self.measures) - set(MEASURES):
            raise UsageError(f"measures {sorted(unknown)}", f"of {', '.join(MEASURES)}")
        if self.split_seconds is not None and not self.split_seconds >= 0.5:
            raise UsageError(f"records of {self.split_seconds} s", "0.5 s or more")
        if self.split_seconds is not None and self.split_shots:
            raise UsageError("--split-seconds and --split-shots", "one of the two")
        if self.background is not None and not self.background.strip():
            raise UsageError("a background without a name", "that of a class")
        if self.max_corrupt_frames < 0:
            raise UsageError(f"max_corrupt_frames={self.max_corrupt_frames}", "0 or more")
        if self.profile.name == "keep" and (self.split_seconds or self.split_shots):
            raise UsageError(
                "the profile keep and cuts",
                "one of the two: keep stores streams whole",
                "use --profile training to cut",
            )

    def plain(self) -> dict[str, Any]:
        """What decides the dataset, as plain data; what is not asked for leaves no trace."""
        told = dataclasses.asdict(self)
        limits = ("memory_bytes", "seconds_a_second")
        unasked = [name for name in ("flow", "background") if not told[name]]
        return {k: v for k, v in told.items() if k not in (*limits, *unasked)}

    def travelling(self) -> dict[str, Any]:
        """All of it as plain data, for other processes."""
        return dataclasses.asdict(self)

    @property
    def look(self) -> dict[str, Any]:
        """What decides the examination of a source."""
        names = ("measures", "split_seconds", "split_shots")
        told = {name: getattr(self, name) for name in names}
        return {**told, "keep": self.profile.name == "keep"}


def revived_options(plain: Mapping[str, Any]) -> Options:
    """Options from plain data."""
    profile, measures = video.Profile(**plain["profile"]), tuple(plain["measures"])
    return Options(**{**plain, "profile": profile, "measures": measures})


def with_filter_measures(options: Options) -> Options:
    """Measure what the filter asks for, too."""
    names = set(re.findall(r"[a-z_]+", options.where or ""))
    wanted = names & set(MEASURES) | ({"phash"} if "near" in names else set())
    measures = tuple(name for name in MEASURES if name in {*options.measures, *wanted})
    return dataclasses.replace(options, measures=measures)
