"""Weights and plugin to answers for any video, the same way in evaluation and in serving.

A model folder holds `weights.safetensors` and `model.json` (recipe, classes, geometry, figures):
all that an answer needs, and no pickle. Knows neither registry nor HTTP.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from clipmill import augment, catalog, checkpoint, feed, storage, video
from clipmill import recipe as recipes
from clipmill.device import to_device
from clipmill.errors import RunError, VideoError
from clipmill.plan import Plan
from clipmill.plugin import Info, Plugin, Sample
from clipmill.readable import Clock, readable
from clipmill.recipe import Recipe
from clipmill.takes import Takes

Output = dict[str, NDArray[Any]]


@dataclass
class Model:
    """A network ready to answer, with what its answers depend on."""

    module: torch.nn.Module
    recipe: Recipe
    classes: tuple[str, ...]
    profile: video.Profile
    figures: dict[str, Any] = field(default_factory=dict)  # metrics with their protocol

    def __post_init__(self) -> None:
        self.plugin: Plugin = self.recipe.plugin()
        self.module.eval()

    def to(self, device: str) -> "Model":
        """Move the network to a device."""
        self.module.to(device)
        return self


def build(plugin: Plugin, classes: tuple[str, ...], *, restored: bool = False) -> torch.nn.Module:
    """Make the plugin's network for these classes."""
    views = plugin.views()
    view = views["train"] if "train" in views else next(iter(views.values()))
    return plugin.build(Info(classes, augment.shapes(view), restored))


def protocol(recipe: Recipe) -> dict[str, Any]:
    """What a figure's conditions are: clips and crops, rate, frames, size."""
    plugin = recipe.plugin()
    view = plugin.views()["test"]
    seen = {"frames": view.frames, "rate": view.rate, "size": view.size, "resize": view.resize}
    return {**plugin.protocol(), **seen}


@dataclass(frozen=True)
class Packed:
    """A model as bytes and plain data: what a folder holds, and what travels to other processes."""

    weights: bytes  # safetensors
    told: dict[str, Any]


def packed(model: Model) -> Packed:
    """Pack a model."""
    weights = checkpoint.snapshot(model.module)
    told = {
        "recipe": model.recipe.plain(),
        "classes": list(model.classes),
        "profile": asdict(model.profile),
        "protocol": protocol(model.recipe),
        "figures": model.figures,
        "weights_sha256": checkpoint.weights_sha256(weights),
    }
    return Packed(save_tensors(weights), told)


def unpacked(given: Packed, where: str = "a packed model") -> Model:
    """Make the model again, and check its weights against their hash."""
    weights, told = load_tensors(given.weights), given.told
    if checkpoint.weights_sha256(weights) != told["weights_sha256"]:
        raise RunError(f"the weights in {where} were changed", "those that model.json tells")
    recipe = recipes.parse(told["recipe"])
    module = build(recipe.plugin(), tuple(told["classes"]), restored=True)
    module.load_state_dict(weights)
    profile = video.Profile(**told["profile"])
    return Model(module, recipe, tuple(told["classes"]), profile, told["figures"])


def save(folder: str, model: Model) -> None:
    """Write a model folder; `model.json` comes last."""
    made = packed(model)
    storage.put(storage.join(folder, "weights.safetensors"), made.weights)
    storage.put_json(storage.join(folder, "model.json"), made.told)


def load(folder: str) -> Model:
    """Read a model folder, and check its weights against their hash."""
    path = storage.join(folder, "model.json")
    if not storage.exists(path):
        raise RunError(f"{folder} has no model.json", "a run that has finished", "resume it first")
    told: dict[str, Any] = storage.read_json(path)
    weights = storage.read(storage.join(folder, "weights.safetensors"))
    return unpacked(Packed(weights, told), folder)


@torch.inference_mode()
def outputs(model: Model, batches: Iterable[Sample]) -> Iterator[tuple[int, Output]]:
    """Run batches through the network: (position, output) of every take, in their order."""
    view = model.plugin.views()["test"]
    # Some learn nothing by gradient: what they know is in buffers.
    held = itertools.chain(model.module.parameters(), model.module.buffers())
    where = next(held).device
    prepare = functools.partial(augment.prepared, view=view, training=False)
    for ready in to_device(batches, where, prepare):
        result, _ = model.module.predict(ready.tensors)  # type: ignore[operator]
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in result.items()}
        for place, position in enumerate(ready.batch["position"]):
            yield int(position), {name: array[place] for name, array in arrays.items()}


