"""Lessons: `fit` sees the plan's batches after the last step, and what it learns is kept."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmill import checkpoint, launch, recipe
from clipmill.checkpoint import Keeper
from clipmill.errors import RecipeError
from clipmill.launch import lesson, stop
from clipmill_classify.single_frame import SingleFrame
from tiny import run_recipe


def counting(stops: str | None = None) -> Any:
    """A `fit` that counts takes into the bias, and may have the run told to stop meanwhile."""

    def fit(
        self: SingleFrame, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]
    ) -> None:
        assert not model.training
        for batch in batches:
            if stops:
                stop.ask(stops)
            with torch.no_grad():
                model.get_buffer("judge.taught").add_(len(batch["target"]))

    return fit


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> None:
    build = SingleFrame.build

    def with_count(self: SingleFrame, info: Any) -> torch.nn.Module:
        model = build(self, info)
        model.get_submodule("judge").register_buffer("taught", torch.zeros(1))
        return model

    monkeypatch.setattr(SingleFrame, "build", with_count)


def worked(dataset: str, folder: Path, **train: Any) -> dict[str, torch.Tensor]:
    given = recipe.parse(run_recipe(dataset, folder, "run", **train))
    launch.work({"recipe": given.plain(), "folder": str(folder), "transport": "thread"})
    last = Keeper(str(folder)).last()
    assert last is not None
    return checkpoint.read_weights(last)


@pytest.mark.usefixtures("taught")
def test_what_is_taught_after_the_last_step_is_kept(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = worked(dataset, tmp_path / "plain", steps=8)
    monkeypatch.setattr(SingleFrame, "fit", counting())
    found = worked(dataset, tmp_path / "taught", steps=8)
    assert float(found.pop("judge.taught")) == 24 and float(plain.pop("judge.taught")) == 0
    # An epoch, whatever the number of steps, and the last batch of it, though it is short.
    odd = worked(dataset, tmp_path / "odd", steps=2, batch=7)
    assert float(odd["judge.taught"]) == 24
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.usefixtures("taught")
def test_a_run_stopped_in_its_lesson_is_taught_when_it_goes_on(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SingleFrame, "fit", counting(stops=str(tmp_path)))
    worked(dataset, tmp_path, steps=8)
    assert checkpoint.read_state(str(Keeper(str(tmp_path)).last())).step == 6
    stop.forget(str(tmp_path))
    monkeypatch.setattr(SingleFrame, "fit", counting())
    assert float(worked(dataset, tmp_path, steps=8)["judge.taught"]) == 24
    assert checkpoint.read_state(str(Keeper(str(tmp_path)).last())).step == 8


def test_a_lesson_at_the_end_and_an_early_end_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_recipe("data", Path("runs"), "run", validate_every=2, stop={"patience": 1})
    given = recipe.parse(plain)
    lesson.check(given, given.plugin())
    monkeypatch.setattr(SingleFrame, "fit", counting())
    with pytest.raises(RecipeError, match="take train.stop out"):
        lesson.check(given, given.plugin())
