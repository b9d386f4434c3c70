"""Weights and plugin to answers for any video, the same way in evaluation and in serving.

A model folder holds `weights.safetensors` and `model.json` (recipe, classes, geometry, figures):
all that an answer needs, and no pickle. Knows neither registry nor HTTP.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors

from clipmill import augment, catalog, checkpoint, feed, storage, video
from clipmill import recipe as recipes
from clipmill.device import to_device
from clipmill.errors import RunError
from clipmill.plan import Plan
from clipmill.plugin import Info, Plugin, Sample
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
    """What a figure's conditions are: clips, rate, frames, size."""
    plugin = recipe.plugin()
    view = plugin.views()["test"]
    return {
        "clips": plugin.test_clips,
        "frames": view.frames,
        "rate": view.rate,
        "size": view.size,
        "resize": view.resize,
        "crop": "centre",
    }


def save(folder: str, model: Model) -> None:
    """Write a model folder; `model.json` comes last."""
    weights = checkpoint.snapshot(model.module)
    storage.put(storage.join(folder, "weights.safetensors"), save_tensors(weights))
    told = {
        "recipe": model.recipe.plain(),
        "classes": list(model.classes),
        "profile": asdict(model.profile),
        "protocol": protocol(model.recipe),
        "figures": model.figures,
        "weights_sha256": checkpoint.weights_sha256(weights),
    }
    storage.put_json(storage.join(folder, "model.json"), told)


def load(folder: str) -> Model:
    """Read a model folder, and check its weights against their hash."""
    path = storage.join(folder, "model.json")
    if not storage.exists(path):
        raise RunError(f"{folder} has no model.json", "a run that has finished", "resume it first")
    told: dict[str, Any] = storage.read_json(path)
    weights = checkpoint.read_weights(folder)
    if checkpoint.weights_sha256(weights) != told["weights_sha256"]:
        raise RunError(f"the weights in {folder} were changed", "those that model.json tells")
    recipe = recipes.parse(told["recipe"])
    module = build(recipe.plugin(), tuple(told["classes"]), restored=True)
    module.load_state_dict(weights)
    profile = video.Profile(**told["profile"])
    return Model(module, recipe, tuple(told["classes"]), profile, told["figures"])


@torch.inference_mode()
def outputs(model: Model, batches: Iterable[Sample]) -> Iterator[tuple[int, Output]]:
    """Run batches through the network: (position, output) of every take."""
    view = model.plugin.views()["test"]
    where = next(model.module.parameters()).device
    prepare = functools.partial(augment.prepared, view=view, training=False)
    for ready in to_device(batches, where, prepare):
        result, _ = model.module.predict(ready.tensors)  # type: ignore[operator]
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in result.items()}
        for place, position in enumerate(ready.batch["position"]):
            yield int(position), {name: array[place] for name, array in arrays.items()}


def answers(
    model: Model, plan: Plan, results: Iterable[tuple[int, Output]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Join the outputs of each record's takes to its answer, in the order of the records."""
    takes = plan.epoch(0)
    by_record: dict[int, list[tuple[int, Output]]] = {}
    for position, output in results:
        by_record.setdefault(int(takes.record[position, 0]), []).append((position, output))
    for record in sorted(by_record):
        parts = sorted(by_record[record], key=lambda part: part[0])
        places = np.array([position for position, _ in parts])
        yield record, model.plugin.answer([output for _, output in parts], takes[places])


def answer(model: Model, source: bytes) -> dict[str, Any]:
    """Answer one video, whatever its container, rate and size."""
    info = video.probe(source)
    rate = None if _conforms(info, model.profile) else model.profile.rate
    plan = _plan_of(model, info, rate)
    takes = plan.epoch(0)
    footage = feed.OfFile(source, rate)
    samples = [_sample(plan, takes, place, footage) for place in range(len(takes))]
    size = plan.batch
    batched = (
        feed.collated(model.plugin, samples[at : at + size]) for at in range(0, len(takes), size)
    )
    (_, joined), *_ = answers(model, plan, outputs(model, batched))
    return {**readable(joined, model.classes), "spans": _spans(takes, plan), "input": _told(info)}


def _conforms(info: video.VideoInfo, profile: video.Profile) -> bool:
    """Whether the video is as our profile makes it, so that its own frames are the grid."""
    steady = not info.variable_rate and abs(info.fps - profile.rate) < 1e-6
    return steady and info.rotation == 0 and info.frames_from == "packets" and not info.faults


def _plan_of(model: Model, info: video.VideoInfo, rate: float | None) -> Plan:
    """A plan over a catalog of this one video."""
    frames = info.frames if rate is None else video.grid_frames(info, rate)
    row = {
        "key": "video", "shard": "", "sha256": "", "split": "test", "members": [],
        "frames": frames, "fps": rate or info.fps, "height": info.height, "width": info.width,
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


def readable(answer: Mapping[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """An answer as plain data: classes by name, the likeliest first."""
    plain = {name: np.asarray(value).tolist() for name, value in answer.items()}
    if "probabilities" in plain and len(plain["probabilities"]) == len(classes):
        ranked = sorted(zip(plain["probabilities"], classes, strict=True), reverse=True)
        plain["classes"] = [{"name": name, "probability": p} for p, name in ranked]
        plain["label"] = ranked[0][1]
        del plain["probabilities"]
    return plain


def device() -> str:
    """The device to compute on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
