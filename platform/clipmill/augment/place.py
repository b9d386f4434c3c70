"""Where and when pixels are seen: flip, time reversal, a resized box, blur; for every kind of stream.

What an axis becomes is a small matrix a take: resizing (with the area that a pixel then covers)
and blur are two of them multiplied, and a batch is two batched products. Knows no colours.

Legend: B batch, T frames, H height, W width, C channels, N whatever lies between.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill.augment import chance
from clipmill.augment.chance import Floats, Seeds
from clipmill.takes import View

FLIPPED, REVERSED, BLURRED = 0.5, 0.5, 0.5  # shares of the takes
BLUR_PIXELS = (0.1, 2.0)  # deviation of the bell, at a size of 224 (Chen et al., SimCLR, 2020)
NO_BLUR_PIXELS = 1e-3  # of a bell that is one pixel

Tensor = torch.Tensor


@dataclass(frozen=True)
class Moves:
    """What happens to each take; what happens to none is None."""

    flipped: NDArray[np.bool_] | None = None
    reversed: NDArray[np.bool_] | None = None
    boxes: Floats | None = None  # top, left, height, width in shares of the frame
    blur_pixels: Floats | None = None


def drawn(seeds: Seeds, view: View, group: str = "") -> Moves:
    """Draw the moves of each take; streams of a group move together."""
    allowed = set(view.augment)
    blurs = np.where(
        chance.happens(seeds, f"blurred{group}", BLURRED),
        chance.between(seeds, f"blur{group}", *BLUR_PIXELS) * view.size / 224,
        NO_BLUR_PIXELS,
    )
    boxes = chance.boxes(seeds, f"box{group}", view.crop_area, view.crop_aspect)
    return Moves(
        chance.happens(seeds, f"flip{group}", FLIPPED) if "flip" in allowed else None,
        # One take has one direction of time, whatever its groups.
        chance.happens(seeds, "reverse", REVERSED) if "reverse" in allowed else None,
        boxes if "resized_crop" in allowed else None,
        blurs if "blur" in allowed else None,
    )


def changed(
    x: Tensor, chosen: NDArray[np.bool_] | None, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Change the chosen takes of a batch; what is given is never written to."""
    if chosen is None or not chosen.any():
        return x
    if chosen.all():
        return change(x)
    places = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
    return x.index_copy(0, places, change(x[places]))


def placed_rgb(x_BTHWC: Tensor, moves: Moves, size: int) -> Tensor:
    """Frames of bytes to floats of the same range, [B, C, T, size, size] if a box is resized."""
    x_BTHWC = changed(x_BTHWC, moves.flipped, lambda x: x.flip(3))
    x_BTHWC = changed(x_BTHWC, moves.reversed, lambda x: x.flip(1))
    x_BCTHW = floats(x_BTHWC)
    if moves.boxes is None:
        return x_BCTHW if moves.blur_pixels is None else _blurred(x_BCTHW, moves.blur_pixels)
    rows, columns = _resizing(x_BCTHW, moves.boxes, size)
    if moves.blur_pixels is not None:
        bell = blurring(moves.blur_pixels, size, x_BCTHW.device)
        rows, columns = bell @ rows, bell @ columns
    return resampled(x_BCTHW, rows, columns)


def placed_flow(x_BTHWC: Tensor, moves: Moves, size: int) -> Tensor:
    """Flow of bytes to floats in the same unit, x before y, [B, 2, T, H, W]."""
    x_BTHWC = changed(x_BTHWC, moves.flipped, lambda x: x.flip(3))
    x_BTHWC = changed(x_BTHWC, moves.reversed, lambda x: x.flip(1))
    x_BCTHW = floats(x_BTHWC)
    signs = np.ones((len(x_BCTHW), 2))
    signs[:, 0] *= 1 if moves.flipped is None else np.where(moves.flipped, -1, 1)
    signs *= 1 if moves.reversed is None else np.where(moves.reversed, -1, 1)[:, None]
    if moves.boxes is not None:
        height, width = x_BCTHW.shape[3:]
        signs /= moves.boxes[:, [3, 2]] * (width, height) / size  # fewer pixels, fewer moved
        x_BCTHW = resampled(x_BCTHW, *_resizing(x_BCTHW, moves.boxes, size))
    return x_BCTHW.mul_(tensor(signs, x_BCTHW.device)[:, :, None, None, None])


