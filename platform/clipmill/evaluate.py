"""Evaluation: every video of a split once, its clips joined to an answer, answers to figures.

The protocol travels with the figures. Knows neither Ray nor MLflow.
"""

from collections.abc import Callable, Iterator
from typing import Any

from clipmill import feed, infer
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, PluginError
from clipmill.infer import Model
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.takes import Stage

Progress = Callable[[str, int, int], None]


def evaluate(
    model: Model,
    catalog: Catalog | None = None,
    *,
    stage: Stage = "test",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on a split: figures, protocol, and the answer to each video."""
    plan = plans.make(model.recipe, stage, catalog)
    _check_classes(model, plan)
    meter = model.plugin.meter()
    if meter is None:
        raise PluginError(f"{model.recipe.model.plugin} has no meter", "a plugin with a meter()")
    batches = _told(plan, _batches(plan), progress)
    results = list(infer.outputs(model, batches))
    rows: list[dict[str, Any]] = []
    for record, answer in infer.answers(model, plan, results):
        row = plan.catalog.row(record)
        row["target"] = _target(model, row)
        meter.update(answer, row)
        rows.append(
            {"key": row["key"], "target": row["label"], **infer.readable(answer, model.classes)}
        )
    metrics = meter.compute()
    sign = 1 if model.plugin.higher_is_better else -1
    return {
        "protocol": {**infer.protocol(model.recipe), "split": model.recipe.data.split_of(stage)},
        "data": plan.catalog.folder,
        "plan_digest": plan.digest,
        "videos": len(rows),
        "metrics": metrics,
        "metric": model.plugin.metric,
        "score": sign * metrics[model.plugin.metric],  # the higher the better
        "answers": rows,
    }


def _check_classes(model: Model, plan: Plan) -> None:
    """Refuse data of other classes before any of it is decoded."""
    strange = sorted(set(plan.catalog.counts("label")) - set(model.classes), key=str)
    if strange and model.classes:
        raise PlanError(
            f"{plan.catalog.folder} has the class {strange[0]!r}",
            f"only those of the model: {', '.join(model.classes)}",
            "leave such records out with data.where",
        )


def _target(model: Model, row: dict[str, Any]) -> int:
    """The record's class among the model's; data of other classes has other numbers."""
    return model.classes.index(row["label"]) if row["label"] in model.classes else -1


def _batches(plan: Plan) -> Iterator[Sample]:
    count = -(-plan.takes_per_epoch // plan.batch)
    return feed.batches(plan, feed.Share(0, count))


def _told(plan: Plan, batches: Iterator[Sample], progress: Progress | None) -> Iterator[Sample]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch["position"])
        if progress:
            progress("evaluating clips", done, plan.takes_per_epoch)
