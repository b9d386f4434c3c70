"""What counts of pixels tell of each class of masks, by name. Plain numbers from plain numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

GROUND = "(none)"  # what no mask names


def pixel_figures(answers: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Pixels by true and told class, the ground first, over all answers that hold such counts.

    Of a class without any pixel, true or told, there is no overlap.
    """
    names = [GROUND, *classes]
    counted = [np.asarray(each["confusion"], np.int64) for each in answers if "confusion" in each]
    if not counted or any(each.shape != (len(names), len(names)) for each in counted):
        return {}
    counts_KK = np.sum(counted, axis=0)
    right_K, true_K, told_K = counts_KK.diagonal(), counts_KK.sum(1), counts_KK.sum(0)
    either_K = true_K + told_K - right_K
    rows = [
        {
            "name": name,
            "pixels": int(true_K[at]),
            "told": int(told_K[at]),
            "accuracy": float(right_K[at] / true_K[at]) if true_K[at] else None,
            "iou": float(right_K[at] / either_K[at]) if either_K[at] else None,
        }
        for at, name in enumerate(names)
    ]
    return {"pixels": {"classes": names, "counts": counts_KK.tolist(), "by_class": rows}}
