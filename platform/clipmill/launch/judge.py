"""Validation in the middle of a run: on rank 0, told to every rank, so that all end together.

The weights that answer are copied into a network of their own, so that validation changes
nothing of training; chance is seeded anew each step. Knows neither Ray nor checkpoints.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from clipmill import evaluate as evaluation
from clipmill import infer, video
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, RecipeError
from clipmill.recipe import Recipe
from clipmill.train import Patience

WAIT = datetime.timedelta(days=1)  # of the other ranks: a validation takes what it takes


@dataclass(frozen=True)
class Verdict:
    """What a validation found."""

    metrics: dict[str, float]
    score: float  # the higher the better


class Judge:
    """Validates weights on rank 0 and tells all ranks."""

    def __init__(self, given: Recipe, catalog: Catalog, rank: int, world: int) -> None:
        self.given, self.catalog, self.rank = given, catalog, rank
        self.group: torch.distributed.ProcessGroup | None = None
        if world > 1:
            made = torch.distributed.new_group(backend="gloo", timeout=WAIT)
            assert not isinstance(made, int), "every rank is in it"
            self.group = made
        self.model: infer.Model | None = None
        check(given, catalog)

    def verdict(self, weights: Mapping[str, torch.Tensor]) -> Verdict:
        """Validate these weights; every rank asks."""
        told = [self._validated(weights) if self.rank == 0 else None]
        if self.group is not None:
            torch.distributed.broadcast_object_list(told, src=0, group=self.group)
        found = told[0]
        assert found is not None
        return found

    def _validated(self, weights: Mapping[str, torch.Tensor]) -> Verdict:
        model = self.model = self.model or self._network()
        model.module.load_state_dict(dict(weights))
        figures = evaluation.evaluate(model, self.catalog, stage="val")
        return Verdict(dict(figures["metrics"]), self._score(figures))

    def _network(self) -> infer.Model:
        plugin = self.given.plugin()
        classes = plugin.class_names(self.catalog)
        module = infer.build(plugin, classes, restored=True)
        profile = video.Profile(**self.catalog.meta["profile"])
        model = infer.Model(module, self.given, classes, profile)
        return model.to(infer.device())

    def _score(self, figures: Mapping[str, Any]) -> float:
        stop = self.given.train.stop
        if stop is None or stop.metric is None:
            sign = -1 if stop and _is_turned(stop.higher_is_better, self.given) else 1
            return sign * float(figures["score"])
        if stop.metric not in figures["metrics"]:
            raise RecipeError(
                f"train.stop.metric is {stop.metric!r}", f"one of {', '.join(figures['metrics'])}"
            )
        value = float(figures["metrics"][stop.metric])
        higher = stop.higher_is_better
        higher = self.given.plugin().higher_is_better if higher is None else higher
        return value if higher else -value


def _is_turned(asked: bool | None, given: Recipe) -> bool:
    return asked is not None and asked != given.plugin().higher_is_better


def check(given: Recipe, catalog: Catalog) -> None:
    """Refuse what cannot be validated before the first step."""
    if given.plugin().meter() is None:
        raise RecipeError(
            f"train.validate_every with {given.model.plugin}, which has no meter",
            "a plugin with a meter()",
            "take train.validate_every out",
        )
    split = given.data.validate_
    if not len(catalog.part(split=split, where=given.data.where)):
        raise PlanError(
            f"train.validate_every, and no records in the split {split!r}",
            "some to validate on",
            "set data.validate, or take train.validate_every out",
        )
    plans.make(given, "val", catalog)  # nor what of them cannot be used


def patience_of(given: Recipe) -> Patience | None:
    """When the run ends early, if it may."""
    stop = given.train.stop
    return Patience(stop.patience, stop.min_delta) if stop else None
