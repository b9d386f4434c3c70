"""The evidence of a family: which trials claims need, verdicts, and a real tiny one, resumed."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from clipmill import api, evidence, launch, plugin, recipe, storage
from clipmill.cli import app
from clipmill.errors import RecipeError, UsageError
from clipmill.evidence import Measured, Pair, Parts, judged, models, pages, picture, trial
from clipmill.folder import folder_of
from clipmill.recipe import Recipe
from tiny import run_recipe

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "plugins/clipmill_classify/README.md"
FRAME = {"plugin": "single_frame", "width": 0.125, "size": 32, "resize": 36, "test_clips": 2}
CLIP = {"plugin": "c3d", "width": 0.03125, "frames": 4, "size": 32, "resize": 36, "test_clips": 1}

runner = CliRunner()


def file_of(**changes: Any) -> dict[str, Any]:
    """Two models, two places and three claims, of which one is sure to be refuted."""
    return {
        "seeds": 2,
        "videos_for_chance": 4,
        "base": {"train": {"steps": 2, "batch": 4, "workers": 0}},
        "worlds": {"sides": {"data": "data"}, "direction": {"videos": 16, "size": 32}},
        "models": {
            "frame": {"model": FRAME, "in": {"direction": {"model": {"width": 0.25}}}},
            "clip": {"model": CLIP, "train": {"steps": 3}},
            "idle": {"model": CLIP},
            "heir": {"model": FRAME, "begins_with": {"model": "frame", "world": "sides"}},
        },
        "claims": [
            claim("nothing is perfect", "above", model="frame", level=1.0),
            claim("{model} answers", "above", model=["frame", "clip"], level=-1.0),
            claim("not below", "not_below", model="frame", than="frame", world="direction"),
        ],
        **changes,
    }


def claim(words: str, kind: str, **told: Any) -> dict[str, Any]:
    return {"claim": words, "kind": kind, "model": "frame", "world": "sides", **told}


@functools.cache
def asked() -> evidence.Asked:
    return evidence.read(file_of(seeds=3, videos_for_chance=400))


# --- what is asked


def test_only_what_a_claim_needs_is_run() -> None:
    wanted = (Pair("sides", "frame"), Pair("sides", "clip"), Pair("direction", "frame"))
    assert asked().pairs == wanted
    assert [each.claim for each in asked().claims[1:3]] == ["frame answers", "clip answers"]
    assert len(Parts().chosen(asked())) == 3 * 3


def test_a_recipe_is_of_all_then_of_the_model_then_of_the_world() -> None:
    made = evidence.read(file_of()).recipes.values()
    assert [each.model.fields["width"] for each in made] == [0.125, 0.03125, 0.25]
    assert [each.train.steps for each in made] == [2, 3, 2]
    assert {each.train.batch for each in made} == {4}


@given(st.integers(1, 7), st.integers(1, 3))
@settings(deadline=None)  # the first example reads a file
def test_parts_share_all_trials_and_none_twice(count: int, seeds: int) -> None:
    numbers = range(1, count + 1)
    parts = [Parts(seeds=seeds, part=(number, count)).chosen(asked()) for number in numbers]
    together = [each for part in parts for each in part]
    assert sorted(together) == sorted(Parts(seeds=seeds).chosen(asked()))
    assert len(set(together)) == 3 * seeds


def test_only_names_worlds_and_models() -> None:
    def chosen(*only: str) -> set[Pair]:
        return {pair for pair, _ in Parts(only=only).chosen(asked())}

    assert chosen("sides") == {Pair("sides", "frame"), Pair("sides", "clip")}
    assert chosen("sides", "clip") == {Pair("sides", "clip")}
    assert chosen("frame") == {Pair("sides", "frame"), Pair("direction", "frame")}
    for wrong in (("idle",), ("direction", "clip")):
        with pytest.raises(UsageError, match="claim"):
            chosen(*wrong)
    with pytest.raises(UsageError, match="part 3/2"):
        Parts(part=(3, 2)).chosen(asked())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"claims": [claim("x", "above")]}, "`level` with above"),
        ({"claims": [claim("x", "beats")]}, "`than` with beats"),
        ({"claims": [claim("x", "at_chance", level=0.5)]}, "no `level` with at_chance"),
        ({"claims": [claim("x", "at_chance", model="fram")]}, "no model 'fram'.*did you mean frame"),
        ({"claims": [claim("x", "at_chance", world="sade")]}, "no world 'sade'.*sides"),
        ({"worlds": {"sides": {"world": "ordre"}}}, "no world 'ordre'.*did you mean order"),
        ({"worlds": {"sides": {}}}, "no world 'sides'"),
        ({"seed": 3}, "unknown key seed.*did you mean seeds"),
        ({"models": {"frame": {"model": {**FRAME, "widht": 2}}}, "claims": [claim("x", "at_chance")]},
         "model.widht.*width"),
        ({"models": {"frame": {"model": FRAME, "begins_with": "x"}}, "claims": [claim("x", "at_chance")]},
         "begins_with is 'x'.*model: NAME, world: NAME"),
        ({"models": {"frame": {"model": FRAME, "train": 3}}, "claims": [claim("x", "at_chance")]},
         "train is 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_one_clear_line(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        evidence.read(file_of(**wrong))


def test_a_shipped_file_is_found_by_its_name() -> None:
    assert evidence.read("classify").name == "classify"
    with pytest.raises(UsageError, match="one of classify"):
        evidence.read("clasify")


@pytest.mark.parametrize("family", ["classify", "pretext", "segment", "similar"])
def test_what_is_shipped_can_be_judged(family: str) -> None:
    shipped = evidence.read(family)
    assert shipped.seeds >= 3
    for each in shipped.claims:
        world = shipped.worlds[str(each.world)]
        if each.kind == "at_chance":
            assert round(world.videos * 0.15) >= shipped.videos_for_chance


# --- verdicts

HALF = (0.5, 0.52, 0.48)


def verdict(kind: str, ours: Measured | None, theirs: Measured | None = None, **told: Any) -> Any:
    said = evidence.Claim(**claim("x", kind, **told))
    return judged(said, [ours, theirs] if said.than else [ours], asked())


@pytest.mark.parametrize(
    ("measured", "wanted"),
    [
        (Measured(HALF, 400, 0.5), "shown"),
        (Measured((0.54, 0.55, 0.56), 400, 0.5), "refuted"),  # 50.1 % to 59.8 %
        (Measured((0.44, 0.45, 0.46), 400, 0.5), "refuted"),  # worse than chance is not at chance
        (Measured((0.54, 0.55, 0.53), 400, 0.5), "shown"),
        (Measured(HALF, 399, 0.5), "not run"),
        (Measured(HALF, 400), "not run"),
        (Measured((1.2, 1.1), 400, 1.0), "not run"),  # a ratio, which is no share
        (None, "not run"),
    ],
)
def test_at_chance_is_an_interval_that_holds_it(measured: Measured | None, wanted: str) -> None:
    assert verdict("at_chance", measured).verdict == wanted


def test_a_mean_is_above_a_level_or_not() -> None:
    above = Measured((0.95, 0.85, 0.91), 400)
    assert verdict("above", above, level=0.9).verdict == "shown"
    assert verdict("above", above, level=0.904).verdict == "refuted"
    assert "90.3% ± 5.0%" in verdict("above", above, level=0.9).figures
    assert verdict("below", above, level=0.9).verdict == "refuted"
    assert verdict("below", above, level=0.904).verdict == "shown"


@pytest.mark.parametrize(
    ("ours", "beats", "not_below"),
    [
        (0.80, "shown", "shown"),
        (0.715, "refuted", "shown"),  # within 1 % + 1 %
        (0.69, "refuted", "shown"),
        (0.675, "refuted", "refuted"),
    ],
)
def test_better_is_by_more_than_both_spreads(ours: float, beats: str, not_below: str) -> None:
    mine = Measured((ours - 0.01, ours, ours + 0.01), 400)
    theirs = Measured((0.69, 0.70, 0.71), 400)
    assert verdict("beats", mine, theirs, than="clip").verdict == beats
    assert verdict("not_below", mine, theirs, than="clip").verdict == not_below
    assert verdict("beats", mine, None, than="clip").verdict == "not run"


def test_a_metric_is_measured_against_another() -> None:
    told = verdict(
        "beats", Measured((0.6, 0.7), 9), Measured((0.2,), 9), than="frame", than_metric="naive"
    )
    assert (told.verdict, told.figures) == ("shown", "frame 65.0% ± 7.1%, frame's naive 20.0%")
    with pytest.raises(ValidationError, match="no `than_metric` with above"):
        evidence.Claim(**claim("x", "above", level=0.5, than_metric="naive"))


def test_fewer_seeds_than_asked_for_say_so() -> None:
    told = verdict("above", Measured((0.95,), 400), level=0.9)
    assert (told.verdict, told.seeds, told.is_whole) == ("shown", 1, False)
    assert pages.verdict_words(vars(told)) == "shown so far (1 seed)"
    whole = verdict("above", Measured((0.95, 0.9, 0.95), 400), level=0.9)
    assert pages.verdict_words(vars(whole)) == "shown"


def test_the_interval_is_that_of_the_books() -> None:
    assert evidence.interval(0.5, 400) == pytest.approx((0.45127, 0.54873), abs=1e-4)
    assert evidence.interval(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert Measured((1.2, 1.1), 400).interval is None  # of a ratio there is none
    rng = np.random.default_rng(0)
    shares = rng.binomial(405, 1 / 8, 2000) / 405
    within = [low <= 1 / 8 <= high for low, high in (evidence.interval(s, 405) for s in shares)]
    assert 0.93 < np.mean(within) < 0.97


# --- costs and the table of models


def test_operations_are_those_of_the_paper() -> None:
    cost = evidence.counted(plugin.make("c3d", {}), 101)
    assert cost.parameters == 78_409_573
    assert cost.flops == pytest.approx(2 * 38.5e9, rel=0.01)  # 38.5 G multiply-adds


MEND = "run `clipmill plugins table classify --into plugins/clipmill_classify/README.md`"


def written(text: str) -> list[tuple[str, str, str]]:
    """Name, recipe and parameters of the models in a table."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if "| `" in line]
    return [(row[0].strip("`"), row[1].strip("`"), row[4]) for row in cells]


def in_the_readme() -> list[tuple[str, str, str]]:
    name = "clipmill plugins table classify"
    return written(
        README.read_text().partition(pages.begin_of(name))[2].partition(pages.end_of(name))[0]
    )


def test_the_readme_names_these_models_and_recipes() -> None:
    made = [(each.name, recipe) for each, recipe in models.models_of("classify")]
    assert [row[:2] for row in in_the_readme()] == made, MEND
    assert {name for name, _ in made} == {
        e.name for e in plugin.found() if e.plugin and e.plugin.family == "classify"
    }
    with pytest.raises(UsageError, match="one of classify"):
        models.models_of("classfy")


@pytest.mark.slow
def test_the_readme_tells_their_parameters() -> None:
    table = api.plugins_table("classify")
    assert in_the_readme() == written(table["markdown"]), MEND
    assert all(row["flops"] and row["streams"] for row in table["rows"])


# --- what is written


def test_a_table_takes_its_place_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    marks = pages.begin_of("mine"), pages.end_of("mine")
    path.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    for _ in range(2):
        evidence.placed(str(path), "mine", "new")
        assert path.read_text() == f"before\n{marks[0]}\nnew\n{marks[1]}\nafter\n"
    with pytest.raises(UsageError, match="has no place for yours"):
        evidence.placed(str(path), "yours", "new")


@pytest.mark.parametrize(
    ("number", "told"),
    [(None, ""), (0.5, "0.5"), (999, "999"), (999.9, "1 k"), (78_409_573, "78.4 M"), (3.2e15, "3.2e+03 T")],
)  # fmt: skip
def test_numbers_are_short(number: float | None, told: str) -> None:
    assert pages.short(number) == told


# --- a real one


@pytest.fixture(scope="module")
def told(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny evidence: broken off in its second trial, then run to its end."""
    began: list[str] = []
    train = launch.run

    def breaks_off(made: Recipe, **options: Any) -> dict[str, Any]:
        began.append(made.run.name)
        if len(began) == 2:
            raise KeyboardInterrupt
        return train(made, **options)

    folder = tmp_path_factory.mktemp("evidence")
    worlds = {"sides": {"data": dataset}, "direction": {"videos": 16, "size": 32}}
    plain, seen = file_of(worlds=worlds), list[str]()

    def progress(what: str, done: int, total: int, figures: Any) -> None:
        seen.append(f"{what} {done}/{total} {sorted(figures)}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            api.evidence(plain, folder=str(folder), seeds=1, only=["sides"])
        first = api.evidence(plain, folder=str(folder), run=False)
        result = api.evidence(plain, folder=str(folder), progress=progress)
        again = api.evidence(plain, folder=str(folder))
    return {"result": result, "first": first, "again": again, "began": began, "seen": seen,
            "folder": folder}  # fmt: skip


def test_a_broken_one_goes_on_and_nothing_is_trained_twice(told: dict[str, Any]) -> None:
    began = told["began"]
    assert began[1] == began[2] and len(set(began)) == len(began) - 1 == 6
    assert told["first"]["trials_done"] == 1 and told["result"]["trials_done"] == 6
    assert told["again"] == told["result"]
    assert any(re.fullmatch(r"trials 2/5 \['minutes_left'\]", line) for line in told["seen"])


def test_claims_have_verdicts_and_figures(told: dict[str, Any]) -> None:
    verdicts = {each["claim"]: each["verdict"] for each in told["result"]["claims"]}
    assert verdicts == {
        "nothing is perfect": "refuted", "frame answers": "shown", "clip answers": "shown",
        "not below": "shown",
    }  # fmt: skip
    early = {each["claim"]: each["verdict"] for each in told["first"]["claims"]}
    assert early["clip answers"] == early["not below"] == "not run"
    assert all(each["figures"] and each["is_whole"] for each in told["result"]["claims"])


def test_rows_tell_figures_and_costs(told: dict[str, Any]) -> None:
    rows = {(row["world"], row["model"]): row for row in told["result"]["rows"]}
    assert len(rows) == 3
    clip, frame = rows["sides", "clip"], rows["direction", "frame"]
    assert (clip["chance"], frame["chance"]) == (1 / 2, 1 / 8)
    assert (clip["videos"], len(clip["values"]), clip["protocol"]["clips"]) == (6, 2, 1)
    assert clip["mean"] == pytest.approx(sum(clip["values"]) / 2)
    for row in rows.values():
        assert row["parameters"] > 1000 and row["flops"] > 10_000
        assert row["training_clips_per_second"] > 0 and row["test_clips_per_second"] > 0
    tested = api.evaluate(frame["trials"][1], folder=str(told["folder"] / "runs"))
    assert tested["metrics"]["accuracy"] == frame["values"][1]


def test_the_page_and_the_picture_show_it(told: dict[str, Any]) -> None:
    files = told["result"]["files"]
    page = Path(files["md"]).read_text()
    assert "| **refuted** | nothing is perfect |" in page and "`clipmill evidence" in page
    drawn = np.asarray(cv2.imread(files["png"]))[..., ::-1]
    made = picture.drawn(told["result"])
    assert np.array_equal(drawn, made)
    for colour, wanted in (("refuted", 1), ("shown", 3)):
        column = (made[:, picture.VERDICT_WIDTH - 2] == picture.COLOURS[colour]).all(1)
        assert column.sum() == wanted * picture.LINE_HEIGHT
    row = {**told["result"]["rows"][0], "mean": 0.25, "spread": 0.0, "chance": None}
    blue = (picture._bar(row) == picture.BAR).all(2)
    assert blue[4].sum() == picture.BAR_WIDTH / 4


