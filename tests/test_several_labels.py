"""Several classes a video: targets, loss, figures, and all of it at once on real videos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from torch.nn import functional
from typer.testing import CliRunner

from clipmill import api, catalog, compare, contract, evaluate, infer, readable, video
from clipmill import plan as plans
from clipmill import recipe as recipes
from clipmill.cli import app
from clipmill.errors import DataError, PlanError, PluginError, RecipeError
from clipmill.evaluate.figures import several_figures
from clipmill.readable import Clock
from clipmill_classify.labels import several_targets
from clipmill_classify.meters import SeveralMeter
from clipmill_classify.scores import SeveralJudge
from tiny import catalog_of, recipe_of, rows

CLASSES = ("bright", "dim", "red")


# --- targets and loss


def test_targets_are_all_classes_of_a_record() -> None:
    record = {"targets": [2, 0], "class_count": 4}
    assert several_targets(record).tolist() == [1, 0, 1, 0]
    assert several_targets({"targets": [], "class_count": 3}).tolist() == [-1, -1, -1]


def test_each_class_is_judged_for_itself() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4), torch.tensor([[1, 0, 0, 1], [-1] * 4, [0, 0, 1, 0]])
    target = target.to(torch.int8)
    told = SeveralJudge()(logits, {"target": target})
    rows = [
        functional.binary_cross_entropy_with_logits(logits[at], target[at].float()) for at in (0, 2)
    ]
    torch.testing.assert_close(told["loss"], sum(rows) / 2)
    hits = [float(target[at, logits[at].argmax()]) for at in (0, 2)]
    assert float(told["accuracy"]) == sum(hits) / 2
    nothing = SeveralJudge()(logits[1:2], {"target": target[1:2]})
    assert nothing["loss"] == 0


def test_weights_smoothing_and_mixing_work_class_by_class() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    judge, bce = SeveralJudge(0.2, (1.0, 4.0, 0.5)), functional.binary_cross_entropy_with_logits
    share = torch.tensor([0.25, 1.0])
    mixed = {"target": target, "target_b": target.roll(-1, 0), "mix": share}
    soft = target * share[:, None] + target.roll(-1, 0) * (1 - share[:, None])
    each = bce(logits, soft * 0.8 + 0.1, reduction="none") * torch.tensor([1.0, 4.0, 0.5])
    torch.testing.assert_close(judge(logits, mixed)["loss"], each.mean(1).mean())
    halves = [judge(logits[[at]], {"target": target[[at]]})["loss"] for at in (0, 1)]
    whole = judge(logits, {"target": target})["loss"]
    torch.testing.assert_close(whole, sum(halves) / 2)


# --- figures


VIDEO = st.tuples(
    st.lists(st.integers(0, 4), min_size=3, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
)
VIDEOS = st.lists(VIDEO, min_size=1, max_size=12)
Videos = list[tuple[list[int], list[int]]]


def metered(videos: Videos) -> SeveralMeter:
    meter = SeveralMeter(0.5)
    for scores, true in videos:
        row = {"key": "k", "label": None, "labels": [CLASSES[t] for t in true], "targets": true}
        meter.update({"presence": np.array(scores) / 4}, row)
    return meter


def arrays(videos: Videos) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([scores for scores, _ in videos]) / 4
    return scores, np.array([np.isin(np.arange(3), true) for _, true in videos])


@settings(deadline=None)
@given(VIDEOS)
def test_videos_of_several_classes_are_measured_as_scikit_learn_does(videos: Videos) -> None:
    found = metered(videos).compute()
    scores, true = arrays(videos)
    each = {
        k: average_precision_score(true[:, k], scores[:, k]) for k in range(3) if true[:, k].any()
    }
    assert found["mean_average_precision"] == pytest.approx(np.mean(list(each.values())))
    for k, value in each.items():
        assert found[f"average_precision/{CLASSES[k]}"] == pytest.approx(value)
    told = scores >= 0.5
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        wanted = score(true.ravel(), told.ravel(), zero_division=0)
        assert found[name] == pytest.approx(wanted)


@settings(deadline=None)
@given(VIDEOS, st.data())
def test_merging_meters_of_several_classes_is_exact(videos: Videos, data: st.DataObject) -> None:
    whole = metered(videos).compute()
    shuffled = data.draw(st.permutations(videos))
    cut = data.draw(st.integers(0, len(videos)))
    merged = metered(shuffled[:cut])
    merged.merge(metered(shuffled[cut:]))
    assert merged.compute() == whole


def test_what_cannot_be_counted_is_refused() -> None:
    meter, row = SeveralMeter(0.5), {"key": "k", "label": "bright", "labels": None}
    with pytest.raises(DataError, match="no video was measured"):
        meter.compute()
    with pytest.raises(DataError, match=r"record k has label 'bright' \(class \[-1\]\)"):
        meter.update({"presence": np.ones(3)}, {**row, "targets": [-1]})
    with pytest.raises(PluginError, match="record k are not finite"):
        meter.update({"presence": np.array([np.nan, 1])}, {**row, "targets": [0]})
    meter.update({"presence": np.ones(2)}, {**row, "targets": [0]})
    with pytest.raises(PluginError, match="an answer has 3 classes; wanted 2"):
        meter.update({"presence": np.ones(3)}, {**row, "targets": [0]})


@given(VIDEOS)
def test_figures_of_several_classes_are_those_of_their_decisions(videos: Videos) -> None:
    scores, true = arrays(videos)
    keys = [f"k{at}" for at in range(len(videos))]
    made = several_figures(keys, scores, true, CLASSES, 0.5)
    assert "confusion" not in made and "confused" not in made
    told = scores >= 0.5
    for row in made["by_class"]:
        k = CLASSES.index(row["name"])
        right = int((told[:, k] & true[:, k]).sum())
        assert (row["videos"], row["told"], row["right"]) == (
            true[:, k].sum(),
            told[:, k].sum(),
            right,
        )
        assert row["recall"] == (right / row["videos"] if row["videos"] else None)
    decisions = sum(each["decisions"] for each in made["calibration"]["bins"])
    assert decisions == scores.size
    bins = [
        each["decisions"] * abs(each["confidence"] - each["accuracy"])
        for each in made["calibration"]["bins"]
    ]
    assert made["calibration"]["error"] == pytest.approx(sum(bins) / scores.size)
    wrong = [(k, int(c)) for k, c in zip(*np.nonzero(told != true), strict=True)]
    assert len(made["worst"]) == min(24, len(wrong))
    sure = [row["probability"] for row in made["worst"]]
    assert sure == sorted(sure, reverse=True)
    for row in made["worst"]:
        video, name = keys.index(row["key"]), row["label"].removeprefix("not ")
        k = CLASSES.index(name)
        assert told[video, k] == (row["label"] == name) != true[video, k]
        assert row["probability"] == (scores[video, k] if told[video, k] else 1 - scores[video, k])


def test_an_answer_lists_the_classes_that_are_there() -> None:
    answer = {"presence": np.array([0.7, 0.2, 0.9]), "threshold": 0.6}
    told = readable.readable(answer, CLASSES, Clock(30, 30))
    assert told["labels"] == ["red", "bright"] and "label" not in told
    assert [each["name"] for each in told["classes"]] == ["red", "bright", "dim"]
    assert told["threshold"] == 0.6


def test_the_contract_holds_with_several_classes() -> None:
    report = contract.check("single_frame", {"labels": "several"})
    assert report.ok, f"\n{report}"
    claimed = {result.check for result in report.results if result.ok}
    assert claimed >= {"gradients", "overfits", "mixing", "rows", "meter", "export"}


# --- real videos


COUNTS = {"train": 3, "val": 1, "test": 3}


def write_videos(folder: Path) -> Path:
    """Videos that are bright or dim, and red or not: with sound names in a table's column."""
    lines, rng = ["path,split,labels"], np.random.default_rng(0)
    for split, count in COUNTS.items():
        for light in ("bright", "dim"):
            for red in (True, False):
                for number in range(count):
                    name = f"{split}-{light}-{red}-{number}.mp4"
                    frames = rng.integers(0, 60, (16, 48, 48, 3)) + (
                        150 if light == "bright" else 20
                    )
                    frames[..., 1:] -= 20 + 60 * (light == "bright") if red else 0
                    video.encode(
                        str(folder / name), list(frames.clip(0, 255).astype(np.uint8)), fps=15
                    )
                    lines.append(f"{name},{split},{light}{'|red' if red else ''}")
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def data(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("several")
    api.ingest(str(write_videos(folder)), str(folder / "data"))
    return str(folder / "data")


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("runs")
    given = recipe_of(
        run={"name": "several", "folder": str(folder)},
        data={"path": data},
        model={"labels": "several", "threshold": 0.4, "test_clips": 2, "dropout": 0.0},
        train={"steps": 30, "batch": 8, "threads": 1},
    )
    return {**api.train(given), "runs": str(folder)}


def test_several_classes_are_learnt_measured_and_told(
    run: dict[str, Any], data: str, tmp_path: Path
) -> None:
    told = api.evaluate("several", folder=run["runs"], pictures=str(tmp_path / "pictures"))
    assert told["metric"] == "mean_average_precision"
    assert told["protocol"]["threshold"] == 0.4 and told["protocol"]["clips"] == 2
    assert told["metrics"]["mean_average_precision"] > 0.9
    names = {Path(file).stem for file in told["pictures"]}
    assert names - {"worst"} == {"classes", "calibration"}
    assert "confusion" not in told["figures"]
    found = {row["name"]: row["videos"] for row in told["figures"]["by_class"]}
    assert found == {"bright": 6, "dim": 6, "red": 6}
    right = [set(answer["labels"]) == set(answer["target"]) for answer in told["answers"]]
    assert sum(right) >= 9

    part = catalog.load(data).part(split="test")
    row = part.row(0)
    (tmp_path / "video.mp4").write_bytes(part.read(row))
    (answer,) = api.predict("several", [str(tmp_path / "video.mp4")], folder=run["runs"])["videos"]
    (same,) = [each for each in told["answers"] if each["key"] == row["key"]]
    assert answer["labels"] == same["labels"]
    words = ["predict", "several", str(tmp_path / "video.mp4"), "--runs", run["runs"]]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0 and all(name in ran.stdout for name in answer["labels"])
    for ours, theirs in zip(answer["classes"], same["classes"], strict=True):
        assert ours == {**theirs, "probability": pytest.approx(theirs["probability"], abs=1e-5)}


def test_an_evaluation_of_several_classes_is_shown(run: dict[str, Any]) -> None:
    words = ["evaluate", "several", "--runs", run["runs"]]
    shown, plain = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--json"]))
    assert shown.exit_code == plain.exit_code == 0
    assert "mean_average_precision" in shown.stdout
    assert json.loads(plain.stdout)["metrics"]["mean_average_precision"] > 0.9


def test_two_models_of_several_classes_can_be_compared(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 100)  # each is measured anew
    told = api.compare(["several", "several"], folder=run["runs"])
    (pair,) = told["pairs"]
    assert pair["metric"] == "mean_average_precision" and pair["difference"] == 0


def test_originals_are_measured_with_several_classes(run: dict[str, Any]) -> None:
    told = api.evaluate("several", folder=run["runs"], originals=True)["originals"]
    assert told["videos"] == 12 and told["metrics"]["mean_average_precision"] > 0.9
    assert set(told["answers_apart"]) == {"presence"}
    assert 0 <= told["labels_changed"] <= 3


def test_a_single_class_is_the_only_one_of_several(dataset: str) -> None:
    given = recipe_of(data={"path": dataset}, model={"labels": "several"})
    plan = plans.make(recipes.parse(given), "train")
    row = plan.catalog.row(0)
    assert several_targets(row).tolist() == [row["label"] == name for name in ("left", "right")]


def test_classes_and_labels_that_lack_are_told(run: dict[str, Any], data: str) -> None:
    model = infer.load(f"{run['folder']}/model")
    whole = catalog.load(data)
    table = whole.part(split="test").table.to_pylist()
    strange = [{**row, "labels": ["odd", *row["labels"]]} for row in table]
    with pytest.raises(PlanError, match="has the class 'odd'.*bright, dim, red"):
        evaluate.check(model, other(whole, strange))
    bare = [{**table[0], "labels": None}, *table[1:]]
    with pytest.raises(PlanError, match="1 of 12 records of .* have no class"):
        evaluate.check(model, other(whole, bare))
    single = recipe_of(data={"path": data})
    with pytest.raises(PlanError, match="records have no label to train on"):
        plans.make(recipes.parse(single), "train").epoch(0)
    plain = catalog_of([{**row, "label": None} for row in rows(4)])
    with pytest.raises(PlanError, match="4 of 4 records have no labels to train on"):
        plans.make(model.recipe, "train", plain).epoch(0)
    with pytest.raises(RecipeError, match="threshold"):
        recipes.parse(recipe_of(model={"threshold": 1.5}))


def other(whole: catalog.Catalog, table: list[dict[str, Any]]) -> catalog.Catalog:
    return catalog.Catalog(whole.folder, catalog_of(table).table, whole.meta)
