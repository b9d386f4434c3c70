"""Views, takes and the sampling of takes: arrays in, arrays out.

A take is one training example to be: a list of (record, view, first frame, last frame) and a
seed of its own. Chance is counter-based (a hash of seed, epoch, name and position), so that
takes can be drawn for any part of an epoch, anywhere, alike. Knows neither video nor torch.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Stream = Literal["rgb", "flow", "audio", "mask"]
Augmentation = Literal["crop", "flip"]
Stage = Literal["train", "val", "test"]


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

    @model_validator(mode="after")
    def _fits(self) -> "View":
        if self.resize < self.size:
            raise ValueError(f"resize {self.resize} of at least size {self.size}")
        return self

    def span_frames(self, fps: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many frames of a record, at its own rate, lie from the first to the last seen."""
        return np.maximum(1, np.rint((self.frames - 1) * fps / self.rate).astype(np.int64) + 1)


@dataclass(frozen=True)
class Takes:
    """A table of takes; spans that a take does not have are records of -1."""

    views: tuple[str, ...]
    record: NDArray[np.int64]  # [takes, spans], rows of the catalog
    view: NDArray[np.int8]  # [takes, spans], places in `views`
    first: NDArray[np.int64]  # [takes, spans], frame numbers
    last: NDArray[np.int64]
    seed: NDArray[np.uint64]  # [takes]

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> "Takes":
        return replace(
            self,
            record=self.record[which],
            view=self.view[which],
            first=self.first[which],
            last=self.last[which],
            seed=self.seed[which],
        )

    def digest(self, place: int, keys: Sequence[str]) -> bytes:
        """Hash one take by what it is; `keys` are the keys of its records."""
        spans = zip(
            keys, self.view[place], self.first[place], self.last[place], self.record[place],
            strict=True,
        )  # fmt: skip
        told = [f"{k}:{self.views[v]}:{a}:{b}" for k, v, a, b, r in spans if r >= 0]
        return hashlib.sha256(f"{';'.join(told)}#{self.seed[place]}".encode()).digest()


def joined(parts: Sequence[Takes]) -> Takes:
    """Put tables of the same views one behind the other."""
    columns = ("record", "view", "first", "last", "seed")
    return Takes(parts[0].views, *(np.concatenate([getattr(p, c) for p in parts]) for c in columns))


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finaliser of splitmix64: every input bit reaches every output bit.
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@dataclass(frozen=True)
class Draw:
    """Chance for one epoch: the same name and position always give the same number."""

    seed: int
    epoch: int = 0

    def bits(self, name: str, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """64 random bits a position."""
        salt = hashlib.sha256(f"{self.seed}:{self.epoch}:{name}".encode()).digest()[:8]
        with np.errstate(over="ignore"):
            steps = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            return _mixed(_mixed(steps + np.frombuffer(salt, np.uint64)[0]))

    def uniform(self, name: str, count: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), one a position."""
        bits = self.bits(name, np.arange(count))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, name: str, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Whole numbers from 0 up to and without each limit."""
        return np.minimum(np.floor(self.uniform(name, len(limits)) * limits), limits - 1).astype(
            np.int64
        )


def generator(seed: int, name: str = "") -> np.random.Generator:
    """A generator of its own for one take; only for use inside `sample`."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def _table(
    view: str, record: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> Takes:
    column = (slice(None), None)
    seeds = np.zeros(len(record), np.uint64)  # the plan gives the seeds, by position
    views = np.zeros((len(record), 1), np.int8)
    return Takes((view,), record[column], views, first[column], last[column], seeds)


def random_spans(
    frames: NDArray[np.int64], fps: NDArray[np.float64], view: View, draw: Draw, name: str = "train"
) -> Takes:
    """One span a record, at a random place; a record shorter than the span starts at 0."""
    length = view.span_frames(fps)
    first = draw.below("start", np.maximum(1, frames - length + 1))
    last = first + length - 1
    return _table(name, np.arange(len(frames)), first, last)


def even_spans(
    frames: NDArray[np.int64],
    fps: NDArray[np.float64],
    view: View,
    clips: int,
    name: str = "test",
) -> Takes:
    """`clips` spans a record, evenly spread from its start to its end, record by record."""
    length = np.repeat(view.span_frames(fps), clips)
    record = np.repeat(np.arange(len(frames)), clips)
    share = np.tile(np.linspace(0, 1, clips) if clips > 1 else np.array([0.5]), len(frames))
    room = np.maximum(0, frames[record] - length)
    first = np.floor(room * share).astype(np.int64)
    return _table(name, record, first, first + length - 1)


def frame_numbers(first: int, last: int, count: int, available: int) -> NDArray[np.int64]:
    """The frames of a span that a view shows; past the end the last frame stands still."""
    numbers = np.rint(np.linspace(first, last, count)).astype(np.int64)
    return np.minimum(numbers, available - 1)


def crop_box(
    height: int, width: int, size: int, seed: int, random: bool
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop: by the take's seed, or the middle."""
    rooms = max(0, height - size), max(0, width - size)
    if random:
        share = Draw(seed).uniform("crop", 2)
        top, left = (min(int(s * (room + 1)), room) for s, room in zip(share, rooms, strict=True))
    else:
        top, left = rooms[0] // 2, rooms[1] // 2
    return top, left, min(size, height), min(size, width)
