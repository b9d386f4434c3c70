"""Max pooling that keeps where each maximum came from, and unpooling that puts it back there.

Legend: B batch, C channels, H height, W width.
"""

import torch
from torch.nn import functional

SIDE = 2  # of what is pooled, in pixels


def pooled(x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The maxima of squares, and their places in the flattened plane."""
    maxima, places = functional.max_pool2d(x_BCHW, SIDE, return_indices=True)
    return maxima, places


def unpooled(
    x_BCHW: torch.Tensor, places_BCHW: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Each value at its place in a plane of zeros."""
    return functional.max_unpool2d(x_BCHW, places_BCHW, [SIDE, SIDE], output_size=[height, width])
