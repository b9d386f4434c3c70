"""What the contract gives a plugin: a tiny catalog in memory, frames of noise, and batches of them.

Knows neither the checks nor how their results are told.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from clipmill import augment
from clipmill.catalog import SCHEMA, Catalog
from clipmill.plugin import Decoded, Info, Plugin, Sample
from clipmill.takes import Draw, Stage, Takes, View, frame_numbers, generator

CLASSES = ("amber", "blue", "cyan", "dun")
RECORDS = 8  # two a class
BATCH = 8
WHOLE = (0.0, 0.0, 1.0, 1.0)
UNTOLD: Mapping[str, Any] = {
    "label": None, "target": -1, "labels": None, "targets": [], "spans": None
}  # fmt: skip

Tensors = Mapping[str, torch.Tensor]


class NotClaimed(Exception):
    """The plugin makes no promise of what a check looks at."""


def memory_catalog() -> Catalog:
    """A catalog of a few records that lie nowhere, of several lengths and two rates."""
    rows = [
        {
            "key": f"record{place}", "shard": f"shard{place // 4}", "members": [],
            "sha256": f"{place:064x}", "source": f"{place}.mp4", "split": "train",
            **_told(place, (4 + place) * (25 + 5 * (place % 2))), "attributes": [],
            "duration_seconds": 4.0 + place, "frames": (4 + place) * (25 + 5 * (place % 2)),
            "frames_from": "decode", "fps": 25.0 + 5 * (place % 2), "variable_rate": False,
            "width": 160, "height": 120, "rotation": 0, "has_audio": False,
        }
        for place in range(RECORDS)
    ]  # fmt: skip
    return Catalog("memory", pa.Table.from_pylist(rows, SCHEMA), {"classes": list(CLASSES)})


def _told(place: int, frames: int) -> dict[str, Any]:
    """The classes of a record: one, two, and one for each half of its frames."""
    names = [CLASSES[(place + turn) % len(CLASSES)] for turn in (0, 1)]
    edges = (0, frames // 2, frames)
    spans = [
        {"label": name, "first_frame": edges[half], "last_frame": edges[half + 1] - 1}
        for half, name in enumerate(names)
    ]
    return {"label": names[0], "labels": names, "spans": spans}


def noise(view: View, seed: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Streams as a decoder would give them: coarse blocks, so that convolutions see something."""
    rng = np.random.default_rng(seed)
    side = view.resize if "resized_crop" in view.augment else view.size
    frames = _blocks(rng, (view.frames, side, side, 3), 224)
    samples = round(view.frames / view.rate * view.audio_rate)
    every: dict[str, Callable[[], NDArray[Any]]] = {
        "rgb": lambda: frames + rng.integers(0, 32, frames.shape, np.uint8),
        "flow": lambda: _blocks(rng, (view.frames - 1, side, side, 2), 128).view(np.int8) - 64,
        "audio": lambda: rng.uniform(-0.5, 0.5, samples).astype(np.float32),
        "motion": lambda: _blocks(rng, (view.frames, side, side, 1), 2)[..., 0],
        "mask": lambda: _blocks(rng, (view.frames, side, side, 1), len(CLASSES) + 1)[..., 0],
        "instances": lambda: _blocks(rng, (view.frames, side, side, 1), 4)[..., 0].astype(np.int16),
        "features": lambda: rng.normal(size=(view.frames, view.features)).astype(np.float32),
    }
    made: dict[str, NDArray[Any]] = {stream: every[stream]() for stream in view.streams}
    if "audio" in made:  # every other record has no sound track
        heard = made["heard"] = np.asarray(seed[0] % 2, np.float32)
        made["audio"] *= heard
    return made


def _blocks(rng: np.random.Generator, shape: tuple[int, ...], below: int) -> NDArray[np.uint8]:
    frames, height, width, channels = shape
    cells = (-(-frames // 4), -(-height // 8), -(-width // 8), channels)
    coarse = rng.integers(0, below, cells, np.uint8)
    for axis, repeats in enumerate((4, 8, 8)):
        coarse = coarse.repeat(repeats, axis)
    return coarse[:frames, :height, :width]


@dataclass
class Case:
    """A plugin on its way through the contract; what several checks need is made once."""

    plugin: Plugin

    @cached_property
    def catalog(self) -> Catalog:
        return memory_catalog()

    @cached_property
    def views(self) -> Mapping[str, View]:
        return self.plugin.views()

    def takes(self, stage: Stage) -> Takes:
        draw = Draw(0)
        takes = self.plugin.plan(self.catalog, stage, draw)
        return replace(takes, seed=draw.bits("take", np.arange(len(takes))))

    def decoded(self, takes: Takes, place: int, stage: Stage) -> Decoded:
        spans = [span for span, row in enumerate(takes.record[place]) if row >= 0]
        names = [takes.views[takes.view[place, span]] for span in spans]
        records = [self.catalog.row(int(takes.record[place, span])) for span in spans]
        if stage == "test":  # as a new video is answered: nobody knows its class
            records = [{**record, **UNTOLD} for record in records]
        streams = [
            noise(self.views[name], [int(takes.record[place, span]), int(takes.first[place, span])])
            for name, span in zip(names, spans, strict=True)
        ]
        frames = [
            frame_numbers(
                int(takes.first[place, span]), int(takes.last[place, span]),
                self.views[name].frames, int(record["frames"]),
            )
            for name, span, record in zip(names, spans, records, strict=True)
        ]  # fmt: skip
        parts = tuple(WHOLE for _ in spans)
        return Decoded(stage, tuple(names), tuple(streams), tuple(records), tuple(frames), parts)

    def sample(self, takes: Takes, place: int, stage: Stage) -> Sample:
        rng = generator(int(takes.seed[place]))
        return self.plugin.sample(self.decoded(takes, place, stage), rng)

    def batch(self, takes: Takes, stage: Stage) -> dict[str, torch.Tensor]:
        """Prepare a batch of these takes as the feed does."""
        samples = [self.sample(takes, place, stage) for place in range(len(takes))]
        batch = {**self.plugin.collate(samples), "seed": takes.seed}
        view = self.views[takes.views[int(takes.view[0, 0])]]
        return augment.prepare(batch, view, training=stage == "train")

    @cached_property
    def training_batch(self) -> dict[str, torch.Tensor]:
        return self.batch(self.takes("train")[:BATCH], "train")

    @cached_property
    def test_batch(self) -> dict[str, torch.Tensor]:
        return self.batch(self.takes("test")[:BATCH], "test")

    def model(self) -> nn.Module:
        """Make the network; always the same one."""
        view = next(iter(self.views.values()))
        torch.manual_seed(0)
        return self.plugin.build(Info(CLASSES, augment.shapes(view)))

    @cached_property
    def trained(self) -> nn.Module:
        """A network after a few steps and `fit`, its running figures moved."""
        model = self.model().train()
        if trainable(model):
            optimizer = self.plugin.optimizer(model)
            for _ in range(2):
                self.step(model, optimizer)
        self.plugin.fit(model.eval(), [self.training_batch])
        return model

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """One step on the training batch; return the loss before it."""

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = model(self.training_batch)["loss"]
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return float(optimizer.step(closure).detach())  # type: ignore[arg-type, attr-defined]

    def predict(self, model: nn.Module, batch: Tensors, state: Any = None) -> tuple[Tensors, Any]:
        with torch.no_grad():
            outputs: tuple[Tensors, Any] = model.predict(batch, state)  # type: ignore[operator]
        return outputs


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that the plugin promises to learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
