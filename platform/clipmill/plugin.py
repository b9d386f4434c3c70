"""The contract of a model family, and how plugins are found.

A plugin is a frozen value whose fields are its hyper-parameters. It says what to see (views),
which takes make an epoch (plan), how a sample is made, which network learns from it and what its
outputs mean. Importing this module, or a plugin's own, never imports torch.
"""

import difflib
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clipmill.catalog import Catalog, frame_targets
from clipmill.errors import PluginError, RecipeError
from clipmill.takes import (
    MIXERS,
    Augmentation,
    Draw,
    Stage,
    Takes,
    View,
    beside,
    even_spans,
    joined,
    pairs,
    random_spans,
    triplets,
)

if TYPE_CHECKING:
    import torch

GROUP = "clipmill.plugins"
Sample = dict[str, NDArray[Any]]
Learnt = Literal["one", "several", "frames", "masks", "none"]  # classes of a record
PLACE = "a file or folder"
Place = Annotated[str, PLACE]  # a field of it holds from any folder: a recipe makes it absolute
Part = tuple[float, float, float, float]  # left, top, right, bottom in shares of the picture


@dataclass(frozen=True)
class Decoded:
    """A take after decoding: for each of its spans the streams, the view and the record's row."""

    stage: Stage
    views: tuple[str, ...]
    streams: tuple[Mapping[str, NDArray[Any]], ...]  # rgb: uint8 [frames, height, width, 3]
    records: tuple[Mapping[str, Any], ...]  # catalog rows; `target` is the class as a number
    frames: tuple[NDArray[np.int64], ...] = ()  # of each span: which of its record's are seen
    parts: tuple[Part, ...] = ()  # of each span: what of the picture is seen


@dataclass(frozen=True)
class Info:
    """What a network must know of the data: class names, and shapes of one sample's tensors."""

    classes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    restored: bool = False  # weights come from a checkpoint: no others need be read before


class Meter(Protocol):
    """Gathers answers video by video; merging parts gives exactly the whole.

    One whose metric is a mean over videos may have `score(answer, target) -> float`, the video's
    part of it: then runs are compared by it at once, and not by meters merged again and again.
    One that goes by something that a validation chose, such as a threshold, may have
    `settle(validation)`, which is given the metrics that the model's validation found.
    """

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: its answer and its catalog row."""

    def merge(self, other: Any) -> None:
        """Add another meter's counts."""

    def compute(self) -> dict[str, float]:
        """Return the figures by name."""


class Plugin(BaseModel):
    """Base of all plugins; only `views` and `build` must be written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    family: ClassVar[str]
    paper: ClassVar[str] = ""
    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False
    streaming: ClassVar[bool] = False  # predict in chunks, with its state, equals at once
    exports: ClassVar[bool] = False  # predict goes through torch.export
    by_gradient: ClassVar[bool] = True  # else `fit` learns all there is, in one pass of the takes
    small: ClassVar[Mapping[str, Any]] = {}  # fields that make a check quick

    learning_rate: float = Field(1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    test_clips: int = Field(4, ge=1, description="clips of a video at test, evenly spread")
    test_crops: Literal[1, 3] = Field(
        1,
        description="places in each of them: the middle, or the start, middle and end of its longer side",
    )

    @property
    def learns(self) -> Learnt:
        """Of what kind the truth is that it needs of records; "none" takes all of them alike."""
        return "one"

    def views(self) -> Mapping[str, View]:
        """What to decode, by name; `train` and `test` are used by the default plan."""
        raise NotImplementedError

    def plan(self, catalog: Catalog, stage: Stage, draw: Draw) -> Takes:
        """The takes of an epoch, in any order: one random span a record, even spans at test.

        What is drawn under names of one's own should come from `draw.apart`: under names such as
        "order" or "take" the plan draws too, and takes would be put in order by the same chance.
        """
        frames, fps = catalog.column("frames"), catalog.column("fps")
        if stage == "train":
            return random_spans(frames, fps, self.views()["train"], draw)
        return even_spans(frames, fps, self.views()["test"], self.test_clips, crops=self.test_crops)

    def unfit(self, catalog: Catalog) -> Mapping[str, NDArray[np.bool_]]:
        """Which records it cannot use, by why: "shorter than 2 s" and a mask over all rows.

        No plan of train, val or test has them; they are counted wherever its takes or its figures
        are told.
        """
        return {}

    def remarks(self, catalog: Catalog) -> Sequence[str]:
        """What to tell of a plan over these records, beside what their views ask for and lack."""
        return ()

    def class_names(self, catalog: Catalog) -> tuple[str, ...]:
        """What its network tells apart, as `build` is told: the classes of videos, or of masks."""
        return catalog.classes

    def protocol(self) -> dict[str, Any]:
        """What of a video is tested, as it is told beside every figure."""
        crop = "centre" if self.test_crops == 1 else "start, middle and end"
        return {"clips": self.test_clips, "crops": self.test_crops, "crop": crop}

    def sample(self, decoded: Decoded, rng: np.random.Generator) -> Sample:
        """Make a flat sample of a decoded take; the default gives its first span and class."""
        streams = {name: np.asarray(array) for name, array in decoded.streams[0].items()}
        return {**streams, "target": np.int64(decoded.records[0]["target"])}  # type: ignore[dict-item]

    def collate(self, samples: Sequence[Sample]) -> Sample:
        """Put samples into a batch."""
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

    def build(self, info: Info) -> "torch.nn.Module":
        """Make the network: forward(batch) -> {"loss": ...}, predict(batch, state) -> (out, state)."""
        raise NotImplementedError

    def optimizer(self, model: "torch.nn.Module") -> "torch.optim.Optimizer":
        """Make the optimizer of the trainable weights."""
        from torch.optim import AdamW

        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        return AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay)

    def fit(self, model: "torch.nn.Module", batches: Iterable[Mapping[str, Any]]) -> None:
        """Learn what gradients cannot, into buffers of the model; most plugins need nothing.

        The batches are prepared, of each take of an epoch once; the model is as `predict` has it.
        """

    def answer(self, outputs: Sequence[Mapping[str, NDArray[Any]]], takes: Takes) -> dict[str, Any]:
        """Join the outputs of one video's takes; the default averages every array."""
        return {name: np.mean([o[name] for o in outputs], axis=0) for name in outputs[0]}

    def meter(self) -> Meter | None:
        """What measures the answers; None leaves the loss alone."""
        return None

    def verdict(self, metrics: Mapping[str, float]) -> str | None:
        """One line about what its meter measured, such as that nothing was learnt; None says nothing."""
        return None


