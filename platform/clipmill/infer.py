"""Weights and plugin to answers for any video, the same way in evaluation and in serving.

A model folder holds `weights.safetensors` and `model.json` (recipe, classes, geometry, figures):
all that an answer needs, and no pickle. Knows neither registry nor HTTP.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from clipmill import augment, checkpoint, storage, video, viewing
from clipmill import recipe as recipes
from clipmill.device import to_device
from clipmill.errors import PluginError, RunError
from clipmill.plugin import Info, Plugin, Sample
from clipmill.readable import readable
from clipmill.recipe import Recipe
from clipmill.takes import Takes
from clipmill.viewing import Asked

Output = dict[str, NDArray[Any]]
PLACED = ("masks", "things", "heat")  # kinds of answers that lie over a part of the picture

__all__ = [
    "Asked",
    "Model",
    "Output",
    "Packed",
    "answer",
    "answers",
    "build",
    "device",
    "joined",
    "load",
    "looks",
    "outputs",
    "packed",
    "prepared",
    "protocol",
    "save",
    "unpacked",
    "worded",
]


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


Ask = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


@torch.inference_mode()
def outputs(
    model: Model, batches: Iterable[Sample], ask: Ask | None = None
) -> Iterator[tuple[int, Output]]:
    """Run batches through the network: (position, output) of every take, in their order.

    `ask` stands in for `predict`, for those who want to know something else of a network.
    """
    view = model.plugin.views()["test"]
    # Some learn nothing by gradient: what they know is in buffers.
    held = itertools.chain(model.module.parameters(), model.module.buffers())
    where = next(held).device
    prepare = functools.partial(augment.prepared, view=view, training=False)
    for ready in to_device(batches, where, prepare):
        if ask:
            result = ask(ready.tensors)
        else:
            result, _ = model.module.predict(ready.tensors)  # type: ignore[operator]
        arrays = {name: tensor.float().cpu().numpy() for name, tensor in result.items()}
        for place, position in enumerate(ready.batch["position"]):
            yield int(position), {name: array[place] for name, array in arrays.items()}


@contextlib.contextmanager
def watched(module: torch.nn.Module, given: list[torch.Tensor]) -> Iterator[None]:
    """While it lasts, gather what goes into the linear layers of a network."""
    layers = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
    hooks = [part.register_forward_pre_hook(lambda _, x: given.append(x[0])) for part in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Join = Callable[[Sequence[Output], Takes], dict[str, Any]]


def answers(
    plugin: Plugin,
    takes: Takes,
    results: Iterable[tuple[int, Output]],
    join: Join | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Join the outputs of each record's takes to its answer, in the order of the records.

    A result names its take by its place in `takes`; `join` stands in for the plugin's `answer`.
    """
    join = join or plugin.answer
    by_record: dict[int, list[tuple[int, Output]]] = {}
    for place, output in results:
        by_record.setdefault(int(takes.record[place, 0]), []).append((place, output))
    for record in sorted(by_record):
        parts = sorted(by_record[record], key=lambda part: part[0])
        places = np.array([place for place, _ in parts])
        yield record, join([output for _, output in parts], takes[places])


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
    asked = viewing.looked_at(looks(model), source, start_seconds, end_seconds)
    return worded(model, asked, joined(model, asked), each_frame=each_frame)


def worded(
    model: Model, asked: Asked, answer: dict[str, Any], *, each_frame: bool = False
) -> dict[str, Any]:
    """An answer as plain data, with what it was given for."""
    if wrong := [name for name, value in answer.items() if not _is_finite(value)]:
        raise PluginError(
            f"the model's answer is no number in its {wrong[0]}", "finite numbers",
            "look at its run: the training may have diverged",
        )  # fmt: skip
    plain = readable(answer, model.classes, asked.clock, each_frame=each_frame)
    # Where in the picture they lie is known where the picture was cut.
    part = {"part": asked.part} if any(kind in plain for kind in PLACED) else {}
    return {**plain, **part, **asked.told}


def _is_finite(value: Any) -> bool:
    """Whether JSON can tell it: it knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return value is None or all(map(_is_finite, value))
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def prepared(
    model: Model, source: video.Source, start_seconds: float = 0.0, end_seconds: float | None = None
) -> Asked:
    """Decode what the model wants to see of a video, without the network."""
    asked = viewing.looked_at(looks(model), source, start_seconds, end_seconds)
    return replace(asked, batches=list(asked.batches))


def looks(model: Model) -> viewing.Looks:
    """What a decoder must know of a model."""
    train = model.recipe.train
    return viewing.Looks(model.plugin, model.classes, model.profile, train.seed, train.batch)


def joined(model: Model, asked: Asked) -> dict[str, Any]:
    """The answer to a decoded video, as its plugin gives it."""
    ((_, answer),) = answers(model.plugin, asked.takes, outputs(model, asked.batches))
    return answer


def device() -> str:
    """The device to compute on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
