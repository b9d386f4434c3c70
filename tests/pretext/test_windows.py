"""Where windows lie: within their records, where much moves, and alike whatever is planned beside."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipmill.catalog import Catalog
from clipmill.takes import Draw
from clipmill_pretext.windows import slots, starts, unmeasured
from tiny import catalog_of, rows

HALF_SECONDS = 7  # of 96 frames at 30 a second


def measured(*curves: list[float] | None, **changes: Any) -> Catalog:
    made = rows(len(curves))
    return catalog_of(
        [{**r, **changes, "motion_curve": c} for r, c in zip(made, curves, strict=True)]
    )


def where(catalog: Catalog, length: int, shares: list[float]) -> list[list[int]]:
    """First frames of windows of each record, one a share."""
    row = np.repeat(np.arange(len(catalog)), len(shares))
    lengths = np.full(len(catalog), length)
    first = starts(catalog, lengths, row, np.tile(shares, len(catalog)))
    return first.reshape(len(catalog), -1).tolist()


curves = st.one_of(
    st.none(), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=HALF_SECONDS)
)
unit = st.floats(0, 1, exclude_max=True)


@given(st.lists(curves, min_size=1, max_size=5), st.integers(1, 200), st.lists(unit, min_size=1))
def test_windows_lie_in_their_records(
    told: list[list[float] | None], length: int, shares: list[float]
) -> None:
    for first in where(measured(*told), length, shares):
        assert all(0 <= each <= max(0, 96 - length) for each in first)
        assert [first[at] for at in np.argsort(shares, kind="stable")] == sorted(first)


def test_windows_lie_where_something_moves() -> None:
    still, moving = [0.0] * HALF_SECONDS, [0.0, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0]  # frames 60 to 74
    shares = np.linspace(0, 0.999, 50).tolist()
    nowhere, burst = where(measured(still, moving), 30, shares)
    assert nowhere[0] == 0 and nowhere[-1] == 66, "of what never moves any place is as good"
    assert all(first < 75 and first + 30 > 60 for first in burst)
    unknown, _ = where(measured(None, moving), 30, shares)
    assert unknown == nowhere


def test_the_chance_of_a_place_grows_with_what_moves_there() -> None:
    curve = [0.1] * 4 + [0.3] * 3
    (first,) = where(measured(curve), 1, Draw(0).uniform("any", 20_000).tolist())
    share = np.mean(np.array(first) >= 60)
    assert abs(share - 0.9 / 1.3) < 0.02


def test_records_that_come_several_times_have_their_own_motion() -> None:
    moving = [[0.0] * at + [1.0] + [0.0] * (6 - at) for at in (1, 3, 5)]
    whole, picked = measured(*moving), measured(*moving).picked(np.array([0, 2, 2]))
    first, last, again = where(picked, 1, [0.5])
    assert [first, last] == [where(whole, 1, [0.5])[at] for at in (0, 2)] and last == again
    assert 15 <= first[0] < 30 and 75 <= last[0] < 90


def test_of_how_many_motion_is_unknown() -> None:
    assert unmeasured(measured([0.5], [0.0])) == []
    (told,) = unmeasured(measured([0.5], None))
    assert told.startswith("of 1 of 2 videos motion was never measured") and "--motion" in told


def test_a_test_asks_each_kind_in_turn_and_training_by_chance() -> None:
    made_of = catalog_of(rows(300))
    asked = slots(made_of, "test", Draw(0), clips=4, crops=3)
    assert len(asked) == 300 * 4 * 3
    assert asked.turn[:12].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert asked.crop[:6].tolist() == [1, 2, 3, 1, 2, 3]
    assert asked.kinds("any", 3)[:12:3].tolist() == [0, 1, 2, 0]
    shares = asked.shares("any").reshape(300, 4, 3)
    assert (shares == shares[:, :, :1]).all() and asked.number.shape == (300,)
    assert (np.sort(shares[:, :, 0]) == [0.125, 0.375, 0.625, 0.875]).all()
    # Whatever has its turn is asked all over the videos, and one share tells nothing of another.
    other = asked.shares("other").reshape(300, 4, 3)
    assert np.abs(shares[:, :, 0].mean(0) - 0.5).max() < 0.08
    assert abs(np.corrcoef(shares[:, :, 0].ravel(), other[:, :, 0].ravel())[0, 1]) < 0.1
    taught = slots(made_of, "train", Draw(0), clips=4, crops=3)
    assert len(taught) == 300 and not taught.crop.any()
    counts = np.bincount(taught.kinds("any", 3))
    assert counts.min() > 70 and len(np.unique(taught.shares("any"))) == 300
