"""What a model looks at in a video that is no record of ours: planned, decoded, and told.

Free of torch, so that a process of its own may do it: what that is asked and what it answers
travel as plain data and bytes, and are believed as little as the video is. Knows no networks.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipmill import catalog, feed, plugin, video
from clipmill.errors import TooLongError, UsageError, VideoError
from clipmill.plan import Plan
from clipmill.plugin import Plugin, Sample
from clipmill.readable import Clock
from clipmill.takes import Takes
from clipmill.video.picture import pixels

Blobs = list[bytes]
NUMBERS = "buif"  # kinds of arrays that may travel
ALIGNED_BYTES = 64
MOST_FPS = 1000.0
KEY = "video"  # that a video goes by which is no record: pretexts ask their questions by it


@dataclass(frozen=True)
class Looks:
    """What a decoder must know of a model."""

    plugin: Plugin
    classes: tuple[str, ...]
    profile: video.Profile
    seed: int
    batch: int

    def is_still(self) -> bool:
        """Whether the model looks at single frames, so that pictures will do."""
        view = self.plugin.views()["test"]
        return view.frames == 1 and not {"audio", "features"} & set(view.streams)

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "plugin": type(self.plugin).name,
            "fields": self.plugin.model_dump(mode="json"),
            "classes": list(self.classes),
            "profile": asdict(self.profile),
            "seed": self.seed,
            "batch": self.batch,
        }


def looks_of(plain: Mapping[str, Any]) -> Looks:
    """Make it of plain data again."""
    made = plugin.make(plain["plugin"], plain["fields"])
    profile = video.Profile(**plain["profile"])
    return Looks(made, tuple(plain["classes"]), profile, plain["seed"], plain["batch"])


@dataclass(frozen=True)
class Bounds:
    """How much of a video is looked at; more is refused."""

    seconds: float = 600.0
    frames: int = 100_000
    decoded_bytes: int = 512 << 20


@dataclass(frozen=True)
class Seen:
    """What was found in a video: its frames as a model counts them, and what it is told to be."""

    frames: int
    fps: float
    height: int
    width: int
    input: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A video that is decoded, or is when its batches are taken, before the network sees it."""

    takes: Takes
    batches: Iterable[Sample]
    told: dict[str, Any]  # the spans in seconds, and what the input is
    clock: Clock
    part: dict[str, float]  # what of the picture is seen, in shares of its sides


def looked_at(
    looks: Looks,
    source: video.Source,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    bounds: Bounds | None = None,
) -> Asked:
    """Plan what to see of a video, decoded a batch at a time: all of a long one may be asked for."""
    info = video.probe(source)
    rate = None if _conforms(info, looks.profile) else looks.profile.rate
    fps = rate or info.fps
    if bounds:
        _check(bounds, info.duration_seconds, max(info.frames, info.duration_seconds * fps))
    first = round(start_seconds * fps)
    frames = (info.frames if rate is None else video.grid_frames(info, rate)) - first
    if end_seconds is not None:
        frames = min(frames, max(1, round((end_seconds - start_seconds) * fps)))
    if frames < 1:
        raise VideoError(f"a part from {start_seconds:g} s on", f"{info.duration_seconds:g} s")
    footage = _From(feed.OfFile(source, rate), first, fps) if first else feed.OfFile(source, rate)
    return _asked(looks, Seen(frames, fps, info.height, info.width, _told(info)), footage)


def stills(looks: Looks, files: Sequence[bytes]) -> Asked:
    """The same for pictures, as if they were the frames of a video; for models of single frames."""
    if not looks.is_still():
        name = type(looks.plugin).name
        raise UsageError(f"pictures for {name}, which looks at more than that", "a video")
    pictures = [pixels(data) for data in files]
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        raise VideoError("pictures of several sizes", "one size, as of frames of a video")
    ((height, width),) = sizes
    rate = looks.profile.rate
    told = {
        "frames": len(pictures), "fps": rate, "duration_seconds": len(pictures) / rate,
        "width": width, "height": height,
    }  # fmt: skip
    return _asked(looks, Seen(len(pictures), rate, height, width, told), feed.OfPictures(pictures))


def _check(bounds: Bounds, seconds: float, frames: float) -> None:
    if not seconds <= bounds.seconds:
        raise TooLongError(f"a video of {seconds:.0f} s", f"at most {bounds.seconds:g} s", "cut it")
    if not frames <= bounds.frames:
        raise TooLongError(f"{frames:.0f} frames", f"at most {bounds.frames}", "cut it")