@dataclass(frozen=True)
class Entry:
    """A plugin as an entry point offers it: the class, or why there is none."""

    name: str
    package: str
    version: str
    plugin: type[Plugin] | None
    fault: str = ""


def found() -> list[Entry]:
    """Load all plugins; one that is broken is told beside the others, never instead of them."""
    return [_entry(point) for point in _points()]


def _points() -> tuple[EntryPoint, ...]:
    """What is offered, by name; looked for once, or again where modules come from elsewhere."""
    return _scanned(tuple(map(str, sys.path)))


@functools.cache
def _scanned(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


def _entry(point: EntryPoint) -> Entry:
    package = point.dist.name if point.dist else "?"
    version = point.dist.version if point.dist else "?"
    try:
        return Entry(point.name, package, version, _checked(point.name, point.load()))
    except Exception as error:  # whatever a stranger's module raises must not hide the others
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Entry(point.name, package, version, None, reason)


def _checked(name: str, plugin: object) -> type[Plugin]:
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise PluginError(f"{plugin!r}", "a subclass of clipmill.plugin.Plugin")
    for needed in ("name", "family"):
        if not isinstance(getattr(plugin, needed, None), str):
            raise PluginError(f"{plugin.__name__} has no {needed}", f"a class attribute `{needed}`")
    if plugin.name != name:
        raise PluginError(
            f"{plugin.__name__}.name is {plugin.name!r}", f"its entry point's {name!r}"
        )
    for method in ("views", "build"):
        if getattr(plugin, method) is getattr(Plugin, method):
            raise PluginError(f"{plugin.__name__} has no {method}()", "a method of its own")
    return plugin


def load(name: str) -> type[Plugin]:
    """Return the plugin of that name."""
    points = {point.name: point for point in _points()}
    if name not in points:
        _scanned.cache_clear()  # it may have been installed meanwhile
        points = {point.name: point for point in _points()}
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        hint = f"did you mean {near[0]}?" if near else "install its package"
        raise PluginError(f"no plugin {name!r}", f"one of {', '.join(sorted(points))}", hint)
    entry = _entry(points[name])
    if entry.plugin is None:
        raise PluginError(
            f"plugin {name!r} of {entry.package} {entry.version} cannot be used ({entry.fault})",
            todo="mend or remove that package",
        )
    return entry.plugin


def make(name: str, fields: Mapping[str, Any]) -> Plugin:
    """Make the plugin of that name with its fields."""
    plugin = load(name)
    try:
        made = plugin(**fields)
    except ValidationError as error:
        raise RecipeError(*told(error, plugin, "model")) from None
    try:
        made.views()
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"model: {name} cannot see so", reason, "change its fields") from None
    return made


def places(section: type[BaseModel]) -> list[str]:
    """The fields of a plugin, or of a recipe's section, that name a file or folder."""
    fields = section.model_fields.items()
    return [name for name, told in fields if PLACE in told.metadata or _is_place(told.annotation)]


def _is_place(annotation: Any) -> bool:
    inner = get_args(annotation)
    return PLACE in inner[1:] or any(_is_place(each) for each in inner)


def told(error: ValidationError, model: type[BaseModel], where: str = "") -> tuple[str, str, str]:
    """Tell the first fault of a value in a sentence, with the nearest right name."""
    fault = error.errors()[0]
    path = [str(part) for part in fault["loc"]]
    dotted = ".".join([where, *path] if where else path)
    if fault["type"] != "extra_forbidden":
        wanted = fault["msg"].lower().removeprefix("value error, ")
        return f"{dotted} is {fault['input']!r}", wanted, ""
    fields = _model_at(model, path[:-1]).model_fields
    names = [field.alias or name for name, field in fields.items()]
    near = difflib.get_close_matches(path[-1], names, n=1)
    hint = f"did you mean {near[0]}?" if near else ""
    return f"unknown key {dotted}", f"one of {', '.join(names)}", hint


def _model_at(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return model


__all__ = [
    "MIXERS",
    "Augmentation",
    "Catalog",
    "Decoded",
    "Draw",
    "Entry",
    "Info",
    "Learnt",
    "Meter",
    "Part",
    "Place",
    "Plugin",
    "Sample",
    "Stage",
    "Takes",
    "View",
    "beside",
    "even_spans",
    "found",
    "frame_targets",
    "joined",
    "load",
    "make",
    "pairs",
    "places",
    "random_spans",
    "told",
    "triplets",
]