def placed_mask(x_BTHW: Tensor, moves: Moves, size: int) -> Tensor:
    """Masks of any numbers; a resized one takes the nearest pixel, so that none is invented."""
    x_BTHW = changed(x_BTHW, moves.flipped, lambda x: x.flip(3))
    x_BTHW = changed(x_BTHW, moves.reversed, lambda x: x.flip(1))
    if moves.boxes is None:
        return x_BTHW
    steps = (np.arange(size) + 0.5) / size
    takes = torch.arange(len(x_BTHW), device=x_BTHW.device)[:, None, None]
    rows, columns = (
        torch.from_numpy(_nearest(moves.boxes[:, at], moves.boxes[:, at + 2], steps, extent))
        for at, extent in enumerate(x_BTHW.shape[2:])
    )
    x_BTHW = x_BTHW.transpose(1, 2).transpose(2, 3)  # indices first, so that frames come along
    picked = x_BTHW[takes, rows.to(x_BTHW.device)[:, :, None], columns.to(x_BTHW.device)[:, None]]
    return picked.permute(0, 3, 1, 2)


def _nearest(starts: Floats, lengths: Floats, steps: Floats, extent: int) -> NDArray[np.int64]:
    at = (starts[:, None] + lengths[:, None] * steps) * extent
    return np.clip(np.floor(at).astype(np.int64), 0, extent - 1)


def placed_boxes(x_BTNE: Tensor, moves: Moves) -> Tensor:
    """Boxes (left, top, right, bottom in shares of the frame); one without area is none."""
    x = changed(x_BTNE, moves.flipped, lambda x: torch.stack(
        [1 - x[..., 2], x[..., 1], 1 - x[..., 0], x[..., 3]], -1))  # fmt: skip
    x = changed(x, moves.reversed, lambda x: x.flip(1))
    if moves.boxes is not None:
        seen = tensor(moves.boxes, x.device).to(x.dtype)[:, None, None, :]
        start, length = seen[..., [1, 0, 1, 0]], seen[..., [3, 2, 3, 2]]
        x = ((x - start) / length).clamp(0, 1)
    empty = (x[..., 2] <= x[..., 0]) | (x[..., 3] <= x[..., 1])
    return x.masked_fill(empty[..., None], 0.0)


def placed_audio(x_BS: Tensor, moves: Moves) -> Tensor:
    """Sound, played backwards where time is."""
    return changed(x_BS, moves.reversed, lambda x: x.flip(-1))


def floats(x_BTHWC: Tensor) -> Tensor:
    """Bytes to floats with channels before time, in one pass; always new memory."""
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    return x_BCTHW.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def tensor(array: Floats, device: torch.device) -> Tensor:
    """Parameters as floats on the device."""
    return torch.from_numpy(array.astype(np.float32)).to(device, non_blocking=True)


# --- what an axis becomes


def _resizing(x_BCTHW: Tensor, boxes: Floats, size: int) -> tuple[Tensor, Tensor]:
    """The matrices of rows and columns that make a box of each take a square of `size`."""
    height, width = x_BCTHW.shape[3:]
    rows = resizing(boxes[:, 0] * height, boxes[:, 2] * height, height, size)
    columns = resizing(boxes[:, 1] * width, boxes[:, 3] * width, width, size)
    return tensor(rows, x_BCTHW.device), tensor(columns, x_BCTHW.device)


def resizing(starts: Floats, lengths: Floats, extent: int, size: int) -> Floats:
    """Make [B, size, extent]: bilinear, and the average of what a pixel covers in shrinking."""
    step = lengths[:, None] / size
    centres = starts[:, None] + (np.arange(size) + 0.5) * step
    reach = np.maximum(step, 1.0)[..., None]
    away = np.abs(np.arange(extent) + 0.5 - centres[..., None]) / reach
    weights = np.maximum(0.0, 1.0 - away)
    return np.asarray(weights / weights.sum(axis=2, keepdims=True))


def blurring(deviations: Floats, size: int, device: torch.device) -> Tensor:
    """Make [B, size, size]: a bell about each pixel, cut at the edges."""
    away = np.arange(size)[:, None] - np.arange(size)
    bells = np.exp(-0.5 * (away / deviations[:, None, None]) ** 2)
    return tensor(bells / bells.sum(axis=2, keepdims=True), device)


def _blurred(x_BCTHW: Tensor, deviations: Floats) -> Tensor:
    chosen = deviations > NO_BLUR_PIXELS
    height, width = x_BCTHW.shape[3:]
    if not chosen.any():
        return x_BCTHW
    places = torch.from_numpy(np.flatnonzero(chosen)).to(x_BCTHW.device)
    rows, columns = (blurring(deviations[chosen], s, x_BCTHW.device) for s in (height, width))
    return x_BCTHW.index_copy_(0, places, resampled(x_BCTHW[places], rows, columns))


def resampled(x_BCTHW: Tensor, rows_BhH: Tensor, columns_BwW: Tensor) -> Tensor:
    """Give each take's rows and columns their new places; [B, C, T, h, w]."""
    batch, channels, frames, height, width = x_BCTHW.shape
    wide = torch.bmm(x_BCTHW.reshape(batch, -1, width), columns_BwW.transpose(1, 2))
    x_BNHw = wide.view(batch, channels * frames, height, -1)
    made = torch.matmul(rows_BhH[:, None], x_BNHw)
    return made.view(batch, channels, frames, *made.shape[2:])