def answers(
    plugin: Plugin, takes: Takes, results: Iterable[tuple[int, Output]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Join the outputs of each record's takes to its answer, in the order of the records.

    A result names its take by its place in `takes`.
    """
    by_record: dict[int, list[tuple[int, Output]]] = {}
    for place, output in results:
        by_record.setdefault(int(takes.record[place, 0]), []).append((place, output))
    for record in sorted(by_record):
        parts = sorted(by_record[record], key=lambda part: part[0])
        places = np.array([place for place, _ in parts])
        yield record, plugin.answer([output for _, output in parts], takes[places])


def answer(
    model: Model,
    source: video.Source,
    *,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    each_frame: bool = False,
) -> dict[str, Any]:
    """Answer one video, or a part of it, whatever its container, rate and size.

    `each_frame` adds the probabilities of every moment, where a model tells frames apart.
    """
    asked = _looked_at(model, source, start_seconds, end_seconds)
    told = readable(joined(model, asked), model.classes, asked.clock, each_frame=each_frame)
    return {**told, **asked.told}


@dataclass(frozen=True)
class Asked:
    """A video that is decoded, or is when its batches are taken, before the network sees it."""

    takes: Takes
    batches: Iterable[Sample]
    told: dict[str, Any]  # the spans in seconds, and what the input is
    clock: Clock


def prepared(
    model: Model, source: video.Source, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Asked:
    """Decode what the model wants to see of a video, without the network."""
    asked = _looked_at(model, source, start_seconds, end_seconds)
    return replace(asked, batches=list(asked.batches))


def _looked_at(
    model: Model, source: video.Source, start_seconds: float, end_seconds: float | None
) -> Asked:
    """The same, to be decoded a batch at a time: all of a long video may be asked for."""
    info = video.probe(source)
    rate = None if _conforms(info, model.profile) else model.profile.rate
    fps = rate or info.fps
    first = round(start_seconds * fps)
    frames = (info.frames if rate is None else video.grid_frames(info, rate)) - first
    if end_seconds is not None:
        frames = min(frames, max(1, round((end_seconds - start_seconds) * fps)))
    if frames < 1:
        raise VideoError(f"a part from {start_seconds:g} s on", f"{info.duration_seconds:g} s")
    plan = _plan_of(model, info, frames, fps)
    takes = plan.epoch(0)
    footage = _From(feed.OfFile(source, rate), first, fps) if first else feed.OfFile(source, rate)
    told = {"spans": _spans(takes, plan), "input": _told(info)}
    return Asked(takes, _batches(plan, takes, footage), told, Clock(fps, frames))


def _batches(plan: Plan, takes: Takes, footage: feed.Footage) -> Iterator[Sample]:
    for first in range(0, len(takes), plan.batch):
        places = range(first, min(first + plan.batch, len(takes)))
        yield feed.collated(plan.plugin, [_sample(plan, takes, at, footage) for at in places])


def joined(model: Model, asked: Asked) -> dict[str, Any]:
    """The answer to a decoded video, as its plugin gives it."""
    ((_, answer),) = answers(model.plugin, asked.takes, outputs(model, asked.batches))
    return answer


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


def _plan_of(model: Model, info: video.VideoInfo, frames: int, fps: float) -> Plan:
    """A plan over a catalog of this one video."""
    row = {
        "key": "video", "shard": "", "sha256": "", "split": "test", "members": [],
        "frames": frames, "fps": fps, "height": info.height, "width": info.width,
    }  # fmt: skip
    plain = {name: row.get(name) for name in catalog.SCHEMA.names}
    table = pa.Table.from_pylist([plain], schema=catalog.SCHEMA)
    part = catalog.Catalog("", table, {"classes": list(model.classes)})
    return Plan(part, model.plugin, "test", model.recipe.train.seed, model.recipe.train.batch)


def _sample(plan: Plan, takes: Takes, place: int, footage: feed.Footage) -> Sample:
    made = feed.sample(plan.plugin, plan.lot(takes), place, footage=footage)
    told = {
        "position": np.int64(place),
        "seed": takes.seed[place],
        "digest": np.zeros(32, np.uint8),
    }
    return {**made, **told}


def _spans(takes: Takes, plan: Plan) -> list[dict[str, float]]:
    fps = float(plan.catalog.row(0)["fps"])
    bounds = zip(takes.first[:, 0].tolist(), takes.last[:, 0].tolist(), strict=True)
    return [{"start_seconds": a / fps, "end_seconds": (b + 1) / fps} for a, b in bounds]


def _told(info: video.VideoInfo) -> dict[str, Any]:
    return {
        "frames": info.frames,
        "fps": info.fps,
        "duration_seconds": info.duration_seconds,
        "width": info.width,
        "height": info.height,
    }


def device() -> str:
    """The device to compute on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
