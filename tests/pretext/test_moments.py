"""Moments: near ones, far ones and those of other videos, by laws that hold for any catalog."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipmill.catalog import Catalog
from clipmill.errors import PlanError
from clipmill.takes import Draw
from clipmill_pretext.moments import (
    against,
    against_evenly,
    apart,
    far,
    near,
    of_other_videos,
    videos_of,
)
from tiny import catalog_of, rows

GAP = 20
lengths = st.lists(st.integers(1, 200), min_size=1, max_size=12)


def catalog(frames: list[int], parents: dict[int, str] | None = None) -> Catalog:
    """Records of so many frames; some are parts of a video."""
    made: list[dict[str, Any]] = rows(len(frames))
    for place, count in enumerate(frames):
        made[place] |= {"frames": count, "parent": (parents or {}).get(place)}
    return catalog_of(made)


def test_parts_of_one_video_are_never_of_another() -> None:
    parts = catalog([90] * 6, {0: "a", 1: "a", 2: "b", 3: "b"})
    videos = videos_of(parts)
    assert len(set(videos.tolist())) == 4 and videos[0] == videos[1] and videos[2] == videos[3]
    drawn = np.stack([of_other_videos(parts, Draw(0, epoch)) for epoch in range(40)])
    assert (videos[drawn] != videos).all()
    assert {*drawn[:, 0].tolist()} == {2, 3, 4, 5}
    assert (of_other_videos(catalog([90]), Draw(0)) == -1).all()


def test_a_record_that_comes_twice_is_one_video() -> None:
    twice = catalog([90] * 3).picked(np.array([0, 0, 1]))
    videos = videos_of(twice)
    assert videos[0] == videos[1] != videos[2]
    assert of_other_videos(twice, Draw(0))[:2].tolist() == [2, 2]


@settings(max_examples=40)
@given(lengths, st.integers(1, 8), st.integers(0, 99))
def test_neighbours_are_near_and_never_the_same(counts: list[int], reach: int, seed: int) -> None:
    rooms = np.array(counts) - 1
    first = Draw(seed).below("first", rooms + 1)
    found = near(first, rooms, np.full(len(rooms), reach), Draw(seed))
    away = np.abs(found - first)
    assert (found >= 0).all() and (found <= rooms).all() and (away <= reach).all()
    assert (away[rooms > 0] > 0).all()


@settings(max_examples=40)
@given(lengths, st.integers(0, 99))
def test_far_moments_keep_the_gap_wherever_there_is_room(counts: list[int], seed: int) -> None:
    rooms = np.array(counts) - 1
    first = Draw(seed).below("first", rooms + 1)
    found = far(first, rooms, np.full(len(rooms), GAP), Draw(seed))
    has_room = np.maximum(first, rooms - first) >= GAP
    assert (found >= 0).all() and (found <= rooms).all()
    assert (np.abs(found - first)[has_room] >= GAP).all()
    ends = np.maximum(first, rooms - first)  # else the farther end
    assert (np.abs(found - first)[~has_room] == ends[~has_room]).all()


def test_two_moments_apart_have_the_same_places_in_their_videos() -> None:
    rooms, gap = np.full(20_000, 80), np.full(20_000, GAP)
    one, other = apart(rooms, gap, Draw(3))
    assert (np.abs(one - other) >= GAP).all() and one.min() == other.min() == 0
    assert one.max() == other.max() == 80
    for share in (0.1, 0.5, 0.9):  # neither is told by where it lies
        assert np.quantile(one, share) == pytest.approx(np.quantile(other, share), abs=2)
    assert (one < other).mean() == pytest.approx(0.5, abs=0.02)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 200), min_size=2, max_size=12), st.floats(0, 1), st.integers(0, 99))
def test_against_a_moment_stands_one_far_or_foreign(
    counts: list[int], share: float, seed: int
) -> None:
    made_of = catalog(counts)
    made = against(made_of, Draw(seed), length=1, gap=np.full(len(counts), GAP), far_share=share)
    assert made.record.tolist() == list(range(len(counts)))  # every record, once
    rooms = np.array(counts) - 1
    assert (made.first <= rooms).all() and (made.other_first <= rooms[made.other_record]).all()
    assert (np.abs(made.first - made.other_first)[made.is_far] >= GAP).all()
    if share in (0.0, 1.0):
        assert (made.is_far == ((rooms >= GAP) if share else False)).all()


def test_the_share_of_far_moments_is_as_asked() -> None:
    made_of, gap = catalog([120] * 4000), np.full(4000, GAP)
    for share in (0.0, 0.25, 1.0):
        made = against(made_of, Draw(1), length=1, gap=gap, far_share=share)
        assert made.is_far.mean() == pytest.approx(share, abs=0.03)


def test_a_single_video_stands_against_itself_or_is_refused() -> None:
    alone = against(catalog([120]), Draw(0), length=1, gap=np.array([GAP]), far_share=0.0)
    assert alone.is_far.all() and abs(alone.first[0] - alone.other_first[0]) >= GAP
    with pytest.raises(PlanError, match="one single video of 0.4 s.*0.666667 s apart.*far_seconds"):
        against(catalog([12]), Draw(0), length=1, gap=np.array([GAP]), far_share=0.5)


@settings(max_examples=30)
@given(lengths, st.integers(1, 5), st.integers(0, 99))
def test_a_test_has_every_record_and_both_kinds(counts: list[int], clips: int, seed: int) -> None:
    gap = np.full(len(counts), GAP)
    made = against_evenly(
        catalog(counts), Draw(seed), clips=clips, length=1, gap=gap, far_share=0.5
    )
    rooms = np.array(counts) - 1
    assert (np.bincount(made.record) == clips).all()
    assert (made.first <= rooms[made.record]).all() and (made.first >= 0).all()
    assert (made.other_first <= rooms[made.other_record]).all() and (made.other_first >= 0).all()
    if len(counts) > 1:
        turn = np.tile(np.arange(clips), len(counts))
        assert not made.is_far[turn % 2 == 1].any()
        far_ones = made.is_far
        assert (np.abs(made.first - made.other_first)[far_ones] >= GAP).all()


def test_a_test_asks_what_training_asks() -> None:
    gap = np.full(9, GAP)
    for share, wanted in ((0.0, {False}), (0.1, {True, False}), (1.0, {True})):
        made = against_evenly(
            catalog([120] * 9), Draw(0), clips=3, length=1, gap=gap, far_share=share
        )
        assert set(made.is_far.tolist()) == wanted
