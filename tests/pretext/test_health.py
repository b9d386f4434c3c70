"""Health: spread and directions of embeddings, merged exactly, and the line about them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clipmill.contract.case import RECORDS, Case
from clipmill.errors import DataError, PluginError
from clipmill_pretext.health import BLOCK, Spread, effective_rank, told
from clipmill_pretext.meters import HealthTask
from clipmill_pretext.temporal_coherence import TemporalCoherence


def spread_of(vectors: Any) -> dict[str, float]:
    made = Spread()
    for vector in vectors:
        made.add(vector)
    return made.compute()


def test_spread_and_directions_by_hand() -> None:
    # Two unit vectors at a right angle: deviations of 1/2 each, one direction between them.
    found = spread_of([[3.0, 0.0], [0.0, 0.2]])
    assert found["spread"] == pytest.approx(np.sqrt(2) * 0.5, abs=1e-5)
    assert found["directions"] == pytest.approx(1.0) and found["room"] == 1.0
    square = spread_of([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert square["directions"] == pytest.approx(2.0, abs=1e-6) and square["room"] == 3.0
    assert effective_rank(np.diag([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


def test_what_is_alike_has_no_spread_and_what_is_random_has_all() -> None:
    rng = np.random.default_rng(0)
    alike = spread_of(np.ones(16) + rng.normal(0, 1e-4, (50, 16)))
    assert alike["spread"] < 0.001
    assert spread_of(np.ones((5, 16)))["directions"] == 0.0
    assert spread_of(np.zeros((5, 16)))["spread"] == 0.0
    free = spread_of(rng.normal(size=(600, 16)))
    assert free["spread"] == pytest.approx(1.0, abs=0.02) and free["directions"] > 15


def test_merged_parts_are_exactly_the_whole() -> None:
    vectors = np.random.default_rng(1).normal(size=(BLOCK * 2 + 37, 24))
    whole, *parts = (Spread() for _ in range(4))
    for place, vector in enumerate(vectors):
        whole.add(vector)
        parts[place % 3].add(vector)
    merged = Spread()
    for part in (parts[2], parts[0], parts[1]):
        merged.merge(part)
    assert merged.compute() == whole.compute()
    assert merged.videos == len(vectors)


def test_bad_vectors_are_refused() -> None:
    made = Spread()
    made.add([1.0, 2.0])
    with pytest.raises(DataError, match="record k is not finite.*learning rate"):
        made.add([np.nan, 0.0], "k")
    with pytest.raises(PluginError, match=r"an embedding of \[3\]"):
        made.add([1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="no embedding was measured"):
        Spread().compute()


def test_the_meter_tells_chance_and_health_beside_the_figure() -> None:
    meter = HealthTask(0.5, own_accuracy="right")
    for right in (1.0, 0.0, 1.0):
        answer = {"right": np.array(right), "embedding": np.array([1.0, right])}
        meter.update(answer, {"key": "k"})
    found = meter.compute()
    assert found["own_accuracy"] == pytest.approx(2 / 3) and found["own_chance"] == 0.5
    assert found["own_videos"] == 3.0 and found["embedding_directions"] == pytest.approx(1.0)
    assert "projection_spread" not in found


HEALTHY = {
    "own_accuracy": 0.93, "own_videos": 200.0,
    "embedding_spread": 0.6, "embedding_directions": 41.3, "embedding_room": 128.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "learnt: own task 0.93, chance 0.50; embedding uses 41 of 128 directions"),
        (
            {"own_accuracy": 0.55},  # within the luck of 200 videos
            "not learnt: own task 0.55, chance 0.50; embedding uses 41 of 128 directions;"
            " train longer, or on more videos",
        ),
        (
            {"embedding_spread": 0.003},
            "collapsed: all videos have nearly the same embedding (spread 0.003); own task 0.93,"
            " chance 0.50; raise the margin",
        ),
        (
            {"projection_spread": 0.01, "projection_directions": 2.0, "projection_room": 8.0},
            "collapsed: all videos have nearly the same projection (spread 0.010); own task 0.93,"
            " chance 0.50; raise the margin",
        ),
    ],
)
def test_one_line_says_what_figures_mean(changes: Mapping[str, float], line: str) -> None:
    figures = {**HEALTHY, **changes}
    assert told(figures, "own_accuracy", chance=0.5, todo="raise the margin") == line


def test_an_error_is_better_below_its_chance() -> None:
    good, bad = (
        told({"error_ratio": value}, "error_ratio", chance=1.0, higher_is_better=False)
        for value in (0.6, 1.02)
    )
    assert good == "learnt: error_ratio 0.60, chance 1.00"
    assert str(bad).startswith("not learnt")
    assert told({"accuracy": 1.0}, "own_accuracy", chance=0.5) is None


def figures_of(case: Case, model: nn.Module) -> dict[str, float]:
    """What a test of the contract's records measures."""
    meter, takes = case.plugin.meter(), case.takes("test")
    assert meter is not None
    for place in range(RECORDS):
        own = takes[np.flatnonzero(takes.record[:, 0] == place)]
        outputs, _ = case.predict(model.eval(), case.batch(own, "test"))
        arrays = [{n: out[at].numpy() for n, out in outputs.items()} for at in range(len(own))]
        meter.update(case.plugin.answer(arrays, own), case.catalog.row(place))
    return meter.compute()


def test_a_collapsed_network_is_told_from_one_that_is_not() -> None:
    torch.set_num_threads(1)
    plugin = TemporalCoherence(width=0.125, size=32, resize=36, loss="slow", test_clips=2)
    case = Case(plugin)
    model = case.model()
    alive = plugin.verdict(figures_of(case, model))
    assert alive is not None and "collapsed" not in alive
    with torch.no_grad():  # as after pairs were only ever drawn together
        model.projection.weight.mul_(1e-4)  # type: ignore[union-attr, operator]
        model.projection.bias.fill_(0.1)  # type: ignore[union-attr, operator]
    dead = plugin.verdict(figures_of(case, model))
    assert dead is not None and dead.startswith("collapsed: all videos have nearly the same proj")
    assert "raise the margin or lower the learning rate" in dead
