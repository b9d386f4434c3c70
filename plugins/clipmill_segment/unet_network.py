"""The network of U-Net: pairs of convolutions, halved and doubled, with copies across.

Ronneberger et al., 2015. Without padding a convolution only tells what it wholly sees: the frame
is mirrored at its edges as far as is needed, and copies are cropped to what comes up to them.

Legend: B batch, C channels, K classes with the ground, H height, W width.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from clipmill_classify.narrow import scaled
from clipmill_segment.network import SegmentNetwork, drawn

COLOURS = 3
FINEST = 64  # channels at the frame's own resolution; twice as many at each coarser


class UNetNetwork(SegmentNetwork):
    """Contracts, and expands with what was seen on the way."""

    def __init__(
        self,
        classes: int,
        depth: int,
        width: float,
        class_weights: Sequence[float] = (),
        *,
        crop: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(class_weights)
        channels = [scaled(FINEST * 2**level, width) for level in range(depth + 1)]
        self.depth, self.crop, padding = depth, crop, 0 if crop else 1
        self.down = nn.ModuleList(
            _pair(before, after, padding, batch_norm=batch_norm)
            for before, after in pairwise([COLOURS, *channels])
        )
        coarse_first = list(pairwise(channels[::-1]))
        self.doubled = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 2, stride=2) for before, after in coarse_first
        )
        self.up = nn.ModuleList(
            _pair(2 * after, after, padding, batch_norm=batch_norm) for _, after in coarse_first
        )
        self.score = nn.Conv2d(channels[0], classes, 1)
        self.apply(drawn)

    def scores(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Unnormalised class scores of pixels [B, K, H, W]."""
        height, width = x_BCHW.shape[2:]
        x_BCHW = self._surrounded(x_BCHW)
        copies: list[torch.Tensor] = []
        for level, pair in enumerate(self.down):
            x_BCHW = pair(functional.max_pool2d(x_BCHW, 2) if level else x_BCHW)
            copies.append(x_BCHW)
        for doubled, pair, copy in zip(self.doubled, self.up, copies[-2::-1], strict=True):
            x_BCHW = doubled(x_BCHW)
            copy = centre(copy, x_BCHW.shape[2], x_BCHW.shape[3])
            x_BCHW = pair(torch.cat([copy, x_BCHW], dim=1))
        return centre(self.score(x_BCHW), height, width)

    def _surrounded(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """The frame with so much around it that all sides halve and every pixel is told."""
        sides = [entering(side, self.depth, crop=self.crop) for side in x_BCHW.shape[2:]]
        more = [wanted - side for wanted, side in zip(sides, x_BCHW.shape[2:], strict=True)]
        if not any(more):
            return x_BCHW
        pads = [part for each in more[::-1] for part in (each // 2, each - each // 2)]
        return functional.pad(x_BCHW, pads, mode="reflect")


def entering(side: int, depth: int, *, crop: bool) -> int:
    """The side that a frame must have so that scores of `side` pixels, or a few more, come out.

    Without padding a pair of convolutions takes 4 pixels at each of its resolutions, down and up.
    """
    unit = 1 << depth
    if not crop:
        return -(-side // unit) * unit
    taken = 4 * (unit - 1)
    coarsest = -(-(side + taken) // unit)
    return unit * (coarsest + 4) + taken


def centre(x_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of maps; of an odd rest the larger part is cut at the end."""
    top, left = (x_BCHW.shape[2] - height) // 2, (x_BCHW.shape[3] - width) // 2
    return x_BCHW[:, :, top : top + height, left : left + width]


def _pair(before: int, after: int, padding: int, *, batch_norm: bool) -> nn.Sequential:
    """Two convolutions of 3 x 3."""
    parts: list[nn.Module] = []
    for given in (before, after):
        parts.append(nn.Conv2d(given, after, 3, padding=padding))
        parts += [nn.BatchNorm2d(after)] if batch_norm else []
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)
