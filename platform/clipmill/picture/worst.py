"""Which test videos a model answers worst, by its own metric on each alone. Draws nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipmill import evaluate
from clipmill.errors import ClipmillError, DataError
from clipmill.infer import Model
from clipmill.plan import Plan

Progress = Callable[[str, int, int], None]


def worst(
    model: Model, plan: Plan, count: int, progress: Progress | None = None
) -> tuple[NDArray[np.int64], dict[int, float]]:
    """The rows of the videos whose figures are worst, and the figure of each.

    Of a video of which nothing is known there is none.
    """
    result = evaluate.evaluate(model, plan.catalog, keep_meters=True, progress=progress)
    place_of = {key: place for place, key in enumerate(plan.catalog.keys)}
    metric, sign = model.plugin.metric, 1 if model.plugin.higher_is_better else -1
    figures = {}
    for answer in result["answers"]:
        value = _figure(answer, result.get("meters", {}), metric)
        if value is not None:
            figures[place_of[answer["key"]]] = value
    if not figures:
        raise DataError(
            "no test video has a figure of its own", "videos of which the truth is known"
        )
    ranked = sorted(figures, key=lambda place: (sign * figures[place], place))[:count]
    return np.array(ranked, np.int64), {place: figures[place] for place in ranked}


def _figure(answer: dict[str, Any], meters: dict[str, Any], metric: str) -> float | None:
    if "score" in answer:
        return float(answer["score"])
    try:
        return float(meters[answer["key"]].compute()[metric])
    except (ClipmillError, KeyError):
        return None
