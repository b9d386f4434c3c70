"""The figures of verification, by hand and by law."""

from typing import Any

import numpy as np
import pytest

from clipmill.errors import DataError
from clipmill_similar.meter import PairMeter, accuracy, auc, equal_error
from clipmill_similar.recognition import Norm, Shown, apart, chosen, open_set
from clipmill_similar.thresholds import best_threshold

SAME, OTHERS = np.array([0.1, 0.2, 0.6]), np.array([0.5, 0.9, 1.0])


def answers(count: int = 12) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rng = np.random.default_rng(0)
    return [
        (
            {
                "distances": rng.uniform(0, 1, 3) + np.array([0, 0.3, 0.6]),
                "kinds": np.arange(3),
                "embedding": rng.normal(size=4),
            },
            {"key": str(place), "identity": str(place // 3)},
        )
        for place in range(count)
    ]


def of(told: list[tuple[dict[str, Any], dict[str, Any]]]) -> PairMeter:
    made = PairMeter()
    for answer, row in told:
        made.update(answer, row)
    return made


def test_figures_by_hand() -> None:
    assert auc(SAME, OTHERS) == pytest.approx(8 / 9)
    assert equal_error(SAME, OTHERS) == pytest.approx(1 / 3)
    assert best_threshold(SAME, OTHERS) == pytest.approx(0.35)  # of two the lower
    assert best_threshold(OTHERS, SAME) < 0.1, "nobody, where whoever is near is another"
    assert accuracy(SAME, OTHERS, 0.35) == pytest.approx((2 / 3 + 1) / 2)
    assert auc(SAME, SAME) == pytest.approx(0.5) and equal_error(SAME, SAME) == pytest.approx(0.5)
    assert equal_error(SAME[:2], OTHERS) == 0.0


def test_merged_parts_are_the_whole_in_any_order() -> None:
    told = answers()
    whole = of(told).compute()
    for cut in (1, 5):
        part = of(told[cut:])
        part.merge(of(told[:cut]))
        assert part.compute() == whole
    assert whole["pairs_same"] == whole["pairs_alike"] == whole["pairs_other"] == 12
    assert whole["auc"] > whole["auc_within_label"] > 0.5


def test_the_threshold_is_that_of_the_validation() -> None:
    chosen = of(answers())
    chosen.settle({"threshold": -1.0})
    assert chosen.compute()["accuracy"] == 0.5, "nobody is the same"
    assert of(answers()).compute()["accuracy"] > 0.6


def test_recall_counts_who_has_another_video() -> None:
    told = answers(4)  # three of one, and one alone
    for place, (answer, _) in enumerate(told):
        answer["embedding"] = np.array([[0.0], [0.1], [5.0], [0.3]][place])
    figures = of(told).compute()
    assert figures["recall_at_1"] == pytest.approx(2 / 3) and figures["recall_at_5"] == 1.0


def test_pairs_of_one_kind_measure_nothing() -> None:
    told = answers(2)
    for answer, _ in told:
        answer["kinds"] = np.zeros(3, np.int64)
    with pytest.raises(DataError, match="0 of two"):
        of(told).compute()
    with pytest.raises(DataError, match="compared with none"):
        PairMeter().update({"embedding": np.zeros(2)}, {"key": "x", "identity": "a"})


# --- recognition among many


def people(*places: tuple[str, float]) -> list[Shown]:
    """Videos of these identities at these places of a line."""
    return chosen(
        [Shown(who, str(at), np.array([place])) for at, (who, place) in enumerate(places)]
    )


def test_those_enrolled_are_told_and_strangers_refused() -> None:
    # By their hashes b comes before a: it is enrolled by its first video, a and c are strangers.
    among = people(("b", 0.0), ("b", 0.2), ("b", 0.5), ("a", 0.4), ("a", 0.9), ("c", 0.8))
    told = open_set(among, "squared", 0.1)
    assert told["gallery"] == 1 and told["identified"] == 0.5 and told["refused"] == 1.0
    assert told["open_set"] == 0.75 and told["open_set_threshold"] == 0.1
    best = open_set(among, "absolute", None)
    assert best["open_set_threshold"] == pytest.approx(0.65), (
        "both of b, and one of three strangers"
    )
    assert best["identified"] == 1.0 and best["refused"] == pytest.approx(2 / 3)
    assert open_set(among, "absolute", 0.6)["refused"] == pytest.approx(2 / 3)


def test_the_known_at_the_wrong_name_are_not_identified() -> None:
    known = ("b", 0.0), ("b", 1.0), ("e", 0.9), ("e", 0.8)
    strangers = ("a", 9.0), ("a", 9.0), ("2", 5.0), ("2", 5.0)  # by their hashes
    told = open_set(people(*known, *strangers), "squared", 2.0)
    assert told["identified"] == 0.5 and told["refused"] == 1.0, "b looks like e"


def test_without_strangers_or_anyone_known_nothing_is_told() -> None:
    assert open_set(people(("a", 0.0), ("b", 1.0)), "squared", None) == {}
    assert open_set(people(("a", 0.0), ("a", 1.0)), "squared", None) == {}
    assert open_set([], "squared", None) == {}


@pytest.mark.parametrize(("norm", "away"), [("squared", 13.0), ("absolute", 5.0)])
def test_distances_are_those_of_the_rule(norm: Norm, away: float) -> None:
    one, two = (Shown("a", "", np.array(place)) for place in ((0.0, 1.0), (2.0, -2.0)))
    assert apart([one], [one, two], norm).tolist() == [[0.0, away]]


def test_a_video_that_comes_twice_is_compared_once() -> None:
    told = answers()
    once, twice = of(told).compute(), of([*told, told[0]]).compute()
    assert once["recall_at_1"] == twice["recall_at_1"] and once["open_set"] == twice["open_set"]
