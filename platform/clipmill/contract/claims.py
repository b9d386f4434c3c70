"""The checks of what a plugin may claim or not: that it streams, and that it exports.

Each returns what it saw, or raises what it got and wanted.

Legend: B batch, C channels, T frames, H height, W width, S samples, D features.
"""

from collections.abc import Sequence

import torch
from torch import nn

from clipmill import augment
from clipmill.contract.case import Case, NotClaimed, Tensors
from clipmill.contract.outputs import ROW_TOLERANCE, same
from clipmill.errors import PluginError

TIME_AXIS = {"rgb": 2, "flow": 2}  # of prepared streams [B, C, T, H, W]; of all others it is 1


def streaming(case: Case) -> str:
    """A clip in two chunks, the state carried over, is answered as at once."""
    if not case.plugin.streaming:
        raise NotClaimed("not claimed")
    takes, batch = case.takes("test"), case.test_batch
    frames = case.views[takes.views[int(takes.view[0, 0])]].frames
    if frames < 2:
        raise PluginError(f"clips of {frames} frame", "two at the least, to be cut in time")
    at_once, _ = case.predict(case.trained, batch)
    state, parts = None, []
    for chunk in chunks(batch, frames // 2, frames):
        part, state = case.predict(case.trained, chunk, state)
        parts.append(part)
    chunked = {name: _joined([part[name] for part in parts], out) for name, out in at_once.items()}
    same(chunked, at_once, ROW_TOLERANCE, "predicting in two chunks")
    return f"{frames} frames in 2 chunks as at once"


def chunks(batch: Tensors, first: int, frames: int) -> list[Tensors]:
    """Cut every stream of a batch in time, behind the first frames of its clips of so many."""
    cut = {name: _cut(name, x, first, frames) for name, x in batch.items() if augment.kind_of(name)}
    return [{**batch, **{name: parts[at] for name, parts in cut.items()}} for at in (0, 1)]


def _cut(name: str, x: torch.Tensor, first: int, frames: int) -> Sequence[torch.Tensor]:
    """A stream as far as the first frames, and the rest; flow to a frame comes with that frame."""
    kind = augment.kind_of(name)
    axis = TIME_AXIS.get(kind, 1)
    at = first - 1 if kind == "flow" else round(x.shape[axis] * first / frames)
    return torch.split(x, [at, x.shape[axis] - at], axis)


def _joined(parts: Sequence[torch.Tensor], whole: torch.Tensor) -> torch.Tensor:
    """Answers a frame one behind the other; of an answer a clip the last, which has seen all."""
    if whole.ndim > 1 and sum(part.shape[1] for part in parts) == whole.shape[1]:
        return torch.cat(list(parts), 1)
    return parts[-1]


class _Predicting(nn.Module):
    """A network whose forward is predict, as torch.export wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs alone, without the state."""
        outputs: dict[str, torch.Tensor] = self.model.predict(batch)[0]  # type: ignore[operator]
        return outputs


def export(case: Case) -> str:
    """Predict goes through torch.export, with any number of takes."""
    if not case.plugin.exports:
        raise NotClaimed("not claimed")
    size = torch.export.Dim("batch", min=1, max=1024)
    free = {name: {0: size} for name in case.test_batch}
    program = torch.export.export(
        _Predicting(case.trained), (case.test_batch,), dynamic_shapes=(free,), strict=False
    )
    fewer = {name: tensor[:3] for name, tensor in case.test_batch.items()}
    wanted, _ = case.predict(case.trained, fewer)
    same(program.module()(fewer), wanted, ROW_TOLERANCE, "the exported program on 3 takes")
    return "torch.export, with any number of takes"
