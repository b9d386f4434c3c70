"""What a model makes of test videos, as one picture, by the names of its outputs.

`mask` [H, W] is drawn over the still that it is of, `heat` [h, w] as a heat map, and for `embedding`
[D] a row a video shows those that the model finds most alike. Knows no plugin.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import plan as plans
from clipmill import storage
from clipmill.errors import DataError, PluginError, UsageError
from clipmill.infer import Model
from clipmill.picture import drawing, nearest
from clipmill.picture.seeing import Seen, seen
from clipmill.plan import Plan
from clipmill.video import sheet

__all__ = ["Seen", "picture", "seen"]

MOST_COMPARED = 400  # videos among which neighbours are found
NEIGHBOURS = 5
AXES = {"mask": "HW", "heat": "hw", "embedding": "D"}  # of what can be drawn

Progress = Callable[[str, int, int], None]


def picture(
    model: Model, out: str, *, videos: int = 8, name: str = "", progress: Progress | None = None
) -> dict[str, Any]:
    """Draw what a model makes of some videos of its test split into a PNG or JPEG file."""
    file = storage.absolute(out)
    suffix = os.path.splitext(file)[1].lower()
    if suffix not in sheet.SUFFIXES:
        raise UsageError(f"the picture {file}", f"a file that ends in {', '.join(sheet.SUFFIXES)}")
    if videos < 1:
        raise UsageError(f"{videos} videos", "1 at the least")
    plan = plans.make(model.recipe, "test")
    shown = seen(model, plan, _spread(len(plan.catalog), videos), progress)
    kinds = _kinds(model, shown[0])
    title = f"{name or model.recipe.run.name}: {len(shown)} of {len(plan.catalog)} test videos"
    told: dict[str, Any] = {"file": file, "videos": len(shown), "kinds": kinds}
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
