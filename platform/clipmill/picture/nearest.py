"""What a model finds alike, and how far its masks are those that are known.

Numbers in, numbers out; draws nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill.picture.seeing import TRUTHS, Seen
from clipmill.video import VOID
from clipmill.video.masks import picked

CUT = 0.5  # probability from which on a place is foreground


@dataclass(frozen=True)
class Alike:
    """A video, and those whose embeddings are nearest, each with its cosine."""

    query: Seen
    found: tuple[tuple[Seen, float], ...]


def neighbours(queries: Sequence[Seen], among: Sequence[Seen], count: int) -> list[Alike]:
    """The nearest of each by the cosine of their embeddings, the nearest first."""
    vectors = _unit(np.stack([each.outputs["embedding"].ravel() for each in among]))
    made = []
    for query in queries:
        own = next(at for at, each in enumerate(among) if each.place == query.place)
        cosines = vectors @ vectors[own]
        order = [int(at) for at in np.argsort(-cosines, kind="stable") if at != own]
        found = [(among[at], float(cosines[at])) for at in order[:count]]
        made.append(Alike(query, tuple(found)))
    return made


def _unit(vectors_ND: NDArray[Any]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors_ND.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(lengths, 1e-12), np.float64)


def told(found: Sequence[Alike], compared: int) -> dict[str, Any]:
    """The neighbours as plain data; where videos have classes, how many have that of the query."""
    rows = [
        {
            "key": each.query.row["key"],
            "label": each.query.row["label"],
            "neighbours": [
                {"key": other.row["key"], "label": other.row["label"], "cosine": cosine}
                for other, cosine in each.found
            ],
        }
        for each in found
    ]
    same = [
        other["label"] == row["label"]
        for row in rows
        if row["label"] is not None
        for other in row["neighbours"]
    ]
    share = {"same_class_share": float(np.mean(same))} if same else {}
    return {"compared": compared, **share, "rows": rows}


def overlaps(shown: Sequence[Seen]) -> dict[str, Any]:
    """The mean overlap (IoU) of masks with what is known of the same stills, by its kind."""
    made = {}
    for kind in TRUTHS:
        values = [overlap(each, kind) for each in shown if _has(each, kind)]
        if values:
            made[f"iou_with_{kind}"] = float(np.mean(values))
    return made


def _has(each: Seen, kind: str) -> bool:
    return "mask" in each.outputs and kind in each.truths


def overlap(each: Seen, kind: str) -> float:
    """What mask and truth share, of what either covers where it is known; empty ones agree."""
    ours = sized(each.outputs["mask"], each.picture.shape[:2]) >= CUT
    truth = sized(each.truths[kind], each.picture.shape[:2])
    theirs, known = truth > 0, truth != VOID
    either = np.count_nonzero((ours | theirs) & known)
    return np.count_nonzero(ours & theirs & known) / either if either else 1.0


def sized(x_HW: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Values at another size, each of the place that is nearest."""
    rows, columns = map(picked, x_HW.shape, shape)
    return np.asarray(x_HW[rows[:, None], columns])
