"""A block of takes, from request to samples: read, decoded, sampled by the plugin.

Runs in a thread or a Ray worker alike, and never imports torch. A request holds all that is
needed, so that a decode worker loads no catalog and makes no plan. A take that cannot be decoded
is a hole with its reason, never an exception.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipmill import storage, video
from clipmill.errors import PluginError, StorageError, VideoError
from clipmill.feed.footage import Crop, Footage, Stored
from clipmill.plan import Lot
from clipmill.plugin import Decoded, Part, Plugin, Sample
from clipmill.takes import Draw, Stage, View, crop_box, frame_numbers, generator

STORE_PAUSES_SECONDS = (0.5, 2.0, 8.0)  # a store that fails is asked again after these


@dataclass(frozen=True)
class Request:
    """What a block is made from."""

    plugin: Plugin
    lot: Lot
    positions: tuple[int, ...]
    data_digest: str = ""  # of the records that the plan is over

    def __len__(self) -> int:
        return len(self.positions)

    def keys(self, place: int) -> list[str]:
        """The keys of the records of one of its takes."""
        records = self.lot.takes.record[place].tolist()
        return [str(self.lot.rows[record]["key"]) for record in records if record >= 0]

    def alone(self, place: int) -> "Request":
        """The request of one of its takes."""
        lot = replace(self.lot, takes=self.lot.takes[place : place + 1])
        return replace(self, lot=lot, positions=self.positions[place : place + 1])


@dataclass(frozen=True)
class Block:
    """Samples in the order of their takes: stacked where nothing is missing, or else one by one."""

    positions: tuple[int, ...]
    columns: Sample = field(default_factory=dict)
    samples: Sequence[Sample | None] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)  # of holes, by place
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    cached: bool = False

    def rows(self) -> list[Sample | None]:
        """Its samples one by one; None is a hole."""
        if not self.columns:
            return list(self.samples)
        names = self.columns
        return [{name: names[name][at] for name in names} for at in range(len(self.positions))]


def make(request: Request) -> Block:
    """Make a block."""
    started, cpu_started = time.perf_counter(), time.thread_time()
    memory, digests = _memory(request), request.lot.digests()
    samples: list[Sample | None] = []
    reasons: dict[int, str] = {}
    for place in range(len(request)):
        try:
            slot = None if memory is None else memory[place]
            made = _asking_again(request, place, slot)
            samples.append({**made, **_told(request, place, digests[place])})
        except VideoError as error:
            samples.append(None)
            reasons[place] = str(error)
    columns = {} if reasons else _stacked(request.plugin, samples, memory)
    return Block(
        positions=request.positions,
        columns=columns,
        samples=() if columns else samples,
        reasons=reasons,
        cpu_seconds=time.thread_time() - cpu_started,
        seconds=time.perf_counter() - started,
    )


def _told(request: Request, place: int, digest: bytes) -> Sample:
    """What travels with a sample."""
    return {
        "position": np.asarray(request.positions[place]),
        "seed": request.lot.takes.seed[place],
        "digest": np.frombuffer(digest, np.uint8),
    }


def _asking_again(request: Request, place: int, slot: NDArray[np.uint8] | None) -> Sample:
    """A take's sample; a store that fails is asked again."""
    remote = any(storage.is_remote(str(row["folder"])) for row in request.lot.rows)
    for pause in STORE_PAUSES_SECONDS if remote else ():
        try:
            return sample(request.plugin, request.lot, place, slot=slot)
        except StorageError:
            time.sleep(pause)
    return sample(request.plugin, request.lot, place, slot=slot)


def sample(
    plugin: Plugin,
    lot: Lot,
    place: int,
    *,
    footage: Footage | None = None,
    slot: NDArray[np.uint8] | None = None,
) -> Sample:
    """Read and decode one take, and let the plugin make its sample.

    `footage` stands in for the record's own; `slot` is memory that its pictures may be put into.
    """
    takes, views, seed = lot.takes, plugin.views(), int(lot.takes.seed[place])
    spans = [span for span in range(takes.record.shape[1]) if takes.record[place, span] >= 0]
    rows = [lot.rows[takes.record[place, span]] for span in spans]
    names = [takes.views[takes.view[place, span]] for span in spans]
    seen = [
        decode(
            footage or Stored(row), row, views[name], lot.stage, seed,
            span=(int(takes.first[place, at]), int(takes.last[place, at])),
            crop=int(takes.crop[place]), slot=slot if len(spans) == 1 else None,
        )
        for at, row, name in zip(spans, rows, names, strict=True)
    ]  # fmt: skip
    streams, frames, parts = zip(*seen, strict=True)
    decoded = Decoded(lot.stage, tuple(names), streams, tuple(rows), frames, parts)
    return plugin.sample(decoded, generator(seed))


class Seen(NamedTuple):
    """What was decoded of a span, and which of its frames and what of the picture that is."""

    streams: dict[str, NDArray[Any]]
    frames: NDArray[np.int64]
    part: Part


def decode(
    footage: Footage,
    row: Mapping[str, Any],
    view: View,
    stage: Stage,
    seed: int,
    *,
    span: tuple[int, int],
    crop: int = 0,
    slot: NDArray[np.uint8] | None = None,
) -> Seen:
    """Decode the streams of one span as a view wants them.

    Flow that was kept at ingest is used in training alone: answers must be those that the same
    video gets from a file. With sound comes `heard`: 1, or 0 where a video has no sound track and
    silence stands for it.
    """
    numbers = _numbers(row, view, stage, seed, span)
    height, width = video.scaled_size(row["height"], row["width"], view.resize)
    random = stage == "train" and bool({"crop", "resized_crop"} & set(view.augment))
    box = crop_box(height, width, decoded_size(view, stage), seed, random, crop)
    made = _seen(footage, view, stage, numbers, box, slot)
    if "features" in view.streams:
        made["features"] = footage.features(numbers)
    if "audio" in view.streams:
        made |= _heard(footage, row, view, span[0])
    return Seen(made, numbers, _shares(box, height, width))


