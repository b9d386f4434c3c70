"""How well things are found: average precision of masks and boxes, and whether they keep their numbers.

The precision is COCO's, by its own code: over overlaps of 0.5 to 0.95, and the mean over classes. A
thing that lies in what is void counts neither for nor against a mask, and at least half in it
neither for nor against a box. Frames are kept as run lengths, in the order of the videos: merging
parts gives exactly the whole.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipmill.errors import DataError
from clipmill.video import VOID
from clipmill_segment.things import Thing

Kind = Literal["segm", "bbox"]
NAMES: Mapping[Kind, str] = {"segm": "mask_ap", "bbox": "box_ap"}
SAME = 0.5  # overlap from which on what is told is what is true


@dataclass(frozen=True)
class Frame:
    """What was told of a frame, and what is true."""

    told: list[Thing]
    true: list[Thing]


class ThingsMeter:
    """Average precision of masks, and of boxes; how often a thing keeps its number."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.kept = self.links = 0

    def update(self, answer: Mapping[str, Any], target: Mapping[str, Any]) -> None:
        """Count one video; one of which nothing is known counts nothing."""
        if "truth" not in answer:
            return
        frames = list(_frames(answer))
        kept, links = numbers_kept(frames)
        self.frames += frames
        self.kept, self.links = self.kept + kept, self.links + links

    def merge(self, other: Self) -> None:
        """Add another meter's counts."""
        self.frames += other.frames
        self.kept, self.links = self.kept + other.kept, self.links + other.links

    def compute(self) -> dict[str, float]:
        """The figures; `mask_ap50` and `_ap75` are those at one overlap.

        `numbers_kept` is, of all cases in which a thing was found in a frame and again in one behind
        it, the share in which it had the same number; `numbers_kept_of` is how many cases these are.
        """
        if not any(thing["class"] != VOID for frame in self.frames for thing in frame.true):
            raise DataError("no thing is marked in what was measured", "videos with masks")
        figures = dict[str, float]()
        for kind, name in NAMES.items():
            precision_T = precisions(self.frames, kind)
            at_50, at_75 = float(precision_T[0]), float(precision_T[5])
            figures |= {name: float(precision_T.mean()), f"{name}50": at_50, f"{name}75": at_75}
        kept = {"numbers_kept": self.kept / self.links} if self.links else {}
        return {**figures, **kept, "numbers_kept_of": float(self.links)}


def _frames(answer: Mapping[str, Any]) -> Iterator[Frame]:
    for at in range(len(answer["frames"])):
        told, true = (
            [thing for thing in answer[name] if thing["at"] == at] for name in ("things", "truth")
        )
        yield Frame(told, true)


# --- average precision


def precisions(frames: Sequence[Frame], kind: Kind) -> NDArray[np.float64]:
    """The mean over classes of the average precision at each of COCO's ten overlaps."""
    told = [
        _told(thing, at)
        for at, frame in enumerate(frames, 1)
        for thing in (_outside_void(frame) if kind == "bbox" else frame.told)
    ]
    if not told:
        return np.zeros(10)
    with contextlib.redirect_stdout(io.StringIO()):  # its code tells how it goes
        truth = COCO()
        truth.dataset = _dataset(frames, kind)
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(told), kind)
        judge.evaluate()
        judge.accumulate()
    # overlaps x recalls x classes; -1 where a class is nowhere true
    precision_TRK = judge.eval["precision"][:, :, :, 0, -1]
    seen_K = (precision_TRK > -1).all((0, 1))
    return np.asarray(precision_TRK[:, :, seen_K].mean((1, 2)), np.float64)


def _outside_void(frame: Frame) -> list[Thing]:
    """What was told of a frame, less what has at least half of its mask in void.

    A box around void would hold more than void, so that as a crowd it would excuse too much.
    """
    void = [thing["mask"] for thing in frame.true if thing["class"] == VOID]
    if not void or not frame.told:
        return frame.told
    share_NV = run_lengths.iou([thing["mask"] for thing in frame.told], void, [1] * len(void))
    return [
        thing
        for thing, share in zip(frame.told, np.max(share_NV, axis=1), strict=True)
        if share < SAME
    ]


def _told(thing: Thing, image: int) -> dict[str, Any]:
    mask = thing["mask"]
    height, width = mask["size"]
    left, top, right, bottom = thing["box"]
    box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
    told = {"image_id": image, "category_id": thing["class"], "score": thing["score"]}
    return {**told, "bbox": box, "segmentation": mask}


def _dataset(frames: Sequence[Frame], kind: Kind) -> dict[str, Any]:
    """What is true as COCO has it; what is void is a crowd of every class, for masks."""
    things = [thing for frame in frames for thing in frame.true]
    classes = sorted({thing["class"] for thing in things} - {VOID})
    height, width = things[0]["mask"]["size"]
    rows = []
    for image, frame in enumerate(frames, 1):
        for thing in frame.true:
            is_void = thing["class"] == VOID
            if not is_void:
                rows.append(_true(thing, thing["class"], image))
            elif kind == "segm":
                rows += [{**_true(thing, each, image), "iscrowd": 1} for each in classes]
    return {
        "info": {},
        "images": [
            {"id": image, "height": height, "width": width} for image in range(1, len(frames) + 1)
        ],
        "categories": [{"id": each} for each in classes],
        "annotations": [{**row, "id": place} for place, row in enumerate(rows, 1)],
    }


def _true(thing: Thing, kind: int, image: int) -> dict[str, Any]:
    mask = thing["mask"]
    return {
        "image_id": image,
        "category_id": kind,
        "iscrowd": 0,
        "segmentation": mask,
        "area": float(run_lengths.area(mask)),
        "bbox": run_lengths.toBbox(mask).tolist(),
    }


# --- numbers


def numbers_kept(frames: Sequence[Frame]) -> tuple[int, int]:
    """How often a true thing has the number that it had when it was found last, and of how many."""
    last: dict[tuple[int, int], int] = {}
    kept = links = 0
    for frame in frames:
        for true, number in _found(frame).items():
            if true in last:
                links += 1
                kept += last[true] == number
            last[true] = number
    return kept, links


def _found(frame: Frame) -> dict[tuple[int, int], int]:
    """The number that each true thing was told to have, by its own; those overlapping most first."""
    told = [thing for thing in frame.told if thing["id"]]
    true = [thing for thing in frame.true if thing["class"] != VOID]
    if not told or not true:
        return {}
    masks = [[thing["mask"] for thing in side] for side in (told, true)]
    overlap_NM = np.asarray(run_lengths.iou(*masks, [0] * len(true)))
    found: dict[tuple[int, int], int] = {}
    while overlap_NM.max() >= SAME:
        row, column = np.unravel_index(int(overlap_NM.argmax()), overlap_NM.shape)
        key = true[column]["class"], true[column]["number"]
        found[key] = told[row]["id"]
        overlap_NM[row], overlap_NM[:, column] = 0.0, 0.0
    return found
