"""A record's features: its frames decoded beside the network, and a row for each of them, or each clip.

What is described is the network's choice: frames, where its `describe` gives [B, T, D]; clips, where
that, or the input of its last linear layer, is [B, D]. Knows no files.

Legend: B batch, T frames, D features.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill import augment, cores, feed
from clipmill.catalog import Catalog
from clipmill.errors import PluginError, VideoError
from clipmill.infer import Model, watched
from clipmill.plan import Lot, Plan
from clipmill.plugin import Decoded, Sample
from clipmill.takes import Takes, View, generator

PIECE_FRAMES = 64  # that are decoded in one go, and go through the network as one batch
AHEAD = 4  # pieces decoded ahead, for each CPU
ALONE = {"rgb", "features"}  # streams of which each frame is what it is without the others

Kind = Literal["frames", "clips"]
Row = Mapping[str, Any]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Described:
    """What became of a record: rows and the frames they are of, or why there are none."""

    record: int
    rows: NDArray[np.float32] | None = None  # [T, D]
    frames: Numbers | None = None
    fault: str = ""


@dataclass(frozen=True)
class Describer:
    """A model that describes the records of a catalog; `every` frames there is a row."""

    model: Model
    catalog: Catalog
    kind: Kind
    every: int | None = None  # None: as far apart as the model looks, or clip by clip

    def of(self, records: Numbers) -> Iterator[Described]:
        """Describe records, in the order asked."""
        cpus = cores.usable()
        waiting: deque[tuple[_Piece, Future[list[Sample] | str]]] = deque()
        with ThreadPoolExecutor(cpus, "clipmill-features") as pool:
            try:
                yield from _whole(self._through(records, waiting, pool, AHEAD * cpus))
            finally:
                for _, future in waiting:
                    future.cancel()

    def _through(
        self,
        records: Numbers,
        waiting: "deque[tuple[_Piece, Future[list[Sample] | str]]]",
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> "Iterator[tuple[_Piece, NDArray[np.float32] | str]]":
        """Each piece with what the network made of it, or why it does not decode."""
        for piece in self._pieces(records):
            waiting.append((piece, pool.submit(self._decoded, piece)))
            if len(waiting) > ahead:
                yield self._oldest(waiting)
        while waiting:
            yield self._oldest(waiting)

    def _oldest(
        self, waiting: "deque[tuple[_Piece, Future[list[Sample] | str]]]"
    ) -> "tuple[_Piece, NDArray[np.float32] | str]":
        piece, future = waiting.popleft()
        made = future.result()
        return piece, made if isinstance(made, str) else self._described(made, piece)

    def _decoded(self, piece: "_Piece") -> list[Sample] | str:
        plugin = self.model.plugin
        lot = Plan(self.catalog, plugin, "test", 0, 1).lot(piece.takes)
        try:
            if self._view.frames == 1 and set(self._view.streams) <= ALONE:
                return self._frame_by_frame(lot)
            return [feed.sample(plugin, lot, place) for place in range(len(lot))]
        except VideoError as error:
            return str(error)

    def _frame_by_frame(self, lot: Lot) -> list[Sample]:
        """Samples of single frames, which are decoded as one span."""
        row, first = lot.rows[0], lot.takes.first[:, 0].tolist()
        view = self._view.model_copy(update={"frames": len(first)})
        span = first[0], first[-1]
        seen = feed.decode(feed.Stored(row), row, view, "test", 0, span=span)
        frames = (
            Decoded(
                "test", ("test",), ({name: x[at : at + 1] for name, x in seen.streams.items()},),
                (row,), (seen.frames[at : at + 1],), (seen.part,),
            )
            for at in range(len(first))
        )  # fmt: skip
        return [self.model.plugin.sample(frame, generator(0)) for frame in frames]

    @property
    def _view(self) -> View:
        return self.model.plugin.views()["test"]

    def _described(self, samples: list[Sample], piece: "_Piece") -> NDArray[np.float32]:
        x = described(self.model, samples)
        if (x.ndim == 3) != (self.kind == "frames"):
            raise PluginError(f"features of {list(x.shape)}", f"those of {self.kind}, as before")
        return x.flatten(0, x.ndim - 2).numpy()[: len(piece.frames)]

    def _pieces(self, records: Numbers) -> "Iterator[_Piece]":
        frames, fps = self.catalog.column("frames"), self.catalog.column("fps")
        for record in records.tolist():
            spans = self._spans(int(frames[record]), float(fps[record]))
            size = max(1, PIECE_FRAMES // self._view.frames)
            for at in range(0, len(spans.first), size):
                yield spans.piece(record, slice(at, at + size))

    def _spans(self, frames: int, fps: float) -> "_Spans":
        """Where the takes of a record lie, and which frames their rows are of."""
        view = self._view
        length = int(view.span_frames(np.array([fps]))[0])
        apart = max(1, round(fps / view.rate))
        if self.kind == "clips":
            step = self.every or (apart if view.frames == 1 else apart * view.frames)
            first = np.arange(0, max(1, frames - length + 1), step)
            middle = np.minimum(first + (length - 1) // 2, frames - 1)
            return _Spans(first, first + length - 1, 1, np.unique(middle))
        step = self.every or apart
        numbers = np.arange(0, frames, step)
        first = numbers[:: view.frames]
        return _Spans(first, first + (view.frames - 1) * step, view.frames, numbers)


@dataclass(frozen=True)
class _Spans:
    """The takes of a record."""

    first: Numbers
    last: Numbers
    rows: int  # of each take; of the last one there may be fewer
    frames: Numbers  # of all rows

    def piece(self, record: int, where: slice) -> "_Piece":
        first, last = self.first[where], self.last[where]
        count = len(first)
        takes = Takes(
            ("test",), np.full((count, 1), record), np.zeros((count, 1), np.int8),
            first[:, None], last[:, None], np.zeros(count, np.uint64),
        )  # fmt: skip
        frames = self.frames[where.start * self.rows : where.stop * self.rows]
        return _Piece(record, takes, frames, is_last=where.stop >= len(self.first))


@dataclass(frozen=True)
class _Piece:
    """Some takes of a record, one after another."""

    record: int
    takes: Takes
    frames: Numbers
    is_last: bool


def _whole(made: Iterator[tuple[_Piece, NDArray[np.float32] | str]]) -> Iterator[Described]:
    """Pieces put together to records; of a record with a fault only the first is told."""
    rows: list[NDArray[np.float32]] = []
    frames: list[Numbers] = []
    fault = ""
    for piece, each in made:
        if isinstance(each, str):
            fault = fault or each
        else:
            rows.append(each)
            frames.append(piece.frames)
        if not piece.is_last:
            continue
        if fault:
            yield Described(piece.record, fault=fault)
        else:
            yield Described(piece.record, np.concatenate(rows), np.concatenate(frames))
        rows, frames, fault = [], [], ""


def kind_of(model: Model, catalog: Catalog) -> Kind:
    """Whether a model describes frames or clips: asked with the first video that decodes."""
    reason = "there is none"
    for record in range(len(catalog)):
        first = next(Describer(model, catalog, "clips")._pieces(np.array([record])))
        samples = Describer(model, catalog, "clips")._decoded(first)
        if not isinstance(samples, str):
            return "frames" if described(model, samples[:1]).ndim == 3 else "clips"
        reason = samples
    raise VideoError(f"none of {len(catalog)} videos decodes: {reason}", "one at the least")


@torch.inference_mode()
def described(model: Model, samples: list[Sample]) -> torch.Tensor:
    """What a network makes of clips, [B, T, D] or [B, D], as float32 on the CPU."""
    view = model.plugin.views()["test"]
    where = next(model.module.parameters(), torch.empty(0)).device
    batch = augment.prepare(model.plugin.collate(samples), view, training=False, device=where)
    own = getattr(model.module, "describe", None)
    x = own(batch) if own else None
    x = _before_last(model.module, batch) if x is None else x
    if x.ndim not in (2, 3) or len(x) != len(samples):
        raise PluginError(f"features of {list(x.shape)}", "[B, T, D] of frames, or [B, D] of clips")
    return x.float().cpu()


def _before_last(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What goes into the last linear layer that an answer goes through."""
    given: list[torch.Tensor] = []
    with watched(module, given):
        module.predict(batch)  # type: ignore[operator]
    if not given:
        raise PluginError(
            f"{type(module).__name__} answers without a linear layer",
            "one whose input are features, or a method describe(batch)",
        )
    return given[-1]
