"""Transfer: which tensors go where, equal budgets, real tiny trials that go on, and the verdict."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clipmill import api, checkpoint, infer, launch, plugin, transfer
from clipmill.cli import app
from clipmill.errors import ClipmillError, RecipeError, RunError, UsageError
from clipmill.evidence import chance, pages
from clipmill.plugin import Info, Plugin
from clipmill.recipe import Recipe
from clipmill.transfer import conduct, fit, network, plot, trial
from clipmill.transfer.asked import Asked
from clipmill.transfer.pages import _gain as gain
from clipmill.transfer.verdict import judged, said
from tiny import catalog_of, rows

runner = CliRunner()
QUICK = ("train.steps=2", "train.batch=4", "train.log_every=1")
ABC = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


# --- which tensors go where


@given(st.sets(ABC, min_size=1, max_size=12), st.data())
def test_parts_are_the_fewest_that_hold_the_chosen_alone(
    names: set[str], data: st.DataObject
) -> None:
    leaves = sorted(n for n in names if not any(o.startswith(n + ".") for o in names))
    chosen = data.draw(st.sets(st.sampled_from(leaves)))
    parts = fit.parts_of(chosen, leaves)
    held = {n for n in leaves if any(n == p or n.startswith(p + ".") for p in parts)}
    assert held == chosen
    for part in parts:  # a longer beginning would do for none of them, a shorter one for too many
        above = part.rpartition(".")[0]
        assert not above or any(n.startswith(above + ".") and n not in chosen for n in leaves)


def frame(**fields: Any) -> Plugin:
    return plugin.make("single_frame", {"width": 0.125, "size": 32, "resize": 36, **fields})


def weights_of(made: Plugin, classes: int = 2) -> dict[str, torch.Tensor]:
    return checkpoint.snapshot(infer.build(made, tuple(map(str, range(classes)))))


def test_scores_stay_and_the_rest_goes_along() -> None:
    given = weights_of(frame())
    for classes in ("ab", "abc"):  # as many classes as before are others all the same
        found = transfer.fitted("it", given, frame(), list(classes))
        assert found.parts == ("encoder",) and found.learning == 2
        assert {name.split(".")[0] for name in found.weights} == {"encoder"}
        assert "drawn by chance: head.bias, head.weight" in found.lines[-1]
    assert all(torch.equal(tensor, given[name]) for name, tensor in found.weights.items())


def test_backbones_go_to_other_plugins_and_only_their_own_parts_learn() -> None:
    given = weights_of(frame())
    fields = {"width": 0.125, "size": 32, "resize": 36, "backbone": "resnet18"}
    found = transfer.fitted("it", given, plugin.make("cnn_rnn", fields), ["a", "b"])
    assert found.parts == ("encoder",) and found.learning > 2  # the recurrent layers, too
    pooled = transfer.fitted(
        "it", weights_of(frame(), 9), plugin.make("pooled", fields), ["a", "b"]
    )
    assert pooled.parts == ("encoder",)


@pytest.mark.parametrize("wrong", [{"width": 0.25}, {"backbone": "mobilenet_v2"}])
def test_where_nothing_fits_it_is_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"none of the \d+ tensors of it, .* fits single_frame"):
        transfer.fitted("it", weights_of(frame()), frame(**wrong), ["a", "b"])


@pytest.mark.parametrize(
    "name", [e.name for e in plugin.found() if e.plugin and e.plugin.family == "pretext"]
)
def test_every_pretext_fits_the_classifier_that_it_names(name: str) -> None:
    made = plugin.make(name, plugin.load(name).small)
    other, fields = network.downstream(made)
    taker = plugin.make(other, fields)
    network.check(taker, "probe")
    found = transfer.fitted(name, weights_of(made, 0), taker, ["a", "b"])
    whole = infer.build(taker, ("a", "b")).state_dict()
    filled = sum(tensor.numel() for tensor in found.weights.values())
    assert filled > 0.5 * sum(tensor.numel() for tensor in whole.values()), found.lines
    probe = infer.build(plugin.make(other, {**fields, "frozen": found.parts}), ("a", "b"))
    learning = {n for n, weight in probe.named_parameters() if weight.requires_grad}
    assert learning and not learning & found.weights.keys()


# --- which network


class Told(Plugin):
    """Names another network than its own."""

    name, family = "told", "pretext"

    def downstream(self) -> tuple[str, dict[str, Any]]:
        return "single_frame", {"width": 0.125, "size": 32, "resize": 36}

    def build(self, info: Info) -> torch.nn.Module:
        raise NotImplementedError


def test_a_pretext_names_its_network_and_a_classifier_is_its_own() -> None:
    assert network.downstream(Told())[1].items() >= {"width": 0.125, "weights": None}.items()
    name, fields = network.downstream(frame(weights="w.pt", frozen=["encoder"], dropout=0.1))
    assert name == "single_frame" and fields["dropout"] == 0.1
    assert fields["weights"] is None and fields["frozen"] == []  # else random would be no chance


def test_shares_of_classes_stay_with_them() -> None:
    small = {"width": 0.125, "size": 32, "resize": 32, "depth": 2}
    made = plugin.make("unet", {**small, "shares": [0.5, 0.3, 0.2]})
    name, fields = network.downstream(made)
    assert (name, fields["shares"]) == ("unet", [])
    bare = network.of_any_classes(made)  # they may be those of the other data, and set
    assert transfer.fitted("it", weights_of(made), bare, ["a", "b"]).learning == 2


def test_another_network_takes_what_is_set_and_shared() -> None:
    for made in (Told(), frame(test_clips=2)):
        name, fields = network.downstream(made, "cnn_rnn")
        wanted = {"width": 0.125, "size": 32, "resize": 36}
        assert name == "cnn_rnn" and fields.items() >= wanted.items()
        assert "frames" not in fields  # one frame is the way of the single frame alone
        assert plugin.make(name, fields).model_fields_set >= wanted.keys()


# --- what is refused


def asked(trained: dict[str, Any], data: str, **options: Any) -> Asked:
    model = infer.load(f"{trained['folder']}/model")
    return transfer.read(model, "trained", data, **{"overrides": QUICK, **options})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"protocols": ["probe", "linear"]}, "some of probe, finetune"),
        ({"shares": [0.1, 2]}, "above 0 and up to 1"),
        ({"seeds": 0}, "1 at the least"),
        ({"overrides": ["run.name=x"]}, "run.name in a transfer"),
        ({"overrides": ["probe.train.seed=3"]}, "train.seed in a transfer"),
        ({"overrides": ["data.share=0.5"]}, "data.share in a transfer"),
        ({"overrides": ["probe.train={seed: 5, batch: 4}"]}, "train in a transfer"),
        ({"overrides": ["model.widht=2"]}, "did you mean width"),
        ({"overrides": ["model.width=0.5"]}, "none of the"),
        ({"overrides": ["model.plugin=c3d"]}, "none of the .* fits c3d"),
        ({"overrides": ["model.plugin=trajectories"]}, "learns without gradients"),
        ({"overrides": ["data.test=nosuch"]}, "split 'nosuch'"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_any_training(
    trained: dict[str, Any], dataset: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ClipmillError, match=told) as raised:
        asked(trained, dataset, **options)
    assert isinstance(raised.value, RecipeError | UsageError | RunError | ClipmillError)
    assert "\n" not in str(raised.value)


def test_keys_may_be_for_one_protocol(trained: dict[str, Any], dataset: str) -> None:
    rates = ("model.learning_rate=0.5", "probe.model.learning_rate=0.25")
    probe, tuned = asked(trained, dataset, overrides=(*rates, *QUICK)).sides
    assert probe.given.model.fields["learning_rate"] == 0.25
    assert tuned.given.model.fields["learning_rate"] == 0.5
    assert probe.given.model.fields["frozen"] == ["encoder"]
    normalised = [side.given.plugin().normalised for side in (probe, tuned)]  # type: ignore[attr-defined]
    assert normalised == [True, False]
    assert tuned.given.model.fields["frozen"] == []


def test_few_videos_come_often_enough_to_fill_a_batch(
    trained: dict[str, Any], dataset: str
) -> None:
    side = asked(trained, dataset, shares=(0.01, 0.25, 1)).sides[0]
    told = [(each.videos, each.clips) for each in side.portions]
    assert told == [(2, 2), (6, 1), (24, 1)]
    assert side.given.train.batch == 4


def test_files_are_those_of_one_source_and_one_dataset(
    trained: dict[str, Any], dataset: str
) -> None:
    given = asked(trained, dataset)
    elsewhere = replace(given.catalog, folder=f"/elsewhere/{Path(dataset).name}")
    others = [replace(given, source="a/b"), replace(given, source="a-b"),
              replace(given, catalog=elsewhere)]  # fmt: skip
    assert len({each.name for each in [given, *others]}) == 4
    assert all("/" not in each.name for each in others)


def test_random_trials_are_those_of_any_source(trained: dict[str, Any], dataset: str) -> None:
    given = asked(trained, dataset, seeds=2)
    other = {n: tensor + 1 for n, tensor in given.sides[0].fit.weights.items()}
    sides = tuple(replace(s, fit=replace(s.fit, weights=other)) for s in given.sides)
    pairs = list(zip(*map(trial.trials_of, (given, replace(given, sides=sides))), strict=True))
    assert len(pairs) == 2 * 3 * 2 * 2
    assert all((a.name == b.name) == (a.begins == "random") for a, b in pairs)
    assert len({each.name for pair in pairs for each in pair}) == 12 + 2 * 12


# --- a real one


@pytest.fixture(scope="module")
def told(
    dataset: str, trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A tiny transfer: broken off in its second trial, then run to its end in two parts."""
    began: list[str] = []
    train = launch.run

    def breaks_off(made: Recipe, **options: Any) -> dict[str, Any]:
        began.append(made.run.name)
        if len(began) == 2:
            raise KeyboardInterrupt
        return train(made, **options)

    out, runs = tmp_path_factory.mktemp("transfer"), str(Path(trained["folder"]).parent)

    def transferred(*overrides: str, **options: Any) -> dict[str, Any]:
        labels = options.pop("labels", (0.05,))
        return api.transfer(
            "trained", dataset, (*QUICK, *overrides), labels=labels, out=str(out), folder=runs,
            **options,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            transferred(protocols=["finetune"], seeds=2)
        first = transferred(protocols=["finetune"], seeds=2, run=False)
        transferred(protocols=["finetune"], seeds=2, part=(1, 2))
        result = transferred(protocols=["finetune"], seeds=2, part=(2, 2))
        again = transferred(protocols=["finetune"], seeds=2)
        probe = transferred(protocols=["probe"], seeds=1, labels=(1.0,))
    return {"first": first, "result": result, "again": again, "probe": probe, "began": began,
            "out": out}  # fmt: skip


def test_a_broken_one_goes_on_and_nothing_is_trained_twice(told: dict[str, Any]) -> None:
    began = told["began"]
    assert len(began) == 2 * 2 + 1 + 2 and len(set(began)) == len(began) - 1
    counts = [told[name]["trials_done"] for name in ("first", "result", "again", "probe")]
    assert counts == [1, 4, 4, 2] and not told["result"]["failed"]
    assert told["again"] == told["result"]


def test_both_sides_have_the_same_budget(told: dict[str, Any]) -> None:
    for folder in (told["out"] / "runs").glob("single_frame-*-pretrained-*"):
        (twin,) = [
            other
            for other in (told["out"] / "runs").glob("single_frame-*-random-*")
            if other.name.rsplit("-", 1)[0] == folder.name.rsplit("-", 1)[0].replace("pretrained", "random")
        ]  # fmt: skip
        ours, theirs = (
            json.loads((each / "recipe.json").read_text())["recipe"] for each in (folder, twin)
        )
        assert ours["train"].pop("init_from") and theirs["train"].pop("init_from") is None
        assert [ours.pop("run")["folder"]] == [theirs.pop("run")["folder"]]
        assert ours == theirs


def test_rows_tell_what_came_out(told: dict[str, Any]) -> None:
    rows = told["result"]["rows"]
    assert [(r["share"], r["begins"]) for r in rows] == [(0.05, "pretrained"), (0.05, "random")]
    assert [row["training_videos"] for row in rows] == [2, 2]
    for row in rows:
        assert len(row["values"]) == 2 and row["seeds"] == [0, 1] and row["videos"] == 6
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        assert row["spread"] == pytest.approx(np.std(row["values"], ddof=1))
    tested = api.evaluate(rows[0]["trials"][1], folder=str(told["out"] / "runs"))
    assert tested["metrics"]["accuracy"] == rows[0]["values"][1]
    assert told["result"]["chance"] == 0.5


def test_a_probe_leaves_the_encoder_and_its_statistics_as_they_were(
    told: dict[str, Any], trained: dict[str, Any]
) -> None:
    before = infer.load(f"{trained['folder']}/model").module.state_dict()
    by_begin = {row["begins"]: row["trials"][0] for row in told["probe"]["rows"]}
    ours, random = (
        infer.load(str(told["out"] / "runs" / by_begin[begins] / "model")).module.state_dict()
        for begins in ("pretrained", "random")
    )
    encoder = [name for name in ours if name.startswith("encoder.")]
    assert encoder and all(torch.equal(ours[name], before[name]) for name in encoder)
    assert not torch.equal(ours["head.1.weight"], before["head.weight"])
    means = [mean for name, mean in random.items() if name.endswith("running_mean")]
    assert (means.pop() != 0).any(), "the last layer is given normalised features"
    assert means and all((mean == 0).all() for mean in means)


def test_only_what_shows_a_trial_stays(told: dict[str, Any]) -> None:
    for folder in (told["out"] / "runs").glob("single_frame-*"):
        assert (folder / "model" / "model.json").exists() and (folder / "result.json").exists()
        assert not (folder / "checkpoints").exists() and not list(folder.glob("*.safetensors"))
    assert len(list((told["out"] / "backbones").iterdir())) == 1


def test_the_page_and_the_plot_show_it(told: dict[str, Any]) -> None:
    result = told["result"]
    assert Path(result["files"]["md"]).name.startswith("trained-on-")
    made = transfer.page(result, "clipmill transfer trained x")
    assert "| finetune | 5 % | 2 | " in made and "(4 of 4 trials)" in made
    assert "tensors of encoder" in made and all(line in made for line in result["verdict"])
    # the last call was for the probe, and wrote its own files over those of the same name
    written = Path(told["probe"]["files"]["md"]).read_text()
    assert "| probe | 100 % | 24 | " in written
    assert "train.batch=4 train.log_every=1 --protocol probe --labels 1 --seeds 1` (" in written
    drawn = np.asarray(cv2.imread(told["probe"]["files"]["png"]))[..., ::-1]
    assert np.array_equal(drawn, transfer.drawn(told["probe"]))


def test_the_command_tells_it(told: dict[str, Any], trained: dict[str, Any], dataset: str) -> None:
    words = ["transfer", "trained", dataset, *QUICK, "--protocol", "finetune", "--labels", "0.05",
             "--seeds", "2", "--out", str(told["out"]), "--runs",
             str(Path(trained["folder"]).parent), "--print"]  # fmt: skip
    done = runner.invoke(app, [*words, "--json"])
    value = json.loads(done.stdout)
    assert done.exit_code == 0 and value["rows"] == told["result"]["rows"]
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0 and "finetune: " in shown.stdout
    wrong = runner.invoke(app, [*words, "--labels", "few"])
    assert wrong.exit_code == 2 and "fractions such as" in wrong.stderr


# --- the verdict


def row(share: float, begins: str, *values: float) -> dict[str, Any]:
    return {"protocol": "probe", "share": share, "begins": begins, "values": values, "videos": 9}


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [
        ((0.79, 0.80, 0.81), "better"),
        ((0.715, 0.705, 0.725), "no difference"),  # within 1 % + 1 %
        ((0.59, 0.60, 0.61), "worse"),
        ((0.9,), "not judged"),  # one seed has no spread
    ],
)
def test_better_is_by_more_than_both_spreads(ours: tuple[float, ...], wanted: str) -> None:
    rows = [row(0.1, "pretrained", *ours), row(0.1, "random", 0.69, 0.70, 0.71)]
    turned = {"better": "worse", "worse": "better"}
    (up,), (down,) = (judged(rows, {"probe": higher}) for higher in (True, False))
    assert up["verdict"] == wanted and down["verdict"] == turned.get(wanted, wanted)
    assert up["gain"] == pytest.approx(-down["gain"])
    assert judged(rows[:1], {"probe": True})[0]["verdict"] == "not judged"


