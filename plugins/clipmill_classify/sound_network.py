"""The encoder of sound: convolutions over a log-mel spectrogram, averaged over time alone.

Pitch stays apart: averaged over bands, a high tone would be as good as a low one. So bands are
pooled once, and steps of time in every block: most tones lie in the lowest quarter of the bands,
which further pools would make one row of.

Legend: B batch, F bands, S steps, C channels, D features.
"""

import torch
from torch import nn

from clipmill_classify.narrow import scaled

CHANNELS = (32, 64, 128, 256)
POOLS = ((2, 2), (1, 2), (1, 2), (1, 2))  # of bands and of steps
MIDDLE, SPREAD = -12.0, 6.0  # of the logarithm of power, halfway from silence to full scale


class SoundEncoder(nn.Module):
    """Blocks of a convolution and a pool; silence is a number like others."""

    def __init__(self, bands: int, width: float = 1.0) -> None:
        super().__init__()
        blocks, channels = [], 1
        for wide, pool in zip(CHANNELS, POOLS, strict=True):
            out = scaled(wide, width)
            blocks += [
                nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out),
                nn.ReLU(inplace=True), nn.MaxPool2d(pool, ceil_mode=True),
            ]  # fmt: skip
            channels, bands = out, -(-bands // pool[0])
        self.blocks = nn.Sequential(*blocks)
        self.features = channels * bands

    def forward(self, x_BFS: torch.Tensor) -> torch.Tensor:
        """Features [B, D]."""
        x_BCFS = self.blocks((x_BFS[:, None] - MIDDLE) / SPREAD)
        x_BD: torch.Tensor = x_BCFS.mean(3).flatten(1)
        return x_BD
