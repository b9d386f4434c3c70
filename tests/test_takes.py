"""Takes: chance by counter, spans inside their records, crops by seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipmill.takes import Draw, View, crop_box, even_spans, frame_numbers, random_spans

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


@given(st.integers(8, 300), st.integers(8, 300), st.integers(8, 128), st.integers(0, 2**63))
def test_crops_lie_in_the_frame(height: int, width: int, size: int, seed: int) -> None:
    for random in (True, False):
        top, left, tall, wide = crop_box(height, width, size, seed, random)
        assert 0 <= top <= height - tall and 0 <= left <= width - wide
        assert (tall, wide) == (min(size, height), min(size, width))


def test_a_take_is_told_apart_by_all_it_is() -> None:
    frames, fps = np.array([300, 300]), np.array([30.0, 30.0])
    takes = random_spans(frames, fps, View(), Draw(0))
    digests = {takes.digest(0, ["a"]), takes.digest(1, ["a"]), takes.digest(0, ["b"])}
    assert len(digests) == 3
    assert takes.digest(0, ["a"]) == takes[np.array([0])].digest(0, ["a"])