def test_the_verdict_says_where() -> None:
    rows = [
        each
        for share, mean in ((0.01, 0.9), (0.1, 0.8), (1.0, 0.5))
        for each in (
            row(share, "pretrained", mean, mean + 0.01),
            row(share, "random", 0.5, 0.51),
        )
    ]
    (line,) = said(judged(rows, {"probe": True}))
    assert line == (
        "probe: beats random weights by more than the spread of the seeds at 1 % and 10 %;"
        " no difference beyond the spread of the seeds at 100 % of the labels"
    )


def test_only_shares_are_told_in_percent() -> None:
    share = {"mean": 0.5, "spread": 0.125, "values": [1, 2], "metric": "accuracy"}
    loss = {"mean": 3.25, "spread": 0.5, "values": [1, 2], "metric": "test_loss"}
    assert pages.percent(share) == "50.0% ± 12.5%"
    assert pages.percent(loss) == "3.25 ± 0.5 test loss"
    assert gain(0.125, [share, share]) == "+12.5" and gain(-0.5, [share, loss]) == "-0.5"


def test_chance_is_told_where_one_class_or_the_own_task_is_guessed() -> None:
    catalog = catalog_of([{**row, "label": "abcd"[at]} for at, row in enumerate(rows(4))])
    assert chance.of_classes(frame(), catalog) == 0.25
    others = ("unet", {}), ("siamese", {}), ("single_frame", {"labels": "several"})
    for name, fields in others:
        assert chance.of_classes(plugin.make(name, fields), catalog) is None, name
    assert chance.of_result({"metrics": {"auc": 0.9, "own_chance": 0.5}}, None) == 0.5
    assert chance.of_result({"metrics": {"accuracy": 0.9}}, 0.25) == 0.25
    assert conduct._of_all({0.25}) == 0.25 and conduct._of_all({0.25, None}) is None


