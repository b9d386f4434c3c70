"""Records that a plugin cannot use: left out of every plan, counted once, told; never none left."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from clipmill import evaluate, infer, recipe
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import PlanError, PluginError
from clipmill.launch import judge
from clipmill.plan.unfit import without_unfit
from clipmill.plugin import Plugin
from clipmill_classify.single_frame import SingleFrame
from tiny import catalog_of, recipe_of, rows


class Particular(SingleFrame):
    """Wants long videos, and those of its own taste."""

    unwanted: ClassVar[tuple[int, ...]] = (2, 3)

    def unfit(self, catalog: Catalog) -> Mapping[str, Any]:
        short = catalog.column("frames") < 50
        return {"too short": short, "dull": np.isin(np.arange(len(catalog)), self.unwanted)}


def some(count: int = 8) -> Catalog:
    made = rows(count)
    made[1]["frames"] = made[2]["frames"] = 20
    return catalog_of(made)


@pytest.fixture
def particular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe.Recipe, "plugin", lambda self: Particular(width=0.125))


@pytest.mark.usefixtures("particular")
@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_no_plan_has_what_is_unfit(stage: Any) -> None:
    given = recipe.load(recipe_of(data={"validate": "train", "test": "train"}))
    made = plans.make(given, stage, some())
    assert made.left_out == (("too short", 2), ("dull", 1)), "of two reasons the first counts"
    takes = made.epoch(0)
    used = {made.keys(takes, place)[0] for place in range(len(takes))}
    assert used == {rows(8)[place]["key"] for place in (0, 4, 5, 6, 7)}
    told = plans.warnings(made)
    assert told[:2] == [
        "2 videos are left out, which single_frame cannot use: too short",
        "1 videos are left out, which single_frame cannot use: dull",
    ]


@pytest.mark.usefixtures("particular")
def test_the_digest_is_that_of_a_plan_over_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    given = recipe.load(recipe_of())
    whole = plans.make(given, "train", some())
    left = catalog_of([rows(8)[place] for place in (0, 4, 5, 6, 7)])
    monkeypatch.setattr(Particular, "unwanted", ())
    assert plans.make(given, "train", left).digest == whole.digest
    assert plans.make(given, "train", catalog_of(rows(8))).digest != whole.digest


def test_nothing_left_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Particular, "unwanted", tuple(range(8)))
    with pytest.raises(PlanError, match="none of the 8 records .* 2 too short, 6 dull"):
        without_unfit(some(), Particular(), "train")


@pytest.mark.parametrize("mask", [np.zeros(3, np.bool_), np.zeros(8, np.int64)])
def test_a_mask_that_is_none_is_the_plugins_fault(
    monkeypatch: pytest.MonkeyPatch, mask: Any
) -> None:
    monkeypatch.setattr(Particular, "unfit", lambda self, catalog: {"dull": mask})
    with pytest.raises(PluginError, match="8 truth values, one a record"):
        without_unfit(some(), Particular(), "train")


def test_most_plugins_can_use_all() -> None:
    made = some()
    assert without_unfit(made, SingleFrame(), "train") == (made, ())
    assert Plugin.unfit(SingleFrame(), made) == {}


def test_figures_tell_what_they_are_without(
    dataset: str, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = infer.load(f"{trained['folder']}/model")
    whole = evaluate.evaluate(model)
    monkeypatch.setattr(
        SingleFrame,
        "unfit",
        lambda self, catalog: {"dull": np.arange(len(catalog)) == 1},
        raising=False,
    )
    told = evaluate.evaluate(model)
    assert (whole["unfit"], told["unfit"]) == ({}, {"dull": 1})
    assert told["videos"] == whole["videos"] - 1 and not told["left_out"]


@pytest.mark.usefixtures("particular")
def test_what_can_never_be_validated_is_refused_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = recipe.load(recipe_of(data={"validate": "train"}, train={"validate_every": 1}))
    judge.check(given, some())
    monkeypatch.setattr(Particular, "unwanted", tuple(range(8)))
    with pytest.raises(PlanError, match="none of the 8 records of the split 'train'"):
        judge.check(given, some())
