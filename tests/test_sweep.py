"""Sweeps: what is tried, which trials go on, and that a broken sweep goes on where it was."""

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from clipmill import api, launch, recipe, storage, sweep, track
from clipmill.errors import PlanError, RecipeError, RegistryError, RunError
from clipmill.folder import add_lines
from clipmill.launch import stop
from clipmill.sweep import conduct, halving
from clipmill.sweep.told import Parent
from clipmill.sweep.trial import Outcome, Turn, taken
from tiny import recipe_of, run_recipe

RATES = "model.learning_rate=[1e-9,0.003]"
HALVED = ("sweep.halving={eta: 2, first_steps: 6}", "train.steps=12")


def values_of(*overrides: str, **sections: Any) -> list[dict[str, Any]]:
    asked = sweep.read(recipe_of(**sections), overrides)
    return [trial.values for trial in asked.trials]


# --- what is tried


def test_lists_are_combined_in_order() -> None:
    tried = values_of("model.learning_rate=[1e-3, 0.01]", "train.batch=[4,8]")
    assert [tuple(each.values()) for each in tried] == [
        (0.001, 4), (0.001, 8), (0.01, 4), (0.01, 8),
    ]  # fmt: skip


def test_a_recipe_holds_lists_and_a_section_too() -> None:
    plain = {
        **recipe_of(train={"seed": [1, 2]}),
        "sweep": {"space": {"model.learning_rate": [0.1, 0.2, 0.3]}},
    }
    asked = sweep.read(plain)
    assert (
        len({(t.given.train.seed, t.given.model.fields["learning_rate"]) for t in asked.trials})
        == 6
    )
    assert [trial.name for trial in asked.trials[:2]] == ["tiny-000", "tiny-001"]


def test_a_list_that_a_recipe_takes_is_no_choice() -> None:
    data = {"path": [{"path": "a"}, {"path": "b"}]}
    (one, two) = sweep.read(recipe_of(data=data), ["train.seed=[1,2]"]).trials
    assert one.values == {"train.seed": 1} and two.given.data.paths == ("a", "b")


def test_of_many_combinations_some_are_drawn_none_twice() -> None:
    lists = ("train.seed=[0,1,2,3,4,5]", "train.batch=[4,8,12]")
    some = values_of(*lists, "sweep.trials=7")
    more = values_of(*lists, "sweep.trials=12")
    assert more[:7] == some and len({tuple(each.values()) for each in more}) == 12
    assert values_of(*lists, "sweep.trials=99") == values_of(*lists)


def test_a_trial_of_a_range_depends_on_seed_and_place_alone() -> None:
    space = ("model.learning_rate=log(1e-4,1e-2)", "train.batch=int(4,6)")
    few, many = values_of(*space, "sweep.trials=3"), values_of(*space, "sweep.trials=50")
    assert many[:3] == few
    assert values_of(*space, "sweep.trials=3", "sweep.seed=1") != few
    assert {each["train.batch"] for each in many} == {4, 5, 6}
    below = sum(each["model.learning_rate"] < 1e-3 for each in many)
    assert 10 < below < 40  # the middle of the logarithm


