"""Things as plain data: a box, a class, a score, and a mask as the run lengths that COCO has.

Arrays of a network's outputs and of stored masks in, dictionaries out. Knows neither networks nor
videos.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths

from clipmill.video import VOID, plane_of

Mask = NDArray[np.bool_]
Runs = dict[str, Any]  # size: [height, width], counts: as COCO writes them
Thing = dict[str, Any]

CUT = 0.5  # probability from which on a pixel is of a thing


def found(output: Mapping[str, NDArray[Any]]) -> list[Thing]:
    """The things that a network told of a frame, the surest first."""
    size = output["truth"].shape
    made = []
    for place in np.flatnonzero(output["thing_scores"] > 0).tolist():
        box = output["thing_boxes"][place].astype(np.float64)
        made.append({
            "class": int(output["thing_labels"][place]),
            "score": float(output["thing_scores"][place]),
            "id": 0,
            "box": box.tolist(),
            "mask": runs_of(pasted(output["thing_masks"][place], box, size)),
        })  # fmt: skip
    return made


def marked(classes_HW: NDArray[Any], things_HW: NDArray[Any]) -> list[Thing]:
    """The true things of a frame, and what of it is void: one thing of the class 255."""
    made = []
    things_HW = np.where(classes_HW == VOID, 0, things_HW)  # whatever numbers void has
    pairs = np.stack([classes_HW.ravel(), things_HW.ravel()], 1).astype(np.int64)
    for kind, number in np.unique(pairs[pairs[:, 0] > 0], axis=0).tolist():
        mask = (classes_HW == kind) & (things_HW == number)
        made.append({"class": kind, "number": number, "mask": runs_of(mask)})
    return made


def pasted(shares_MM: NDArray[Any], box: NDArray[np.float64], size: tuple[int, ...]) -> Mask:
    """Where the mask of a box is at least a half, in a frame of that size.

    The box is in shares of the frame. Between the middles of the mask's cells its values are
    bilinear; a pixel is asked at its middle.
    """
    height, width = size
    left, top, right, bottom = box * (width, height, width, height)
    rows, down = _along(top, bottom, height, shares_MM.shape[0])
    columns, across = _along(left, right, width, shares_MM.shape[1])
    mask = np.zeros((height, width), np.bool_)
    mask[rows, columns] = down @ shares_MM @ across.T >= CUT
    return mask


def _along(low: float, high: float, extent: int, cells: int) -> tuple[slice, NDArray[np.float64]]:
    """The pixels of an axis whose middles a box holds, and how they are made of the cells."""
    first, last = (int(np.clip(np.ceil(end - 0.5), 0, extent)) for end in (low, high))
    middles = np.arange(first, last) + 0.5
    at = ((middles - low) / max(high - low, 1e-9) * cells - 0.5).clip(0, cells - 1)
    away = np.abs(at[:, None] - np.arange(cells))
    return slice(first, last), np.maximum(0.0, 1.0 - away)


def runs_of(mask_HW: Mask) -> Runs:
    """A mask as run lengths."""
    told = run_lengths.encode(np.asfortranarray(mask_HW, np.uint8))
    return {"size": [int(side) for side in told["size"]], "counts": told["counts"].decode("ascii")}


def mask_of(runs: Runs) -> Mask:
    """Run lengths as a mask."""
    height, width = runs["size"]
    return np.asarray(plane_of(runs, (height, width)), np.bool_)