def part_seen(view: View, stage: Stage, height: int, width: int) -> Part:
    """What a view that is cut in the middle shows of a picture of this size."""
    height, width = video.scaled_size(height, width, view.resize)
    box = crop_box(height, width, decoded_size(view, stage), 0, False)
    return _shares(box, height, width)


def _shares(box: Crop, height: int, width: int) -> Part:
    top, left, tall, wide = box
    return left / width, top / height, (left + wide) / width, (top + tall) / height


def _seen(
    footage: Footage,
    view: View,
    stage: Stage,
    numbers: NDArray[np.int64],
    box: Crop,
    slot: NDArray[np.uint8] | None,
) -> dict[str, NDArray[Any]]:
    """Frames, what is found from them, and masks; none are decoded for flow that was kept."""
    wanted, kept = {"rgb", "flow", "motion"} & set(view.streams), None
    if "flow" in wanted and stage == "train":
        kept = footage.flow(numbers, view.resize, box)
    made: dict[str, NDArray[Any]] = {} if kept is None else {"flow": kept}
    if wanted - set(made):
        frames = footage.pictures(numbers, view.resize, box, slot)
        made |= {"rgb": frames} if "rgb" in wanted else {}
        made |= {"flow": video.flow(frames)} if "flow" in wanted - set(made) else {}
        made |= {"motion": video.motion_mask(frames)} if "motion" in wanted else {}
    if stored := {"mask", "instances"} & set(view.streams):
        masks = footage.masks(numbers, view.resize, box)
        made |= {"mask": masks.classes} if "mask" in stored else {}
        made |= {"instances": masks.instances} if "instances" in stored else {}
    return made


def _heard(
    footage: Footage, row: Mapping[str, Any], view: View, first: int
) -> dict[str, NDArray[Any]]:
    """Sound as long as the view's frames, whatever the record's rate, and whether there is any.

    It begins with the first frame; near the end of a video earlier, so that it ends with it: silence
    there would be of the clip's making.
    """
    samples = round(view.frames / view.rate * view.audio_rate)
    if not footage.has_sound():
        return {"audio": np.zeros(samples, np.float32), "heard": np.asarray(0, np.float32)}
    seconds = samples / view.audio_rate
    latest = row["frames"] / row["fps"] - seconds
    start_seconds = max(0.0, min(first / row["fps"], latest))
    sound = footage.sound(start_seconds, start_seconds + seconds, view.audio_rate)
    return {"audio": sound, "heard": np.asarray(1, np.float32)}


def decoded_size(view: View, stage: Stage) -> int:
    """The side of the square that is decoded: the device resizes a random box to its size."""
    return view.resize if stage == "train" and "resized_crop" in view.augment else view.size


def _numbers(
    row: Mapping[str, Any], view: View, stage: Stage, seed: int, span: tuple[int, int]
) -> NDArray[np.int64]:
    numbers = frame_numbers(*span, view.frames, row["frames"])
    if stage != "train" or "jitter" not in view.augment:
        return numbers
    # Each frame moves by less than half the way to its neighbours: their order stays.
    reach = max(0.0, (span[1] - span[0]) / max(1, view.frames - 1) - 1) / 2
    moved = numbers + np.rint((Draw(seed).uniform("jitter", len(numbers)) * 2 - 1) * reach)
    limit = min(span[1], row["frames"] - 1)
    return np.clip(moved, min(span[0], limit), limit).astype(np.int64)


# --- stacking


def _memory(request: Request) -> NDArray[np.uint8] | None:
    """Memory that the pictures of all takes are decoded into, where all are of one span."""
    takes = request.lot.takes
    kinds = {takes.views[view] for view in takes.view[:, 0].tolist()}
    views = request.plugin.views()
    if takes.record.shape[1] != 1 or len(kinds) != 1:
        return None
    view = views[kinds.pop()]
    if "rgb" not in view.streams:
        return None
    side = decoded_size(view, request.lot.stage)
    return np.empty((len(request), view.frames, side, side, 3), np.uint8)


def _stacked(
    plugin: Plugin, samples: Sequence[Sample | None], memory: NDArray[np.uint8] | None
) -> Sample:
    """Columns of a block, where its plugin would stack its samples itself."""
    whole = [sample for sample in samples if sample is not None]
    if type(plugin).collate is not Plugin.collate or not whole:
        return {}
    return {name: _column(name, [sample[name] for sample in whole], memory) for name in whole[0]}


def _column(
    name: str, arrays: list[NDArray[Any]], memory: NDArray[np.uint8] | None
) -> NDArray[Any]:
    if memory is not None and all(_is_slot(a, memory[at]) for at, a in enumerate(arrays)):
        return memory  # they are there already
    try:
        return np.stack(arrays)
    except ValueError:
        raise not_alike(name, arrays) from None


def not_alike(name: str, arrays: Sequence[NDArray[Any]]) -> PluginError:
    """Samples that cannot be stacked, and what to do."""
    shapes = sorted({array.shape for array in arrays})
    return PluginError(
        f"samples whose {name} has the shapes {shapes}", "one shape, or a `collate` that joins them"
    )


def _is_slot(array: NDArray[Any], slot: NDArray[np.uint8]) -> bool:
    same = getattr(array, "shape", None) == slot.shape and array.dtype == slot.dtype
    return same and array.ctypes.data == slot.ctypes.data and array.strides == slot.strides
