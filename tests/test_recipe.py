"""Recipes: overrides, refusals that name the right key, the same value after any journey."""

import json
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field

from clipmill import plugin, recipe
from clipmill.errors import PluginError, RecipeError
from clipmill.plugin import Place, Plugin
from tiny import recipe_of


def test_overrides_reach_every_key() -> None:
    made = recipe.load(recipe_of(), ["train.steps=50", "model.width=0.5", "data.where=fps > 3"])
    assert (made.train.steps, made.data.where) == (50, "fps > 3")
    assert made.plugin().width == 0.5  # type: ignore[attr-defined]


def test_plain_data_is_the_same_recipe() -> None:
    made = recipe.load(recipe_of())
    assert recipe.parse(json.loads(json.dumps(made.plain()))).plain() == made.plain()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.step=5", r"unknown key train\.step.*did you mean steps"),
        ("model.widht=1", r"unknown key model\.widht.*did you mean width"),
        (
            "data.validate_=none",
            r"unknown key data\.validate_.*train, validate,.*did you mean validate\?",
        ),
        ("tarin.steps=5", r"unknown key tarin.*did you mean train"),
        ("train.steps=many", r"train\.steps is 'many'; wanted .*integer"),
        ("train.steps=0", r"train\.steps is 0; wanted .*greater than or equal to 1"),
        ("run.name=a/b", r"run\.name is 'a/b'"),
        ("train.precision=int8", r"train\.precision is 'int8'; wanted .*'fp32'"),
        ("train.steps", r"the override 'train\.steps'"),
        ("train.steps.x=1", "steps is 6; wanted a section"),
        ("data.balance=clas", r"data\.balance is 'clas'; wanted .*'class'"),
        ("data.curriculum={by: motion}", r"data\.curriculum\.until_epoch .* field required"),
        ("data.path=3", r"data\.path is 3; wanted a dataset's folder, or a list of \{path, weight"),
        ("data.path=[]", r"data is .*; wanted at least one dataset"),
        ("data.path=[{paht: a}]", r"data\.path is .*; wanted a dataset's folder, or a list"),
        ("data.path=[{path: a, weight: 0}]", r"weight above 0"),
        ("data.path=[{path: a, weight: 1}, {path: b}]", "a weight for every dataset, or for none"),
    ],
)
def test_wrong_keys_and_values_are_named(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe.load(recipe_of(), [override])


def test_an_unknown_plugin_is_named() -> None:
    with pytest.raises(PluginError, match="no plugin 'c3'.*did you mean c3d"):
        recipe.load(recipe_of(), ["model.plugin=c3"])


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for text in ("just words", "a: [1", "run: {name: x}"):
        path.write_text(text)
        with pytest.raises(RecipeError):
            recipe.load(path)
    with pytest.raises(RecipeError, match="one of .*demo_c3d"):
        recipe.load("nosuch")


def test_yaml_does_not_run_code(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("run: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(path)


def test_shipped_recipes_are_found_by_name_and_hold() -> None:
    for folder in recipe.shipped_folders():
        for path in folder.glob("*.yaml"):
            assert recipe.load(path.stem).plain() == recipe.load(path).plain()


def test_identity_is_what_decides_the_weights() -> None:
    first = recipe.load(recipe_of()).identity()
    same = [
        "train.workers=2",
        "train.steps=99",
        "train.checkpoint_every=7",
        "data.path=elsewhere",
        "run.name=b",
    ]
    other = [
        "train.seed=1",
        "train.batch=5",
        "model.width=0.25",
        "data.where=fps > 1",
        "train.threads=2",
    ]
    assert all(recipe.load(recipe_of(), [each]).identity() == first for each in same)
    assert all(recipe.load(recipe_of(), [each]).identity() != first for each in other)


def test_what_is_asked_of_an_epoch_decides_the_weights() -> None:
    several = "data.path=[{path: a, weight: 1}, {path: b, weight: 2}]"
    keys = [
        several,
        several.replace("2", "3"),
        several.replace(": a,", ": a, where: fps > 1,"),
        "data.clips=2",
        "data.balance=class",
        "data.curriculum={by: motion, until_epoch: 2}",
        "data.curriculum={by: motion, until_epoch: 3}",
        "data.negatives=n.parquet",
        "data.aligned=true",
    ]
    made = [recipe.load(recipe_of(), [key]) for key in keys]
    assert len({each.identity() for each in [*made, recipe.load(recipe_of())]}) == len(keys) + 1
    moved = recipe.load(recipe_of(), [several.replace(": a", ": elsewhere/a")])
    assert moved.identity() == made[0].identity()


def test_datasets_are_one_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = recipe.load(recipe_of()).anchored().data
    assert (one.path, one.paths, one.weights) == (f"{tmp_path}/data", (f"{tmp_path}/data",), ())
    told = [{"path": "a", "weight": 1}, {"path": "s3://bucket/b", "weight": 2, "where": "fps > 1"}]
    several = recipe.load(recipe_of(data={"path": told})).anchored()
    assert several.data.paths == (f"{tmp_path}/a", "s3://bucket/b")
    assert several.data.weights == (1, 2) and several.data.datasets[1].where == "fps > 1"
    assert recipe.parse(json.loads(json.dumps(several.plain()))).plain() == several.plain()


class Placed(Plugin):
    """Fields that name places, told in each way that plugins do."""

    bare: Place = "a"
    perhaps: Place | None = None
    told: Annotated[Place | None, Field(description="a file")] = None
    several: tuple[str, ...] = ()


def test_places_are_told_by_their_type() -> None:
    assert plugin.places(Placed) == ["bare", "perhaps", "told"]
    known = {entry.name: plugin.places(entry.plugin) for entry in plugin.found() if entry.plugin}
    assert known["two_stream"] == ["raft_weights", "weights"] and known["fcn"] == ["weights"]
    assert recipe.load(recipe_of()).plugin().model_json_schema()


def test_all_that_names_a_place_holds_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("before", "runs/there", "there"):
        Path(folder).mkdir(parents=True)
    plain = recipe_of(
        data={"path": "d"}, feed={"cache_folder": "c"}, track={"uri": "sqlite:///t.db"},
        train={"init_from": ["before", "there", "NAME/3", "NAME@champion"]}, run={"name": "r"},
        model={"plugin": "single_frame", "weights": "w.pt"},
    )  # fmt: skip
    given = recipe.load(plain)
    made = given.anchored()
    assert (made.run.folder, made.data.path) == (f"{tmp_path}/runs", f"{tmp_path}/d")
    assert made.plugin().model_dump()["weights"] == f"{tmp_path}/w.pt"
    assert made.feed.cache_folder == f"{tmp_path}/c"
    assert made.train.init_from == (f"{tmp_path}/before", "there", "NAME/3", "NAME@champion")
    assert made.track.uri == f"sqlite:///{tmp_path}/t.db"
    assert made.anchored() == made and not made.differences(given)
    alone = recipe.load(plain, ["train.init_from=before", "model.weights=null"]).anchored()
    assert alone.train.init_from == f"{tmp_path}/before" and alone.model.fields["weights"] is None
    assert recipe.load(recipe_of()).anchored().train.init_from is None
    for uri in ("http://a/b", "postgresql://a/b", "sqlite:////abs.db", "databricks"):
        assert recipe.load(plain, [f"track.uri={uri}"]).anchored().track.uri == uri
    assert recipe.anchored_store("mlruns") == f"{tmp_path}/mlruns"
    monkeypatch.chdir(tmp_path / "runs")
    assert made.differences(given) == ["model.weights", "train.init_from"]


def test_steps_decide_the_weights_under_a_schedule() -> None:
    made = [
        recipe.load(recipe_of(), ["train.schedule=one-cycle", f"train.steps={n}"]) for n in (6, 7)
    ]
    assert made[0].identity() != made[1].identity()


def test_the_schema_knows_every_plugin_and_field() -> None:
    schema = recipe.schema()
    variants = {each["title"]: each for each in schema["properties"]["model"]["anyOf"]}
    assert {"c3d", "single_frame"} <= set(variants)
    assert "width" in variants["c3d"]["properties"]
    assert "steps" in schema["$defs"]["Train"]["properties"]
    assert yaml.safe_dump(schema)


def test_a_new_key_makes_no_other_recipe_and_a_new_default_does() -> None:
    given = recipe.load(recipe_of())
    plain = json.loads(json.dumps(given.plain()))
    moved = {**plain["data"], "path": "elsewhere"}
    assert given.is_of({**plain, "data": moved, "train": {**plain["train"], "log_every": 99}})
    fields = {key: value for key, value in plain["model"].items() if key != "dropout"}
    assert "dropout" in plain["model"] and given.is_of({**plain, "model": fields})
    assert not given.is_of({**plain, "model": {**fields, "learning_rate": 7.0}})
    assert not given.is_of({**plain, "model": {**fields, "gone": 1}}) and not given.is_of({})
