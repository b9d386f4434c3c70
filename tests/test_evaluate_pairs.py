"""What distances of pairs tell: counted by hand, and drawn."""

from typing import Any

import numpy as np

from clipmill.evaluate.pairs import (
    BINS,
    COLOURS,
    HARDEST,
    PLOT_HEIGHT,
    drawn,
    hardest,
    pair_figures,
)
from tiny import catalog_of, rows


def answer(others: list[str], distances: list[float], kinds: list[int]) -> dict[str, Any]:
    frames = np.zeros((len(others), 2), np.int64)
    told = {"others": np.array(others), "distances": np.array(distances), "kinds": np.array(kinds)}
    return {**told, "frames": frames}


KEYS = [{"key": "a"}, {"key": "b"}]
ANSWERS = [
    answer(["b", "c", "d"], [0.9, 0.2, 1.0], [0, 1, 2]),
    answer(["a", "e"], [0.8, 0.0], [0, 2]),
]


def test_each_pair_is_counted_once_where_it_lies() -> None:
    told = pair_figures(KEYS, ANSWERS, 0.5)["distances"]
    assert told["edges"][0] == 0.0 and told["edges"][-1] == 1.0 and told["threshold"] == 0.5
    assert [sum(row) for row in told["counts"]] == [2, 1, 2]
    assert told["counts"][2][0] == told["counts"][2][BINS - 1] == 1


def test_hardest_are_those_of_one_far_apart_and_of_two_near() -> None:
    told = pair_figures(KEYS, ANSWERS, None)["hardest"]
    shown = [(pair["key"], pair["other"], pair["kind"]) for pair in told]
    # a and b lead each other, and are shown once.
    assert shown == [
        ("a", "b", "of one"), ("b", "e", "of two"), ("a", "c", "of two alike"), ("a", "d", "of two"),
    ]  # fmt: skip
    many = answer([str(at) for at in range(50)], np.linspace(0, 1, 50).tolist(), [2] * 50)
    assert len(pair_figures(KEYS[:1], [many], None)["hardest"]) == HARDEST


def test_bars_and_the_threshold_are_drawn() -> None:
    told = pair_figures(KEYS, ANSWERS, 0.5)["distances"]
    picture = drawn(told)
    for colour in COLOURS:
        assert (picture[: PLOT_HEIGHT + 20] == colour).all(-1).any()
    line = (picture == 24).all(-1).sum(0)
    assert line.argmax() in range(picture.shape[1] // 2 - 2, picture.shape[1] // 2 + 2)
    assert (drawn({**told, "threshold": None}) == 24).all(-1).sum(0).max() < PLOT_HEIGHT


def test_what_cannot_be_read_leaves_its_place_empty() -> None:
    catalog = catalog_of(rows(2))
    one, two = catalog.keys
    told = [{"key": one, "other": two, "kind": "of two", "distance": 0.1, "frames": [0, 95]}]
    whole = hardest(told, catalog)
    gone = hardest([{**told[0], "other": "forgotten"}], catalog)
    assert whole.shape == gone.shape and (whole != gone).any(), "it says that it is gone"