def test_the_command_ends_with_1_for_a_refuted_claim(
    told: dict[str, Any], dataset: str, tmp_path: Path
) -> None:
    plain = file_of(worlds={"sides": {"data": dataset}, "direction": {"videos": 16, "size": 32}})
    (tmp_path / "mine.yaml").write_text(json.dumps(plain))
    words = ["evidence", str(tmp_path / "mine.yaml"), "--folder", str(told["folder"]), "--print"]
    done = runner.invoke(app, [*words, "--json"])
    value = json.loads(done.stdout)
    assert done.exit_code == 1 and len(value["rows"]) == 3 and len(value["claims"]) == 4
    good = [each for each in plain["claims"] if each["claim"] != "nothing is perfect"]
    (tmp_path / "mine.yaml").write_text(json.dumps({**plain, "claims": good}))
    done = runner.invoke(app, words)
    assert done.exit_code == 0 and "clip answers" in done.stdout


def test_a_trial_begins_with_the_weights_of_another(dataset: str, tmp_path: Path) -> None:
    plain = file_of(
        worlds={"sides": {"data": dataset}}, base={"train": {"steps": 1, "batch": 4, "workers": 0}},
        claims=[claim("x", "above", model="heir", level=-1.0)],
    )  # fmt: skip
    assert set(evidence.read(plain).pairs) == {Pair("sides", "frame"), Pair("sides", "heir")}
    result = api.evidence(plain, folder=str(tmp_path), seeds=1, only=["heir"])
    names = {row["model"]: row["trials"] for row in result["rows"]}
    shown = api.show(names["heir"][0], folder=str(tmp_path / "runs"))
    assert shown["recipe"]["train"]["init_from"] == names["frame"][0]