@given(
    st.sampled_from(["log", "uniform", "int"]),
    st.integers(1, 100), st.integers(1, 100), st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_a_value_stays_in_its_range(kind: Any, low: int, width: int, share: float) -> None:
    value = sweep.Range(kind, low, low + width).at(share)
    assert low <= value <= low + width
    assert kind != "int" or isinstance(value, int)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ([], "nothing to try"),
        (["train.seed=int(1,9)"], r"set sweep\.trials=20"),
        (["train.seed=int(9,1)"], "int\\(low,high\\) with whole low < high"),
        (["model.learning_rate=log(0,1)"], "0 < low < high"),
        (["model.learning_rate=log(a,b)"], "two numbers"),
        (["run.name=[a,b]"], r"run\.name with several values"),
        (["train.seed=[1,2]", "track.register=x"], "clipmill promote"),
        (["train.seed=[1,2]", "sweep.trails=3"], "did you mean trials"),
        (["train.steps=[5,9]", "sweep.halving={}"], r"train\.steps with several values"),
        (["train.batch=[4,0]"], r"train\.batch is 0"),
        (["train.seed=[1,2]", "sweep.metric=loss"], r"sweep\.higher_is_better"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is(
    overrides: list[str], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        sweep.read(recipe_of(), overrides)


def test_values_are_told_as_overrides_that_give_them_again() -> None:
    for trial in sweep.read(
        recipe_of(),
        ["model.learning_rate=log(1e-7,1e-2)", "data.train=['null', '3', train]", "sweep.trials=9"],
    ).trials:
        again = recipe.load(recipe_of(run={"name": trial.name}), list(trial.overrides))
        assert again == trial.given


# --- which go on


@given(st.integers(1, 500), st.integers(1, 40), st.integers(2, 5), st.none() | st.integers(1, 60))
def test_rungs_rise_to_the_end_and_are_validated(
    steps: int, trials: int, eta: int, every: int | None
) -> None:
    rungs = halving.rungs(steps, trials, eta, None, every)
    assert rungs[-1] == steps and all(a < b for a, b in itertools.pairwise(rungs))
    assert all(rung % (every or rungs[0]) == 0 for rung in rungs[:-1])


def test_the_best_of_every_few_go_on() -> None:
    scores = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.9, "e": 0.2, "f": 0.3}
    assert halving.best(scores, 3, higher_is_better=True) == ["b", "d"]
    assert halving.best(scores, 3, higher_is_better=False) == ["a", "e"]
    assert halving.best(scores, 9, higher_is_better=True) == ["b"]


# --- a whole sweep


def plain_of(dataset: str, folder: Path, name: str = "tried") -> dict[str, Any]:
    return run_recipe(dataset, folder, name, checkpoint_every=100)


BY_LOSS = ("sweep.metric=loss", "sweep.higher_is_better=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs for all, as MLflow takes seconds to make its database."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def swept(dataset: str, folder: Path) -> dict[str, Any]:
    """Four trials, one of which ends in NaN, two of which are stopped early, one of all finishes."""
    rates = "model.learning_rate=[1e30,1e-9,0.003,0.001]"
    schedule = "train.schedule=cosine"
    return api.sweep(plain_of(dataset, folder), [rates, *HALVED, schedule, *BY_LOSS])


def test_trials_are_stopped_failed_or_finished(swept: dict[str, Any]) -> None:
    rows = {row["values"]["model.learning_rate"]: row for row in swept["trials"]}
    assert rows[1e30]["state"] == "failed" and "no longer in numbers" in rows[1e30]["error"]
    states = [row["state"] for row in swept["trials"]]
    assert states == ["finished", "stopped", "stopped", "failed"]
    best, *others = swept["trials"]
    assert best["name"] == swept["best"]["name"] and best["steps"] == 12
    sixth = [row["scores"]["6"] for row in (best, *others) if row["scores"]]
    assert min(sixth) == best["scores"]["6"] and len(set(sixth)) == 3


def test_a_trial_that_was_stopped_between_is_the_run_in_one_go(
    swept: dict[str, Any], dataset: str, folder: Path
) -> None:
    overrides = [*swept["best"]["overrides"], "train.steps=12", "train.schedule=cosine"]
    whole = api.train(plain_of(dataset, folder, "whole"), overrides)
    home = str(folder / swept["best"]["name"])
    result: dict[str, Any] = storage.read_json(launch.Folder(home).result)
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert result["takes_sha256"] == whole["takes_sha256"]


def test_trials_are_runs_beside_each_other(swept: dict[str, Any]) -> None:
    listed = [run["name"] for run in api.runs(str(Path(swept["folder"]).parent))["runs"]]
    assert [name for name in listed if name.startswith("tried")] == [
        f"tried-{place:03d}" for place in range(4)
    ]


def test_mlflow_has_the_trials_below_the_sweep(swept: dict[str, Any]) -> None:
    uri = track.uri_of(None, str(Path(swept["folder"]).parent))
    with track.store(uri) as client:
        below = f"tags.`mlflow.parentRunId` = '{swept['run_id']}'"
        runs = client.search_runs(_experiments(client), below)
        parent = client.get_run(swept["run_id"])
    best = [run.info.run_name for run in runs if run.data.tags["clipmill.best"] == "true"]
    assert len(runs) == 4 and best == [swept["best"]["name"]]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["clipmill.best_trial"] == swept["best"]["name"]


def test_trials_that_were_stopped_are_shown_as_such(swept: dict[str, Any]) -> None:
    told = {run["name"]: run for run in api.runs(str(Path(swept["folder"]).parent))["runs"]}
    ours = {"finished": "finished", "stopped": "stopped", "failed": "broken"}
    for row in swept["trials"]:
        run = told[row["name"]]
        assert (run["state"], run["sweep"]) == (ours[row["state"]], "tried")


def _experiments(client: MlflowClient) -> list[str]:
    return [each.experiment_id for each in client.search_experiments()]


def test_the_best_recipe_trains_under_a_new_name(swept: dict[str, Any]) -> None:
    path = Path(swept["folder"], "best.yaml")
    made = recipe.load(path)
    assert str(path) in swept["command"] and made.run.name == "tried-best"
    assert made.train.validate_every is None
    value = yaml.safe_load(swept["best"]["overrides"][0].partition("=")[2])
    assert made.model.fields["learning_rate"] == value


def _metrics(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("broken-*/metrics.jsonl")}


def test_a_broken_sweep_goes_on_where_it_was(
    dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    plain, asked, train = plain_of(dataset, folder, "broken"), [RATES, "train.steps=3"], launch.run

    def dies_at_the_second(made: recipe.Recipe, **options: Any) -> dict[str, Any]:
        began.append(made.run.name)
        if len(began) == 2:
            raise KeyboardInterrupt
        return train(made, **options)

    monkeypatch.setattr(launch, "run", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        api.sweep(plain, asked)
    before = _metrics(folder)
    result = api.sweep(plain, asked)
    assert began == ["broken-000", "broken-001", "broken-001"]
    assert _metrics(folder).items() > before.items() and len(before) == 1
    assert api.sweep(plain, asked) == result and len(began) == 3  # all is done


def test_mlflow_that_refuses_a_trial_does_not_end_the_sweep(
    dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Parent, trial: sweep.Trial, *, is_best: bool | None = None) -> None:
        if is_best is None:  # not yet the end
            raise RegistryError("the run has been deleted")

    monkeypatch.setattr(Parent, "tell", refuses)
    monkeypatch.setattr(conduct, "taken", lambda turn, **_: Outcome(0.5))
    result = api.sweep(plain_of(dataset, folder, "refused"), [RATES])
    assert [row["state"] for row in result["trials"]] == ["finished", "finished"]


def test_what_is_known_already_need_not_be_told_again(tmp_path: Path) -> None:
    row = {"name": "a", "state": "stopped"}
    ledger = sweep.Ledger(str(tmp_path), {}, {"a": row}, {}, tracked=True)
    ledger.note("a", state="stopped")
    assert ledger.tracked and not storage.exists(ledger.path)
    ledger.note("a", state="finished")
    assert not ledger.tracked and storage.exists(ledger.path)


@pytest.mark.parametrize("which", [None, signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_a_rung_stops_the_sweep(
    which: signal.Signals | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe.load(recipe_of(run={"folder": str(tmp_path)}))
    turn = Turn(given, (), 6, False, "loss", None)
    tmp_path.joinpath(given.run.name).mkdir()

    def comes_to_the_rung(made: recipe.Recipe, **options: Any) -> None:
        with launch._stoppable(made, turn.home):
            add_lines(turn.home.metrics, [{"step": 6, "loss": 0.5}])
            while not stop.asked(turn.home.path):
                time.sleep(0.001)
            if which is not None:
                os.kill(os.getpid(), which)

    monkeypatch.setattr(launch, "run", comes_to_the_rung)
    if which is None:
        assert taken(turn).score == 0.5
        return
    with pytest.raises(launch.Stopped) as told:
        taken(turn)
    assert told.value.exit_code == 128 + which


def test_another_sweep_of_the_name_is_refused(swept: dict[str, Any], dataset: str) -> None:
    plain = plain_of(dataset, Path(swept["folder"]).parent)
    with pytest.raises(RunError, match=r"began with another .*rungs.*values to try"):
        api.sweep(plain, [RATES])
    with pytest.raises(RunError, match="is a run in"):
        api.sweep({**plain, "run": {**plain["run"], "name": "tried-000"}}, [RATES])


def test_more_trials_at_once_than_cpus_are_refused(dataset: str, folder: Path) -> None:
    plain, many = plain_of(dataset, folder, "many"), "train.seed=[1,2,3]"
    with pytest.raises(RunError, match="3 trials side by side on 2 CPUs.*lower --parallel"):
        api.sweep(plain, [many, "sweep.parallel=4"])
    with pytest.raises(RunError, match="2 trials side by side of 2 workers each on 2 CPUs"):
        api.sweep(plain, [many, "sweep.parallel=2", "train.workers=2", "run.name=more"])


def test_where_all_fail_the_reason_is_told(dataset: str, folder: Path) -> None:
    rates = "model.learning_rate=[1e30,1e31]"
    with pytest.raises(RunError, match="all of 2 trials failed.*no longer in numbers"):
        api.sweep(plain_of(dataset, folder, "vain"), [rates, "train.steps=9"])


def test_a_sweep_by_validation_needs_videos_for_it(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="set data.validate"):
        api.sweep(plain_of(dataset, tmp_path), [RATES, "data.validate=nothing"])
    assert not list(tmp_path.iterdir())
