"""What is known of an input video before it is opened: where it lies and what it shows.

Plain data that travels as JSON between processes. Knows no layout and no video.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Span:
    """A class that holds for a part of a video, in the video's own time."""

    label: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Box:
    """Where something is at one moment, as shares of the picture's width and height."""

    seconds: float
    x: float  # of the left edge
    y: float  # of the upper edge
    width: float
    height: float
    label: str | None = None
    identity: str | None = None


@dataclass(frozen=True)
class Source:
    """An input video, or a part of one, or a member of someone's tar."""

    path: str  # a local path or an URI; of the tar, if it is a member
    label: str | None = None
    split: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    labels: tuple[str, ...] = ()  # where a video has several classes
    identity: str | None = None
    group: str | None = None  # what shares a group never parts between splits
    start_seconds: float | None = None  # None: from its beginning
    end_seconds: float | None = None  # None: to its end
    spans: tuple[Span, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: str | None = None  # a folder or zip of PNGs, or a video, of a mask for each frame
    mask_classes: tuple[str, ...] = ()  # the names of 1, 2, ... in the masks
    mask_colours: Mapping[str, int] = field(default_factory=dict)  # of painted ones; in JSON, names
    member: str | None = None  # name within a tar, with where its bytes lie
    offset: int | None = None
    length: int | None = None
    left_out: str = ""  # why its layout does not use it (counted as filtered)
    repeat: int = 0  # how often the same was listed before

    @property
    def name(self) -> str:
        """The name that tells it from every other source, for ledgers and errors."""
        name = f"{self.path}#{self.member}" if self.member else self.path
        if self.start_seconds is not None or self.end_seconds is not None:
            end = "" if self.end_seconds is None else self.end_seconds
            name += f"@{self.start_seconds or 0}-{end}"
        return f"{name} ({self.repeat + 1})" if self.repeat else name


def told_apart(sources: Iterable[Source]) -> list[Source]:
    """Number those that are listed more than once."""
    seen: dict[str, int] = {}
    apart = []
    for source in sources:
        count = seen[source.name] = seen.get(source.name, -1) + 1
        apart.append(replace(source, repeat=count) if count else source)
    return apart


def revived(plain: Mapping[str, Any]) -> Source:
    """A source from plain data."""
    spans = tuple(Span(**span) for span in plain.get("spans", ()))
    boxes = tuple(Box(**box) for box in plain.get("boxes", ()))
    names = {name: tuple(plain.get(name, ())) for name in ("labels", "mask_classes")}
    return Source(**{**plain, **names, "spans": spans, "boxes": boxes})