def _asked(looks: Looks, seen: Seen, footage: feed.Footage | None) -> Asked:
    plan = _plan_of(looks, seen)
    takes = plan.epoch(0)
    if not len(takes):
        raise VideoError(f"a video of which {type(looks.plugin).name} looks at nothing", "another")
    batches = _batches(plan, takes, footage) if footage else iter(())
    told = {"spans": _spans(takes, seen), "input": seen.input}
    return Asked(takes, batches, told, Clock(seen.fps, seen.frames), _part(looks.plugin, seen))


def _part(plugin: Plugin, seen: Seen) -> dict[str, float]:
    """The middle of the picture, as views are cut at test."""
    view = plugin.views()["test"]
    left, top, right, bottom = feed.part_seen(view, "test", seen.height, seen.width)
    return {"left": left, "top": top, "right": right, "bottom": bottom}


def _batches(plan: Plan, takes: Takes, footage: feed.Footage) -> Iterator[Sample]:
    for first in range(0, len(takes), plan.batch):
        places = range(first, min(first + plan.batch, len(takes)))
        yield feed.collated(plan.plugin, [_sample(plan, takes, at, footage) for at in places])


@dataclass(frozen=True)
class _From:
    """A footage from one of its frames on."""

    inner: feed.Footage
    first: int
    fps: float

    def pictures(
        self,
        numbers: NDArray[np.int64],
        short_side: int,
        crop: tuple[int, int, int, int],
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """The frames of these numbers, scaled and cut."""
        return self.inner.pictures(numbers + self.first, short_side, crop, out)

    def flow(
        self, numbers: NDArray[np.int64], short_side: int, crop: tuple[int, int, int, int]
    ) -> NDArray[np.int8] | None:
        """The flow from each of these frames to the next, where it is kept."""
        return self.inner.flow(numbers + self.first, short_side, crop)

    def masks(
        self, numbers: NDArray[np.int64], short_side: int, crop: tuple[int, int, int, int]
    ) -> video.Masks:
        """The masks of these frames, scaled and cut as they are."""
        return self.inner.masks(numbers + self.first, short_side, crop)

    def features(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """The features that were computed of these frames."""
        return self.inner.features(numbers + self.first)

    def has_sound(self) -> bool:
        """Whether there is a sound track at all."""
        return self.inner.has_sound()

    def sound(self, start_seconds: float, end_seconds: float, rate: int) -> NDArray[np.float32]:
        """The sound of exactly this span."""
        before = self.first / self.fps
        return self.inner.sound(start_seconds + before, end_seconds + before, rate)


def _conforms(info: video.VideoInfo, profile: video.Profile) -> bool:
    """Whether the video is as our profile makes it, so that its own frames are the grid."""
    if profile.name == "keep":
        return True
    steady = not info.variable_rate and abs(info.fps - profile.rate) < 1e-6
    return steady and info.rotation == 0 and info.frames_from == "packets" and not info.faults


def _plan_of(looks: Looks, seen: Seen) -> Plan:
    """A plan over a catalog of this one video."""
    row = {
        "key": KEY, "shard": "", "sha256": "", "split": "test", "members": [],
        "frames": seen.frames, "fps": seen.fps, "height": seen.height, "width": seen.width,
    }  # fmt: skip
    plain = {name: row.get(name) for name in catalog.SCHEMA.names}
    table = pa.Table.from_pylist([plain], schema=catalog.SCHEMA)
    part = catalog.Catalog("", table, {"classes": list(looks.classes)})
    return Plan(part, looks.plugin, "test", looks.seed, looks.batch)


def _sample(plan: Plan, takes: Takes, place: int, footage: feed.Footage) -> Sample:
    made = feed.sample(plan.plugin, plan.lot(takes), place, footage=footage)
    told = {
        "position": np.int64(place),
        "seed": takes.seed[place],
        "digest": np.zeros(32, np.uint8),
    }
    return {**made, **told}


def _spans(takes: Takes, seen: Seen) -> list[dict[str, float]]:
    """Where they lie in the video; a clip that is longer than that sees its last frame stand."""
    bounds = np.stack([takes.first[:, 0], takes.last[:, 0] + 1], 1)
    seconds = np.minimum(bounds, seen.frames) / seen.fps
    return [{"start_seconds": start, "end_seconds": end} for start, end in seconds.tolist()]


def _told(info: video.VideoInfo) -> dict[str, Any]:
    return {
        "frames": info.frames,
        "fps": info.fps,
        "duration_seconds": info.duration_seconds,
        "width": info.width,
        "height": info.height,
    }


# --- in a process of its own


def request(looks: Looks, bounds: Bounds, kind: str) -> dict[str, Any]:
    """What to ask that process, beside the bytes of a video, or of pictures."""
    return {"looks": json.dumps(looks.plain()), "bounds": asdict(bounds), "kind": kind}


def decode(asked: Mapping[str, Any], blobs: Blobs) -> tuple[dict[str, Any], Blobs]:
    """What that process does: look, and give every batch as bytes."""
    looks = _looks_of(asked["looks"])
    if asked["kind"] == "warm":
        return {}, []
    bounds = Bounds(**asked["bounds"])
    if asked["kind"] == "video":
        found = looked_at(looks, blobs[0], bounds=bounds)
    else:
        found = stills(looks, blobs)
    parts: list[list[Any]] = []
    made: Blobs = []
    total = 0
    for batch in found.batches:
        columns, data = _packed(batch)
        total += len(data)
        if total > bounds.decoded_bytes:
            raise TooLongError(
                f"more than {bounds.decoded_bytes >> 20} MiB to look at", "a shorter video"
            )
        parts.append(columns)
        made.append(data)
    clock = {"frames": found.clock.frames, "fps": found.clock.fps}
    return {"input": found.told["input"], "clock": clock, "batches": parts}, made


@functools.lru_cache(maxsize=16)
def _looks_of(text: str) -> Looks:
    return looks_of(json.loads(text))


def _packed(batch: Sample) -> tuple[list[Any], bytes]:
    told: list[Any] = []
    data = bytearray()
    for name, column in batch.items():
        column = np.ascontiguousarray(column)
        told.append([name, column.dtype.str, list(column.shape), len(data)])
        data += column.tobytes()
        data += bytes(-len(data) % ALIGNED_BYTES)
    return told, bytes(data)


def received(looks: Looks, bounds: Bounds, plain: Mapping[str, Any], blobs: Blobs) -> Asked:
    """What that process has answered; a hostile video may have had it say anything."""
    try:
        seen = _seen(plain, bounds)
        asked = _asked(looks, seen, None)
        parts = zip(plain["batches"], blobs, strict=True)
        batches = [_unpacked(told, data) for told, data in parts]
        at = 0
        for batch in batches:
            count = len(batch["seed"])
            batch["position"] = np.arange(at, at + count)
            at += count
        if at != len(asked.takes) or any(not _is_even(batch) for batch in batches):
            raise ValueError("not the takes that were asked for")
    except Exception as error:  # numpy parses what it is told, and raises much: SyntaxError, too
        raise VideoError(f"the decoder answered what is no answer ({error})", "a video") from error
    return replace(asked, batches=batches)


def _seen(plain: Mapping[str, Any], bounds: Bounds) -> Seen:
    told = {name: float(plain["input"][name]) for name in ("fps", "duration_seconds")}
    counts = {name: int(plain["input"][name]) for name in ("frames", "width", "height")}
    frames, fps = int(plain["clock"]["frames"]), float(plain["clock"]["fps"])
    is_sound = all(map(math.isfinite, told.values())) and 0 < fps <= MOST_FPS
    if not (is_sound and 0 < frames <= bounds.frames and min(counts.values()) > 0):
        raise ValueError("numbers that no video has")
    both = {**counts, **told}
    order = ("frames", "fps", "duration_seconds", "width", "height")
    return Seen(
        frames, fps, counts["height"], counts["width"], {name: both[name] for name in order}
    )


def _unpacked(told: Sequence[Any], data: bytes) -> Sample:
    made: Sample = {}
    for name, kind, shape, offset in told:
        dtype = np.dtype(kind)
        if dtype.kind not in NUMBERS or min(shape, default=0) < 0:
            raise ValueError(f"{name} of {kind}")
        count = math.prod(shape)
        made[str(name)] = np.frombuffer(data, dtype, count, offset).reshape(shape)
    return made


def _is_even(batch: Sample) -> bool:
    return len({len(column) for column in batch.values()}) == 1
