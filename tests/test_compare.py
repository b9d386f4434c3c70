"""Comparing models: the paired bootstrap against plain resampling, and its words."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill import compare
from clipmill.errors import PlanError, PluginError
from clipmill_classify.meters import ClassMeter


def result(name: str, right: Any, **changes: Any) -> dict[str, Any]:
    """An evaluation of videos that were told rightly or not."""
    scores = [float(each) for each in right]
    return {
        "run": name,
        "plugin": "any",
        "data": "videos",
        "data_digest": "d1",
        "protocol": {"clips": 4, "crops": 1, "crop": "centre", "split": "test"},
        "classes": ["left", "right"],
        "metric": "accuracy",
        "higher_is_better": True,
        "videos": len(scores),
        "bad_clips": 0,
        "videos_without_answer": 0,
        "metrics": {"accuracy": float(np.mean(scores))},
        "score": float(np.mean(scores)),
        "answers": [{"key": f"{at:03d}", "score": score} for at, score in enumerate(scores)],
        **changes,
    }


def with_meters(told: dict[str, Any]) -> dict[str, Any]:
    """The same as of a metric that is known of many videos only."""
    meters = {}
    for row in told["answers"]:
        meters[row["key"]] = ClassMeter()
        hit = row["score"]
        meters[row["key"]].update({"probabilities": [hit, 1 - hit]}, {"target": 0})
    rows = [{"key": row["key"], "label": row["score"]} for row in told["answers"]]
    return {**told, "answers": rows, "meters": meters}


RIGHT_A = [at % 10 < 8 for at in range(100)]  # 80 of 100
RIGHT_B = [at % 10 < 8 and at % 4 > 0 for at in range(100)]  # 60, all among those of A


def plainly(a: list[bool], b: list[bool], resamples: int = 4000) -> tuple[float, float]:
    """The interval by drawing videos one by one."""
    rng, apart = np.random.default_rng(7), np.subtract(a, b, dtype=float)
    means = [rng.choice(apart, len(apart)).mean() for _ in range(resamples)]
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def test_the_interval_is_that_of_plain_resampling() -> None:
    told = compare.paired(result("A", RIGHT_A), result("B", RIGHT_B))
    assert told["difference"] == pytest.approx(0.2)
    assert (told["low"], told["high"]) == pytest.approx(plainly(RIGHT_A, RIGHT_B), abs=0.011)
    assert (told["videos"], told["videos_that_differ"], told["resamples"]) == (100, 20, 10_000)
    assert told["better"] == "A"
    assert told["verdict"].startswith("A is better by 20.0 points, 95 % between 1")
    assert compare.paired(result("A", RIGHT_A), result("B", RIGHT_B)) == told
    other = compare.paired(result("A", RIGHT_A), result("B", RIGHT_B), seed=1)
    assert other["low"] == pytest.approx(told["low"], abs=0.011)


def test_it_names_the_better_one_whichever_comes_first() -> None:
    told = compare.paired(result("B", RIGHT_B), result("A", RIGHT_A))
    assert told["difference"] == pytest.approx(-0.2) and told["high"] < 0
    assert told["better"] == "A"
    assert told["verdict"].startswith("A is better by 20.0 points, 95 % between 1")


def test_a_metric_that_is_no_mean_is_measured_on_every_resample() -> None:
    a, b = with_meters(result("A", RIGHT_A)), with_meters(result("B", RIGHT_B))
    before = copy.deepcopy(a["meters"]["000"].compute())
    told = compare.paired(a, b)
    assert (told["low"], told["high"]) == pytest.approx(plainly(RIGHT_A, RIGHT_B), abs=0.015)
    assert told["better"] == "A"
    assert a["meters"]["000"].compute() == before, "a meter was changed by comparing"


def test_without_scores_and_meters_it_cannot_be_told() -> None:
    bare = with_meters(result("A", RIGHT_A))
    del bare["meters"]
    with pytest.raises(PluginError, match="accuracy of A has no score of a single video"):
        compare.paired(bare, result("B", RIGHT_B))


@pytest.mark.parametrize("differ", [0, 1, 5])
def test_from_few_videos_nothing_can_be_told(differ: int) -> None:
    right = np.ones(40, bool)
    told = compare.paired(result("A", right), result("B", np.arange(40) >= differ))
    assert told["better"] is None
    assert told["verdict"].startswith("no difference can be told between A and B from 40 videos")


def test_six_videos_on_which_one_side_is_right_tell_something() -> None:
    told = compare.paired(result("A", np.ones(40, bool)), result("B", np.arange(40) >= 6))
    assert told["better"] == "A" and told["low"] > 0


def test_of_a_loss_the_lower_is_better() -> None:
    changes = {"metric": "loss", "higher_is_better": False}
    rng = np.random.default_rng(0)
    losses = rng.uniform(0.2, 0.4, 50)
    a, b = (
        result(name, of, metrics={"loss": of.mean()}, score=-of.mean(), **changes)
        for name, of in (("A", losses), ("B", losses + rng.uniform(0.05, 0.15, 50)))
    )
    told = compare.paired(a, b)
    assert told["better"] == "A" and told["difference"] < 0
    assert told["verdict"].startswith("A is better by 0.1")
    assert compare.compared([b, a])["best"] == "A"


def test_equal_models_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(100):
        a, b = rng.random((2, 60)) < 0.7
        found += compare.paired(result("A", a), result("B", b))["better"] is not None
    assert found <= 12  # about 5 of 100 by chance


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_difference_is_within_its_interval_and_turns_with_its_sides(
    right: list[tuple[bool, bool]],
) -> None:
    a, b = (result(name, of) for name, of in zip("AB", zip(*right, strict=True), strict=True))
    told, turned = compare.paired(a, b), compare.paired(b, a)
    assert told["low"] - 1e-12 <= told["difference"] <= told["high"] + 1e-12
    assert turned["difference"] == pytest.approx(-told["difference"])
    assert turned["low"] <= -told["difference"] + 1e-12


def test_only_videos_that_both_answered_count() -> None:
    a, b = result("A", RIGHT_A), result("B", RIGHT_B)
    b["answers"] = b["answers"][10:]
    told = compare.paired(a, b)
    assert told["videos"] == 90
    assert told["difference"] == pytest.approx(np.mean(RIGHT_A[10:]) - np.mean(RIGHT_B[10:]))
    assert told["differences"] == ["10 videos only one answered"]
    with pytest.raises(PlanError, match="no video"):
        compare.paired(a, {**b, "answers": []})


def test_several_models_stand_in_rows_the_best_first() -> None:
    told = compare.compared([result("B", RIGHT_B), result("A", RIGHT_A), result("C", RIGHT_B)])
    assert [row["model"] for row in told["rows"]] == ["A", "B", "C"]
    assert [row["value"] for row in told["rows"]] == pytest.approx([0.8, 0.6, 0.6])
    assert [(pair["a"], pair["b"]) for pair in told["pairs"]] == [
        ("A", "B"),
        ("A", "C"),
        ("B", "C"),
    ]
    assert told["best"] == "A" and told["pairs"][2]["better"] is None


REFUSED = (
    ({"data_digest": "d2"}, "other videos: test of videos and test of videos"),
    ({"metric": "map"}, "measured by accuracy and map"),
    ({"protocol": {"clips": 8, "crops": 1, "crop": "centre"}}, "differ in clips: 4 and 8"),
    ({"classes": ["left", "up"]}, "differ in classes: only one of them knows right, up"),
)


@pytest.mark.parametrize(("changes", "line"), REFUSED)
def test_what_is_not_the_same_test_is_refused(changes: dict[str, Any], line: str) -> None:
    a = result("A", RIGHT_A)
    b = result("B", RIGHT_B, **changes)
    if "protocol" in changes:
        b["protocol"]["split"] = "test"
    with pytest.raises(PlanError, match=line):
        compare.check_alike([a, b])
    compare.check_alike([a, result("C", RIGHT_B)])


def test_on_given_data_classes_may_differ_but_not_videos() -> None:
    a, b = result("A", RIGHT_A), result("B", RIGHT_B, classes=["left", "right", "up"])
    compare.check_alike([a, b], data_given=True)
    assert compare.paired(a, b)["differences"] == ["classes: only one of them knows up"]
    with pytest.raises(PlanError, match="other videos"):
        compare.check_alike([a, {**b, "data_digest": "d2"}], data_given=True)


def test_versions_are_named_by_number() -> None:
    assert compare.name_of({"name": "demo", "version": "3", "plugin": "c3d"}) == "demo/3"
    assert compare.name_of({"run": "first", "plugin": "c3d"}) == "first"
