"""What pixels look like: brightness, contrast, saturation, hue and grey; boxes that are hidden.

All of the colour is one 3 x 3 matrix and one shift a take, so that it costs one product whatever
is asked. Knows neither places nor time.

Legend: B batch, T frames, H height, W width, C channels.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill.augment import chance
from clipmill.augment.chance import Floats, Seeds
from clipmill.augment.place import Tensor, tensor
from clipmill.takes import View

COLOURED, GREYED, ERASED = 0.8, 0.2, 0.25  # shares of the takes
STRENGTH = 0.4  # of brightness, contrast and saturation: factors from 0.6 to 1.4
HUE_TURN = 0.1  # of a whole turn, either way
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 3.3)  # Zhong et al., Random Erasing, 2017

LUMA = np.array([0.299, 0.587, 0.114])
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ[1:] -= YIQ[1:].mean(axis=1, keepdims=True)  # rounded figures must not colour what is grey


def coloured(x_BCTHW: Tensor, seeds: Seeds, view: View, group: str = "") -> Tensor:
    """Change the colours of frames between 0 and 255, where the view allows it."""
    allowed = {"color", "grey"} & set(view.augment)
    if not allowed:
        return x_BCTHW
    matrices, contrasts = mixing(seeds, view, group)
    matrix = tensor(matrices, x_BCTHW.device)
    flat = x_BCTHW.flatten(2)
    if "color" not in allowed:
        return torch.bmm(matrix, flat).view_as(x_BCTHW)
    # Of each take, about which contrast turns. Not a product with a vector: the last bit of a row
    # would depend on how many there are.
    light = (flat.mean(2) * tensor(LUMA, x_BCTHW.device)).sum(1)
    shift = light * tensor(contrasts, x_BCTHW.device)
    mixed = torch.baddbmm(shift[:, None, None].expand(-1, 3, 1), matrix, flat)
    return mixed.clamp_(0, 255).view_as(x_BCTHW)


def mixing(seeds: Seeds, view: View, group: str = "") -> tuple[Floats, Floats]:
    """The matrix of each take, and what share of its mean light is added."""
    count = len(seeds)
    matrix, lift = np.broadcast_to(np.eye(3), (count, 3, 3)), np.zeros(count)
    if "color" in view.augment:
        chosen = chance.happens(seeds, f"coloured{group}", COLOURED)
        factors = 1 + STRENGTH * (2 * chance.uniform(seeds, f"color{group}", 3) - 1)
        bright, contrast, saturation = np.where(chosen[:, None], factors, 1.0).T
        turns = np.where(chosen, chance.between(seeds, f"hue{group}", -HUE_TURN, HUE_TURN), 0.0)
        # Neither saturation nor hue moves a grey, so what contrast adds goes through unchanged.
        matrix = (bright * contrast)[:, None, None] * (hue(turns) @ saturated(saturation))
        lift = (1 - contrast) * bright
    if "grey" in view.augment:
        chosen = chance.happens(seeds, f"grey{group}", GREYED)
        matrix = saturated(np.where(chosen, 0.0, 1.0)) @ matrix
    return matrix, lift


def saturated(shares: Floats) -> Floats:
    """Matrices from a picture in greys (0) to itself (1) and beyond."""
    share = shares[:, None, None]
    return np.asarray(share * np.eye(3) + (1 - share) * np.broadcast_to(LUMA, (3, 3)))


def hue(turns: Floats) -> Floats:
    """Matrices that turn the colours about the greys; the light stays."""
    angle = 2 * np.pi * turns
    turn = np.zeros((len(turns), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    return np.asarray(np.linalg.inv(YIQ) @ turn @ YIQ)


# --- boxes


def erased_boxes(seeds: Seeds, group: str = "") -> Floats:
    """The box that is hidden of each take, in shares of the frame; without area where none is."""
    boxes = chance.boxes(seeds, f"erase{group}", ERASED_AREA, ERASED_ASPECT)
    boxes[~chance.happens(seeds, f"erased{group}", ERASED), 2:] = 0
    return boxes


def within(boxes: Floats, height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels' centres lie within each take's box, [B, height, width]."""
    rows, columns = (
        (place >= boxes[:, [at]]) & (place < boxes[:, [at]] + boxes[:, [at + 2]])
        for at, place in enumerate((_centres(height), _centres(width)))
    )
    return np.asarray(rows[:, :, None] & columns[:, None, :])


def _centres(extent: int) -> Floats:
    return (np.arange(extent) + 0.5) / extent


def inside(boxes: Floats, like: Tensor) -> Tensor:
    """The pixels within each take's box, on the device of a stream and for its shape."""
    chosen = torch.from_numpy(within(boxes, *like.shape[-2:])).to(like.device)
    return chosen.view(len(boxes), *[1] * (like.ndim - 3), *like.shape[-2:])


def erased(x_BCTHW: Tensor, boxes: Floats) -> Tensor:
    """Hide boxes of prepared floats, in place: 0 is the mean colour, and no motion."""
    return x_BCTHW.masked_fill_(inside(boxes, x_BCTHW), 0.0)
