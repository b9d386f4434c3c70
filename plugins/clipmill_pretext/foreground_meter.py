"""How well a mask is told, beside answers that need no network, in pixels of the same frames.

Counts are whole numbers over all frames: merging parts gives exactly the whole. Knows masks as
arrays, and neither videos nor networks.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipmill.errors import DataError
from clipmill_pretext.health import Health

BOXES = (0.25, 0.5, 0.75)  # sides of boxes in the middle, in shares of the frame
SIMPLE = ("background", "foreground", *(f"box {side}" for side in BOXES))  # need no network
ROWS = ("told", *SIMPLE, "motion", "agreement")
TOLD_FROM = 0.5  # the probability from which on a pixel is told to be foreground

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]  # pixels that are: rightly in, wrongly in, wrongly out, rightly out


def pixels(told_HW: Mask, truth_HW: Mask, known_HW: Mask) -> Counts:
    """Count the pixels of a mask by what is true of them, where that is known."""
    told, truth = told_HW[known_HW], truth_HW[known_HW]
    both, inside, true = (int(m.sum()) for m in (told & truth, told, truth))
    return np.array([both, inside - both, true - both, truth.size - inside - true + both])


def counted(
    mask_HW: NDArray[Any], motion_HW: Mask, truth_HW: Mask, *, known_HW: Mask, moves: bool
) -> Counts:
    """Count one frame: a row for each of ROWS.

    All rows but the last are answers against the truth, where it is known; the last is the
    network's against the motion, of a frame in which something moves.
    """
    told_HW = mask_HW >= TOLD_FROM
    answers = [told_HW, *simple(*truth_HW.shape), motion_HW]
    against_motion = pixels(told_HW, motion_HW, np.full(motion_HW.shape, moves))
    return np.stack([*(pixels(each, truth_HW, known_HW) for each in answers), against_motion])


@cache
def simple(height: int, width: int) -> tuple[Mask, ...]:
    """The answers that need no network, in the order of SIMPLE."""
    nothing = np.zeros((height, width), np.bool_)
    return nothing, ~nothing, *(_box(height, width, side) for side in BOXES)


def _box(height: int, width: int, side: float) -> Mask:
    """A box in the middle."""
    inside = [
        np.abs(np.arange(extent) + 0.5 - extent / 2) < extent * side / 2
        for extent in (height, width)
    ]
    return np.asarray(inside[0][:, None] & inside[1])


def overlaps(counts: Counts) -> tuple[float, float]:
    """Intersection over union of the foreground and of the background; 1 where neither is."""
    inside, wrongly_in, wrongly_out, outside = counts.tolist()
    wrong = wrongly_in + wrongly_out
    return (
        inside / (inside + wrong) if inside + wrong else 1.0,
        outside / (outside + wrong) if outside + wrong else 1.0,
    )


class ForegroundMeter:
    """Mean intersection over union of both classes, over the pixels of all frames."""

    def __init__(self) -> None:
        self.counts: Counts = np.zeros((len(ROWS), 4), np.int64)
        self.frames = self.marked_videos = 0
        self.health = Health(("embedding",))

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video: the pixels of its frames [frames, ROWS, 4], and whether masks told them."""
        counts = np.asarray(answer["pixels"], np.int64)
        self.counts += counts.sum(0)
        self.frames += int(counts[:, 0].any(axis=1).sum())
        self.marked_videos += int(answer["marked"])
        self.health.update(answer, target)

    def merge(self, other: Self) -> None:
        """Add another meter's counts."""
        self.counts = self.counts + other.counts
        self.frames += other.frames
        self.marked_videos += other.marked_videos
        self.health.merge(other.health)

    def compute(self) -> dict[str, float]:
        """The overlap, that of the answers that need no network, and the health of what was learnt.

        The box is the best of those of BOXES. Of `marked_videos` the truth is their masks, of others
        the motion. `iou_of_motion` is what the motion's masks are worth as an answer, and
        `agreement` how much of them the network tells.
        """
        if not self.frames:
            raise DataError(
                "no frame with a mask was measured",
                "videos in which something moves",
                "lower model.rate, so that more moves from frame to frame",
            )
        of = {name: overlaps(row) for name, row in zip(ROWS, self.counts, strict=True)}
        mean = {name: (inside + outside) / 2 for name, (inside, outside) in of.items()}
        return {
            "iou": mean["told"],
            "iou_foreground": of["told"][0],
            "iou_background": of["told"][1],
            "iou_all_background": mean["background"],
            "iou_all_foreground": mean["foreground"],
            "iou_centre_box": max(mean[f"box {side}"] for side in BOXES),
            "iou_of_motion": mean["motion"],
            "agreement": mean["agreement"],
            "frames": float(self.frames),
            "marked_videos": float(self.marked_videos),
            **self.health.compute(),
        }


def best_simple(metrics: Mapping[str, float]) -> float:
    """The best overlap that needs no network."""
    names = ("iou_all_background", "iou_all_foreground", "iou_centre_box")
    return max(metrics[name] for name in names)
