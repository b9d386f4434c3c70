"""Evaluation: every video of a split once, its clips joined to an answer, answers to figures.

In this process or over the workers of a cluster, with the same bits. The protocol travels with
the figures, and so does what could not be decoded. Knows nothing of MLflow.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clipmill import cluster, feed, infer
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.catalog import Catalog, with_targets
from clipmill.errors import DataError, PlanError, PluginError
from clipmill.evaluate.kinds import class_counts, figures_of, truth
from clipmill.evaluate.originals import originals
from clipmill.evaluate.pictures import draw
from clipmill.evaluate.pieces import pieces
from clipmill.evaluate.settled import settled_meter
from clipmill.evaluate.spread import spread
from clipmill.evaluate.work import Answered, answered
from clipmill.infer import Model
from clipmill.plan import Plan
from clipmill.readable import Clock, readable
from clipmill.takes import Stage

__all__ = ["asked", "check", "conditions", "draw", "evaluate", "originals"]

Progress = Callable[[str, int, int], None]
Answer = dict[str, Any]
Row = dict[str, Any]


def evaluate(
    model: Model,
    catalog: Catalog | None = None,
    *,
    stage: Stage = "test",
    workers: int = 0,
    address: str | None = None,
    from_originals: bool = False,
    keep_meters: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on a split: figures, protocol, and the answer to each video.

    Without workers it computes in this process. `from_originals` asks about the sources of the
    records, too. `keep_meters` adds a meter of each video, by key, where the plugin's meter has
    no score of a single video.
    """
    cluster.check(workers, address)
    plan = check(model, catalog, stage)
    parts = pieces(plan.epoch(0).record[:, 0])
    made = (
        spread(model, plan, parts, workers, address)
        if workers
        else answered(model, plan, parts, "thread")
    )
    with contextlib.closing(made):  # nothing is left running by an error
        done = _gathered(plan, made, model, progress)
    answers = dict(answer for part in done for answer in part.answers)
    bad = [row for part in done for row in part.bad]
    if not answers:
        raise DataError(
            f"not one of {len(plan.catalog)} videos could be decoded",
            "one at the least",
            "run `clipmill verify --deep` on the dataset",
        )
    rows = _targets(model, plan, list(answers))
    given = [_with_keys(answer, plan.catalog.keys) for answer in answers.values()]
    asked = {"originals": originals(model, rows, given, progress)} if from_originals else {}
    return {
        **conditions(model, plan),
        **_left_out(plan, rows, bad),
        **_measured(model, rows, given, keep_meters),
        **asked,
    }


def asked(
    model: Model,
    *,
    data: str | None = None,
    split: str | None = None,
    where: str | None = None,
    clips: int | None = None,
    crops: int | None = None,
) -> Model:
    """The same model for a test of other data or by another protocol than its recipe has."""
    plain = model.recipe.model_dump(mode="json", by_alias=True)
    if data is not None:
        plain["data"] |= {"path": data, "negatives": None, "curriculum": None}
    given = {"test": split, "where": where}
    plain["data"] |= {name: value for name, value in given.items() if value is not None}
    fields = {"test_clips": clips, "test_crops": crops}
    plain["model"] |= {name: value for name, value in fields.items() if value is not None}
    return replace(model, recipe=recipes.parse(plain).anchored())


def check(model: Model, catalog: Catalog | None = None, stage: Stage = "test") -> Plan:
    """The test plan of a model, or why it cannot be measured on this data."""
    plan = plans.make(model.recipe, stage, catalog)
    if model.plugin.meter() is None:
        raise PluginError(f"{model.recipe.model.plugin} has no meter", "a plugin with a meter()")
    _check_masks(model, plan.catalog)
    there = class_counts(plan.catalog, model.plugin)
    if strange := sorted(set(there) - set(model.classes) - {None}, key=str):
        raise PlanError(
            f"{plan.catalog.folder} has the class {strange[0]!r}",
            f"only those of the model: {', '.join(model.classes)}",
            "leave such records out with data.where (or --where)",
        )
    if model.classes and None in there and len(there) > 1:  # others than classifiers may need none
        raise PlanError(
            f"{there[None]} of {len(plan.catalog)} records of {plan.catalog.folder} have no class",
            "one for each that is measured",
            "leave such records out with data.where (or --where)",
        )
    return plan


def _check_masks(model: Model, catalog: Catalog) -> None:
    """Refuse masks whose numbers mean something else than those that were learnt."""
    if model.plugin.learns != "masks":
        return
    there = model.plugin.class_names(catalog)
    told = ", ".join(there) or "none"
    if there != model.classes:
        raise PlanError(
            f"the masks of {catalog.folder} have the classes {told}",
            f"those of the model, in their order: {', '.join(model.classes)}",
            "ingest them with the same mask_classes",
        )


