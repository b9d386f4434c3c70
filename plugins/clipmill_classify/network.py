"""What the networks of all clip classifiers share: their loss, their answer, what is frozen.

Legend: B batch, T frames, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from clipmill.errors import PluginError
from clipmill_classify.frames import FrameEncoder
from clipmill_classify.scores import Judge

Batch = Mapping[str, torch.Tensor]


class ClipNetwork(nn.Module):
    """Tells the class of a clip; a network of its kind adds `logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge()
        self.asleep: tuple[nn.Module, ...] = ()

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss of a batch, and how much of it is told rightly."""
        told: dict[str, torch.Tensor] = self.judge(self.logits(batch), batch)
        return told

    def predict(self, batch: Batch, state: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        """Class probabilities of each clip, or of its frames."""
        return self.judge.answer(self.logits(batch), batch), state

    def logits(self, batch: Batch) -> torch.Tensor:
        """Unnormalised class scores [B, K]; [B, T, K] where each frame has a class."""
        raise NotImplementedError

    def describe(self, batch: Batch) -> torch.Tensor | None:
        """Features of each frame [B, T, D], of those that encode frames apart; else None."""
        encoder = getattr(self, "encoder", None)
        return encoder(batch["rgb"]) if isinstance(encoder, FrameEncoder) else None

    def freeze(self, parts: Sequence[str]) -> None:
        """Let these parts learn nothing, running statistics and dropout of theirs included."""
        for part in parts:
            for name in _named(self, part):
                self.get_parameter(name).requires_grad_(False)
        inside = [
            module
            for name, module in self.named_modules()
            if name and any(_is_of(name, part) for part in parts)
        ]
        self.asleep = tuple(inside)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Go to training, but for the frozen parts."""
        super().train(mode)
        for module in self.asleep:
            module.training = False
        return self


def groups(model: nn.Module, rates: Mapping[str, float], rate: float) -> list[dict[str, Any]]:
    """Trainable weights by their learning rate; the longest beginning that fits a name counts."""
    for part in rates:
        _named(model, part)
    found: dict[float, list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            fits = max((part for part in rates if _is_of(name, part)), key=len, default="")
            found.setdefault(rates.get(fits, 1.0), []).append(weight)
    return [{"params": weights, "lr": rate * factor} for factor, weights in found.items()]


def _named(model: nn.Module, part: str) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    of_it = [name for name in names if _is_of(name, part)]
    if not of_it:
        parts = dict.fromkeys(name.split(".", 1)[0] for name in names)
        raise PluginError(f"no weights of {part!r}", f"one of {', '.join(parts)}, or a part of one")
    return of_it


def _is_of(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")
