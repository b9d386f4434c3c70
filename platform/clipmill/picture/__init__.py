"""What a model makes of test videos, as one picture, by the names of its outputs.

`mask` [H, W] is drawn over the still that it is of, `class_scores` [K, H, W] in a colour a class,
things with their numbers, `heat` [h, w] as a heat map, and for `embedding` [D] a row a video shows
those whose embeddings are nearest by the cosine. Knows no plugin.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import catalog, storage
from clipmill import plan as plans
from clipmill.errors import DataError, PluginError, UsageError
from clipmill.infer import Model
from clipmill.picture import drawing, nearest
from clipmill.picture.film import SUFFIXES as FILMS
from clipmill.picture.film import film
from clipmill.picture.seeing import Seen, seen
from clipmill.picture.worst import worst
from clipmill.plan import Plan
from clipmill.video import sheet

__all__ = ["FILMS", "film_of", "picture"]

MOST_COMPARED = 400  # videos among which neighbours are found
NEIGHBOURS = 5
AXES = {  # of what can be drawn
    "mask": "HW", "heat": "hw", "embedding": "D", "class_scores": "KHW", "thing_masks": "NMM",
}  # fmt: skip

Progress = Callable[[str, int, int], None]


def picture(
    model: Model,
    out: str,
    *,
    videos: int = 8,
    name: str = "",
    worst_first: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw what a model makes of some videos of its test split into a PNG or JPEG file."""
    file = storage.absolute(out)
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in sheet.SUFFIXES:
        raise UsageError(f"the picture {file}", f"a file that ends in {', '.join(sheet.SUFFIXES)}")
    if videos < 1:
        raise UsageError(f"{videos} videos", "1 at the least")
    plan = plans.make(model.recipe, "test")
    figures: dict[int, float] = {}
    rows = _spread(len(plan.catalog), videos)
    if worst_first:
        rows, figures = worst(model, plan, videos, progress)
    shown = _in_order(seen(model, plan, np.sort(rows), progress), rows, figures, model)
    kinds = _kinds(model, shown[0])
    title = f"{name or model.recipe.run.name}: {len(shown)} of {len(plan.catalog)} test videos"
    told: dict[str, Any] = {"file": file, "videos": len(shown), "kinds": kinds}
    if figures:
        told["worst"] = [{"key": each.row["key"], "figure": figures[each.place]} for each in shown]
    parts = []
    if set(kinds) - {"embedding"}:
        parts += drawing.over_stills(shown)
        told |= nearest.overlaps(shown)
    if "embedding" in kinds and (len(plan.catalog) > 1 or len(kinds) == 1):
        others = _others(model, plan, shown, progress)
        found = nearest.neighbours(shown, [*shown, *others], NEIGHBOURS)
        parts += drawing.neighbours(found)
        told |= nearest.told(found, len(shown) + len(others))
    storage.put(file, sheet.encoded(drawing.below(title, parts), suffix))
    return told


def _in_order(
    shown: list[Seen], rows: NDArray[np.int64], figures: dict[int, float], model: Model
) -> list[Seen]:
    """Videos in the order that was asked for, with the figure of each that has one."""
    order = {place: at for at, place in enumerate(rows.tolist())}
    metric = model.plugin.metric
    return [
        replace(each, words=(f"{metric} {figures[each.place]:.3f}",)) if figures else each
        for each in sorted(shown, key=lambda each: order[each.place])
    ]


def _kinds(model: Model, one: Seen) -> list[str]:
    """What can be drawn of what a model answers with."""
    kinds = [kind for kind in AXES if kind in one.outputs]
    if not kinds:
        raise PluginError(
            f"{model.recipe.model.plugin} answers with {', '.join(sorted(one.outputs))}",
            f"one of {', '.join(AXES)}, which can be drawn",
        )
    for kind in kinds:
        if one.outputs[kind].ndim != len(AXES[kind]):
            raise PluginError(
                f"{kind} of {list(one.outputs[kind].shape)} a take",
                f"[{', '.join(AXES[kind])}], as all that is named so",
            )
    return kinds


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Some rows, evenly spread over all."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def _others(model: Model, plan: Plan, shown: list[Seen], progress: Progress | None) -> list[Seen]:
    """Further videos to find neighbours among."""
    rows = np.setdiff1d(_spread(len(plan.catalog), MOST_COMPARED), [each.place for each in shown])
    if not len(rows) and len(shown) < 2:
        raise UsageError("one test video, which has no neighbours", "two at the least")
    try:
        return seen(model, plan, rows, progress) if len(rows) else []
    except DataError:  # not one of them decodes: what is shown has neighbours all the same
        if len(shown) < 2:
            raise
        return []


def film_of(
    model: Model,
    out: str,
    *,
    videos: int = 8,
    files: Sequence[str] = (),
    seconds: float = 60.0,
    worst_first: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw what a model makes of every moment of files, or of test videos, into an MP4."""
    file = storage.absolute(out)
    if os.path.splitext(file)[1].lower() not in FILMS:
        raise UsageError(f"the film {file}", f"a file that ends in {', '.join(FILMS)}")
    if files:
        sources = ((name, storage.read(name)) for name in files)
        return film(model, sources, file, seconds=seconds, progress=progress)
    if videos < 1:
        raise UsageError(f"{videos} videos", "1 at the least")
    plan = plans.make(model.recipe, "test")
    rows = (
        worst(model, plan, videos, progress)[0]
        if worst_first
        else _spread(len(plan.catalog), videos)
    )
    records = (plan.catalog.row(int(place)) for place in rows)
    own = ((str(row["key"]), catalog.member(row)) for row in records)
    return film(model, own, file, seconds=seconds, progress=progress)