def test_a_plot_holds_figures_that_are_no_shares() -> None:
    rows = [
        {**row(share, begins, mean), "mean": mean, "spread": 0.5, "metric": "loss"}
        for share, begins, mean in ((0.01, "random", 3.0), (1.0, "random", 9.0))
    ]
    assert plot.limits(rows) == (2.5, 9.5)
    assert plot.limits([{**rows[0], "mean": 0.9, "spread": 0.2}]) == (0, 1)
    assert plot.across(0.1, rows) == plot.WIDTH // 2
    told = {"rows": rows, "source": "it", "data": "d", "chance": None, "verdict": ["x"]}
    assert transfer.drawn(told).ndim == 3
    assert transfer.drawn({**told, "rows": []}).ndim == 3


def test_a_line_of_the_plot_goes_through_its_figures() -> None:
    rows = [
        {**row(share, begins, mean), "mean": mean, "spread": 0.1, "metric": "accuracy"}
        for begins, means in (("pretrained", (0.6, 0.7, 0.8)), ("random", (0.2, 0.2, 0.6)))
        for share, mean in zip((0.01, 0.1, 1.0), means, strict=True)
    ]
    told = {"rows": rows, "source": "it", "data": "d", "chance": 0.5, "verdict": []}
    picture = transfer.drawn(told)[plot.LINE_HEIGHT :, plot.LEFT :]
    for each in rows:
        colour = plot.COLOURS[each["begins"]]
        across = plot.across(each["share"], rows)
        column = np.flatnonzero((picture[:, across] == colour).all(1))
        middle = (1 - each["mean"]) * plot.HEIGHT
        assert abs(column.mean() - middle) < 4  # mark and spread are about the mean
        assert len(column) == pytest.approx(0.2 * plot.HEIGHT, abs=6)