def test_a_trial_that_fails_costs_no_other(dataset: str, tmp_path: Path) -> None:
    models = {
        "frame": {"model": {**FRAME, "learning_rate": 1e30}, "train": {"steps": 9}},
        "clip": {"model": CLIP},
    }
    plain = file_of(
        worlds={"sides": {"data": dataset}}, models=models,
        claims=[claim("{model} answers", "above", model=["frame", "clip"], level=-1.0)],
    )  # fmt: skip
    result = api.evidence(plain, folder=str(tmp_path), seeds=1)
    assert [each["verdict"] for each in result["claims"]] == ["not run", "shown"]
    (failed,) = result["failed"]
    assert "no longer in numbers" in failed["error"] and failed["name"].startswith("sides-frame-0-")


def test_what_came_out_under_another_default_is_made_again(tmp_path: Path) -> None:
    given, file = recipe.load(run_recipe("data", tmp_path, "it")), str(tmp_path / "it.json")
    home, plain = folder_of(given), given.plain()
    others = {**plain, "model": {**plain["model"], "learning_rate": 7.0}}
    fewer = {name: value for name, value in plain["model"].items() if name != "dropout"}
    assert trial.found(given, file) is None
    for before, is_it in ((plain, True), ({**plain, "model": fewer}, True), (others, False)):
        storage.put_json(file, {"name": "it", "recipe": before})
        assert (trial.found(given, file) is not None) == is_it
    storage.put_json(home.recipe, {"recipe": others})
    trial.clear(given, file)
    assert not Path(file).exists() and not Path(home.path).exists()
    for before, is_it in ((plain, True), (others, False)):
        storage.put_json(home.recipe, {"recipe": before})
        trial.clear(given, file)
        assert Path(home.path).exists() == is_it, "only a run of the same values goes on"


def test_an_heir_is_made_again_with_what_it_begins_with(tmp_path: Path) -> None:
    parent, heir = (recipe.load(run_recipe("data", tmp_path, name)) for name in ("one", "two"))
    pair, folder = Pair("sides", "heir"), str(tmp_path)
    made = trial.Trial(pair, 0, heir, folder, trial.Trial(pair, 0, parent, folder))
    plain = parent.plain()
    other = {**plain, "train": {**plain["train"], "clip_norm": 3.0}}
    for begins_with, is_it in ((plain, True), (other, False)):
        row = {"recipe": heir.plain(), "begins_with": begins_with}
        storage.put_json(made.file, row)
        assert (made.result() is not None) == is_it
