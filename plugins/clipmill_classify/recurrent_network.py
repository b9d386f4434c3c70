"""Recurrent layers over the features of frames: LSTM or GRU, stacked, and in both directions.

Knows neither what made the features nor what is read from the outputs.

Legend: B batch, T frames, D features, L layers, H hidden units.
"""

from typing import Literal

import torch
from torch import nn

from clipmill.errors import PluginError
from clipmill_classify.windows import Memory

Cell = Literal["lstm", "gru"]


class Recurrent(nn.Module):
    """Puts each frame together with what is remembered of those before it."""

    def __init__(
        self,
        features: int,
        hidden: int,
        *,
        cell: Cell,
        layers: int,
        dropout: float,
        both_ways: bool = False,
        beside: bool = False,  # the features stand behind what is made of them
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features) if normalised else nn.Identity()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.layers = kind(
            features, hidden, layers, batch_first=True, bidirectional=both_ways,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.both_ways, self.beside = both_ways, beside
        self.features = hidden * (2 if both_ways else 1)
        if cell == "lstm":
            remember_at_first(self.layers, hidden)

    def forward(self, x_BTD: torch.Tensor, memory: Memory = None) -> tuple[torch.Tensor, Memory]:
        """The last layer's output at each frame, [B, T, H], and what it remembers."""
        if memory is not None and self.both_ways:
            raise PluginError(
                "a bidirectional network was given a clip in chunks",
                "the whole clip at once, as it looks ahead",
                "set bidirectional=false to go chunk by chunk",
            )
        x_BTD = self.norm(x_BTD.transpose(1, 2)).transpose(1, 2)
        y_BTH, memory = self.layers(x_BTD, memory)
        return (torch.cat([y_BTH, x_BTD], 2) if self.beside else y_BTH), memory


@torch.no_grad()
def remember_at_first(layers: nn.Module, hidden: int) -> None:
    """Open the forget gates of an LSTM, so that at first it keeps what it has seen.

    Jozefowicz et al., 2015: without this, gradients are gone after a few dozen frames.
    """
    for name, bias in layers.named_parameters():
        if name.startswith("bias_ih"):
            bias[hidden : 2 * hidden] = 1.0
