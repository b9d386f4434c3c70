"""Takes: chance by counter, spans inside their records, crops by seed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.takes import (
    Draw,
    Pairs,
    View,
    beside,
    crop_box,
    even_spans,
    frame_numbers,
    joined,
    pairs,
    random_spans,
    snapped,
    triplets,
)

records = st.lists(st.tuples(st.integers(1, 500), st.sampled_from([10.0, 25.0, 29.97, 30.0, 60.0])),
                   min_size=1, max_size=40)  # fmt: skip
views = st.builds(View, frames=st.integers(1, 32), rate=st.sampled_from([1.0, 5.0, 12.5, 30.0]))


@given(records, views, st.integers(0, 9))
def test_random_spans_lie_in_their_records(
    rows: list[tuple[int, float]], view: View, epoch: int
) -> None:
    frames, fps = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    takes = random_spans(frames, fps, view, Draw(1, epoch))
    length = view.span_frames(fps)
    assert (takes.first[:, 0] >= 0).all()
    assert (takes.last[:, 0] - takes.first[:, 0] + 1 == length).all()
    fits = length <= frames
    assert (takes.last[fits, 0] < frames[fits]).all()
    assert (takes.first[~fits, 0] == 0).all()


@given(records, views, st.integers(1, 6))
def test_even_spans_reach_from_start_to_end(
    rows: list[tuple[int, float]], view: View, clips: int
) -> None:
    frames, fps = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    takes = even_spans(frames, fps, view, clips)
    assert len(takes) == len(rows) * clips
    assert (np.bincount(takes.record[:, 0]) == clips).all()
    if clips > 1:
        ends = takes.last[clips - 1 :: clips, 0]
        assert (ends == np.maximum(frames, view.span_frames(fps)) - 1).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.5, 0.4)},
        {"crop_area": (0.5, 1.1)},
        {"crop_aspect": (-1.0, 1.0)},
        {"crop_aspect": (2.0, 1.0)},
        {"crop_aspect": (1.0, float("inf"))},
        {"crop_aspect": (float("nan"), 1.0)},
    ],
)
def test_crops_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="two rising numbers above 0"):
        View(**fields)


def test_chance_does_not_depend_on_how_much_is_drawn() -> None:
    draw = Draw(7, 3)
    whole = draw.bits("x", np.arange(1000))
    assert (draw.bits("x", np.arange(500, 600)) == whole[500:600]).all()


def test_seed_epoch_and_name_give_other_chance() -> None:
    first = Draw(7, 3).uniform("x", 100)
    others = [
        Draw(8, 3).uniform("x", 100),
        Draw(7, 4).uniform("x", 100),
        Draw(7, 3).uniform("y", 100),
    ]
    assert all(not np.isclose(first, other).any() for other in others)


def test_chance_is_even() -> None:
    counts = np.bincount(Draw(0).below("d", np.full(80_000, 8)), minlength=8)
    assert (abs(counts - 10_000) < 5 * np.sqrt(10_000)).all()


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 20), st.integers(1, 60))
def test_frame_numbers_stay_in_the_record(
    first: int, length: int, count: int, available: int
) -> None:
    numbers = frame_numbers(first, first + length - 1, count, available)
    assert len(numbers) == count
    assert (np.diff(numbers) >= 0).all()
    assert numbers.max() < available


def test_a_stride_is_kept_exactly() -> None:
    assert frame_numbers(7, 7 + 15 * 6, 16, 200).tolist() == list(range(7, 98, 6))


@given(
    st.integers(8, 300),
    st.integers(8, 300),
    st.integers(8, 128),
    st.integers(0, 2**63),
    st.integers(0, 3),
)
def test_crops_lie_in_the_frame(height: int, width: int, size: int, seed: int, crop: int) -> None:
    for random in (True, False):
        top, left, tall, wide = crop_box(height, width, size, seed, random, crop)
        assert 0 <= top <= height - tall and 0 <= left <= width - wide
        assert (tall, wide) == (min(size, height), min(size, width))


def test_a_take_is_told_apart_by_all_it_is() -> None:
    frames, fps = np.array([300, 300]), np.array([30.0, 30.0])
    takes = random_spans(frames, fps, View(), Draw(0))
    digests = {takes.digest(0, ["a"]), takes.digest(1, ["a"]), takes.digest(0, ["b"])}
    assert len(digests) == 3
    assert takes.digest(0, ["a"]) == takes[np.array([0])].digest(0, ["a"])


def test_three_crops_are_start_middle_and_end_of_the_longer_side() -> None:
    wide = [crop_box(100, 180, 100, 7, True, crop) for crop in (1, 2, 3)]
    assert wide == [(0, 0, 100, 100), (0, 40, 100, 100), (0, 80, 100, 100)]
    tall = [crop_box(180, 110, 100, 7, False, crop)[:2] for crop in (1, 2, 3)]
    assert tall == [(0, 5), (40, 5), (80, 5)]


def test_test_views_are_clips_times_crops() -> None:
    frames, fps = np.array([300, 90]), np.array([30.0, 30.0])
    one, three = (even_spans(frames, fps, View(frames=4), 2, crops=crops) for crops in (1, 3))
    assert one.crop.tolist() == [0] * 4
    assert three.crop.tolist() == [1, 2, 3] * 4
    for name in ("record", "first", "last"):
        assert (getattr(three, name) == getattr(one, name).repeat(3, axis=0)).all()
    keys = [["a"]] * 6 + [["b"]] * 6
    assert len(set(three.digests(keys))) == 12, "places of the crop make other takes"
    assert three[2:5].crop.tolist() == [3, 1, 2]


@given(records, views, st.integers(1, 8))
def test_snapped_spans_begin_on_the_ladder(
    rows: list[tuple[int, float]], view: View, step: int
) -> None:
    frames, fps = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    takes = random_spans(frames, fps, view, Draw(3))
    moved = snapped(takes, np.full(takes.record.shape, step))
    back = takes.first - moved.first
    assert (moved.first % step == 0).all() and (moved.first >= 0).all()
    assert (back >= 0).all() and (back < step).all()
    assert (takes.last - moved.last == back).all()


def test_spans_are_put_beside_and_behind() -> None:
    frames, fps = np.array([300, 200]), np.array([30.0, 30.0])
    one = random_spans(frames, fps, View(), Draw(1), "near")
    two = random_spans(frames, fps, View(), Draw(1).apart("second"), "far")
    assert (one.first != two.first).all()
    both = beside([one, two, one])
    assert both.views == ("near", "far") and both.view.tolist() == [[0, 1, 0]] * 2
    assert both.first.tolist() == np.stack([one.first, two.first, one.first], 1)[..., 0].tolist()
    twice = joined([both, both[1:]])
    assert twice.record.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert twice.digest(2, ["a", "b", "a"]) == both.digest(1, ["a", "b", "a"])


# --- partners

groups = st.lists(st.integers(-1, 4), min_size=1, max_size=40)


def brute(labels: list[int], ids: list[int]) -> tuple[list[set[int]], list[set[int]]]:
    """For each row those that may be its positive, and those that may be its negative."""
    rows, there = range(len(labels)), [label >= 0 for label in labels]
    same = [
        {j for j in rows if there[i] and labels[i] == labels[j] and ids[i] != ids[j]} for i in rows
    ]
    other = [{j for j in rows if there[i] and there[j] and labels[i] != labels[j]} for i in rows]
    return same, other


@given(groups, st.integers(1, 3), st.integers(0, 5))
def test_pairs_are_of_one_group_or_of_two_and_never_of_one_record(
    labels: list[int], copies: int, epoch: int
) -> None:
    ids = np.repeat(np.arange(len(labels)), copies)  # each record comes several times
    told = np.repeat(np.array(labels), copies)
    same, other = brute(told.tolist(), ids.tolist())
    for share in (0.0, 0.5, 1.0):
        made = pairs(told, Draw(1, epoch), same=share, records=ids)
        check_pairs(made, same, other)
        alone = [bool(s) for s, o in zip(same, other, strict=True) if s or o]
        if share in (0.0, 1.0):
            wished = [
                bool(s) if share else not o for s, o in zip(same, other, strict=True) if s or o
            ]
            assert made.same.tolist() == wished, alone


def check_pairs(made: Pairs, same: list[set[int]], other: list[set[int]]) -> None:
    there = [row for row in range(len(same)) if same[row] or other[row]]
    assert made.first.tolist() == there
    for first, second, alike in zip(made.first, made.second, made.same, strict=True):
        assert second in (same if alike else other)[first]


@given(groups, st.integers(0, 5), st.data())
def test_triplets_are_valid_and_prefer_stored_negatives(
    labels: list[int], epoch: int, data: st.DataObject
) -> None:
    same, other = brute(labels, list(range(len(labels))))
    rows = st.integers(0, len(labels) - 1)
    stored = [data.draw(st.lists(rows, max_size=3)) for _ in labels]
    start = np.cumsum([0, *map(len, stored)])
    linked = np.array([row for each in stored for row in each], np.int64)
    for links in (None, (start, linked)):
        made = triplets(np.array(labels), Draw(2, epoch), negatives=links)
        assert made.anchor.tolist() == [r for r in range(len(labels)) if same[r] and other[r]]
        for anchor, near, far in zip(made.anchor, made.positive, made.negative, strict=True):
            hard = {row for row in stored[anchor] if row in other[anchor]} if links else set()
            assert near in same[anchor] and far in (hard or other[anchor])


def test_every_partner_has_the_same_chance() -> None:
    fours = np.arange(12_000) // 4
    second = pairs(fours, Draw(0), same=1.0).second[1::4]
    counts = np.bincount(second % 4, minlength=4)
    assert counts[1] == 0 and (abs(counts[[0, 2, 3]] - 1000) < 5 * np.sqrt(1000)).all()
    halves = np.arange(16_000) % 2
    second = pairs(halves, Draw(0), same=0.0).second[::2]
    counts = np.bincount(second // 2000, minlength=8)
    assert (second % 2 == 1).all() and (abs(counts - 1000) < 5 * np.sqrt(1000)).all()