def _gathered(
    plan: Plan, parts: Iterable[Answered], model: Model, progress: Progress | None
) -> list[Answered]:
    """All pieces in the order of the plan, whichever order they come in."""
    most = model.recipe.feed.max_bad_share * plan.takes_in_catalog
    gathered: list[Answered] = []
    done = bad = 0
    for part in parts:
        gathered.append(part)
        done, bad = done + len(part.piece), bad + len(part.bad)
        if bad > most:
            raise feed.too_many_bad(bad, most, part.bad[-1]["reason"])
        if progress:
            progress("evaluating clips", done, plan.takes_per_epoch)
    return sorted(gathered, key=lambda part: part.piece.start)


def conditions(model: Model, plan: Plan) -> dict[str, Any]:
    """What is measured, on what and how: known before anything is."""
    data, plugin = model.recipe.data, model.plugin
    told = {"split": data.split_of(plan.stage), "where": data.where}
    return {
        "protocol": {**infer.protocol(model.recipe), **told},
        "data": plan.catalog.folder,
        "data_digest": plan.catalog.digest,
        "plan_digest": plan.digest,
        "plugin": model.recipe.model.plugin,
        "classes": list(model.classes),
        "metric": plugin.metric,
        "higher_is_better": plugin.higher_is_better,
    }


def _targets(model: Model, plan: Plan, records: list[int]) -> list[Row]:
    """Catalog rows with their classes among the model's: data of other classes has other numbers."""
    place_of: dict[str | None, int] = {name: place for place, name in enumerate(model.classes)}
    return [with_targets(row, place_of) for row in plan.catalog.rows(records)]


def _with_keys(answer: Answer, keys: Sequence[str]) -> Answer:
    """An answer that tells with which others a video was compared by their keys."""
    if "others" not in answer:
        return answer
    return {**answer, "others": np.array([keys[at] for at in answer["others"].tolist()])}


def _left_out(plan: Plan, rows: list[Row], bad: list[Row]) -> dict[str, Any]:
    """What the figures are without, beside what they are of."""
    clips = Counter(row["wanted"][0] for row in bad)
    reasons = {row["wanted"][0]: row["reason"] for row in bad}
    there = {row["key"] for row in rows}
    left_out = [
        {"key": key, "bad_clips": count, "answered": key in there, "reason": reasons[key]}
        for key, count in sorted(clips.items())
    ]
    return {
        "videos": len(rows),
        "clips": plan.takes_per_epoch - len(bad),
        "bad_clips": len(bad),
        "videos_without_answer": sum(not row["answered"] for row in left_out),
        "left_out": left_out,
        "unfit": dict(plan.left_out),  # records that the plugin cannot use, by why
    }


def _measured(
    model: Model, rows: list[Row], answers: list[Answer], keep_meters: bool
) -> dict[str, Any]:
    """The metric over all videos in the order of the plan, figures, and each video's answer."""
    plugin, whole = model.plugin, settled_meter(model)
    score = getattr(whole, "score", None)  # of one video: its mean is the metric
    told, meters = [], {}
    for row, answer in zip(rows, answers, strict=True):
        whole.update(answer, row)
        clock = Clock(row["fps"], row["frames"])
        plain = readable(answer, model.classes, clock)
        own = {"key": row["key"], "target": truth(answer, row), **plain}
        told.append({**own, "score": float(score(answer, row))} if score else own)
        if keep_meters and not score:
            meters[row["key"]] = settled_meter(model)
            meters[row["key"]].update(answer, row)
    metrics = whole.compute()
    verdict = plugin.verdict(metrics)
    if score:
        _check_scores([row["score"] for row in told], metrics[plugin.metric], model)
    return {
        "metrics": metrics,
        "score": (1 if plugin.higher_is_better else -1) * metrics[plugin.metric],
        **({"health": verdict} if verdict else {}),
        **figures_of(rows, answers, model.classes, metrics),
        "answers": told,
        **({"meters": meters} if meters else {}),
    }


def _check_scores(scores: list[float], metric: float, model: Model) -> None:
    mean = math.fsum(scores) / len(scores)
    if not math.isclose(mean, metric, rel_tol=1e-6, abs_tol=1e-9):
        raise PluginError(
            f"the scores of {model.recipe.model.plugin}'s meter have the mean {mean:.6g}",
            f"its {model.plugin.metric}, {metric:.6g}",
            "a meter whose metric is no mean over videos has no `score`",
        )
