"""ConvLSTM layers (Shi et al., 2015): an LSTM whose state is a map and whose gates are convolutions.

Peepholes are one weight a channel, which is what the paper's counts of parameters tell. A clip is
cut into patches, so that the first layer sees small maps of many channels, as in the paper.

Legend: B batch, C channels, T frames, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.windows import Memory

Maps = tuple[torch.Tensor, torch.Tensor]  # hidden and cell, each [B, C, H, W]


class Patches(nn.Module):
    """Turns squares of pixels into channels, and learns nothing."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.features = 3 * side * side

    def forward(self, x_BCTHW: torch.Tensor) -> torch.Tensor:
        """Maps [B, T, C, H, W] of frames."""
        return functional.pixel_unshuffle(x_BCTHW.transpose(1, 2), self.side)


class ConvLSTMCell(nn.Module):
    """One layer: what comes in and what is remembered meet at each place of a map."""

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.of_input = nn.Conv2d(channels, 4 * hidden, kernel, padding=kernel // 2)
        self.of_hidden = nn.Conv2d(hidden, 4 * hidden, kernel, padding=kernel // 2, bias=False)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, 1, 1))
        with torch.no_grad():  # gates in the order input, forget, new, output
            nn.init.zeros_(self.of_input.bias)  # type: ignore[arg-type]
            self.of_input.bias[hidden : 2 * hidden] = 1.0  # type: ignore[index]

    def forward(
        self, x_BTCHW: torch.Tensor, memory: Maps | None = None
    ) -> tuple[torch.Tensor, Maps]:
        """The hidden map after each frame, and what is remembered after the last."""
        frames = x_BTCHW.shape[1]
        given = self.of_input(x_BTCHW.flatten(0, 1)).unflatten(0, (-1, frames))  # all at once
        if memory is None:
            empty = torch.zeros_like(given[:, 0, : self.hidden], dtype=torch.float32)
            memory = (empty, empty)
        hidden, cell = memory
        told = []
        for at in range(frames):
            hidden, cell = self._next(given[:, at], hidden, cell)
            told.append(hidden)
        return torch.stack(told, 1), (hidden, cell)

    def _next(self, given: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> Maps:
        see_in, see_forget, see_out = self.peepholes
        into, forget, new, out = (given + self.of_hidden(hidden)).chunk(4, 1)
        kept = torch.sigmoid(forget + see_forget * cell) * cell
        cell = kept + torch.sigmoid(into + see_in * cell) * torch.tanh(new)
        return torch.sigmoid(out + see_out * cell) * torch.tanh(cell), cell


class ConvLSTMLayers(nn.Module):
    """A stack of ConvLSTM layers; of each frame the states of all of them, averaged over space."""

    def __init__(self, channels: int, hidden: Sequence[int], kernel: int) -> None:
        super().__init__()
        ins = (channels, *hidden)
        self.layers = nn.ModuleList(
            ConvLSTMCell(into, out, kernel) for into, out in zip(ins, hidden, strict=False)
        )
        self.features = sum(hidden)
        self.both_ways = False

    def forward(self, x_BTCHW: torch.Tensor, memory: Memory = None) -> tuple[torch.Tensor, Memory]:
        """Features [B, T, D], and what each layer remembers."""
        before = [None] * len(self.layers) if memory is None else memory
        pooled, after = [], []
        for layer, old in zip(self.layers, before, strict=True):
            x_BTCHW, new = layer(x_BTCHW, old)
            pooled.append(x_BTCHW.mean((3, 4)))
            after.append(new)
        return torch.cat(pooled, 2), tuple(after)
