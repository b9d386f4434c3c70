"""How things are measured and followed: against figures by hand, and an oracle of our own."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipmill.errors import DataError
from clipmill.video import VOID
from clipmill_segment.following import Follower, assigned
from clipmill_segment.things import marked, mask_of, runs_of
from clipmill_segment.things_meter import ThingsMeter

SIDE = 24
OVERLAPS = np.arange(0.5, 1.0, 0.05)


def square(left: int, top: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def told(at: int, kind: int, score: float, left: int, top: int, side: int, own: int = 0) -> Any:
    """A thing that was found."""
    box = np.array([left, top, left + side, top + side]) / SIDE
    mask = runs_of(square(left, top, side))
    return {"at": at, "class": kind, "score": score, "id": own, "box": box.tolist(), "mask": mask}


def true(at: int, kind: int, number: int, left: int, top: int, side: int) -> Any:
    """A thing that is there."""
    mask = runs_of(square(left, top, side))
    return {"at": at, "class": kind, "number": number, "mask": mask}


def measured(things: list[Any], truth: list[Any], frames: int = 1) -> dict[str, float]:
    meter = ThingsMeter()
    meter.update({"frames": list(range(frames)), "things": things, "truth": truth}, {})
    return meter.compute()


def test_precision_by_hand() -> None:
    there = [true(0, 1, 1, 0, 0, 8), true(0, 1, 2, 12, 12, 8)]
    both = [told(0, 1, 0.9, 0, 0, 8), told(0, 1, 0.8, 12, 12, 8)]
    assert measured(both, there)["mask_ap"] == pytest.approx(1.0)
    assert measured(both[:1], there)["mask_ap"] == pytest.approx(51 / 101)  # recalls to one half
    assert measured([], there)["mask_ap"] == 0
    nearly = [told(0, 1, 0.9, 1, 0, 8), both[1]]  # 56 of 72 pixels: seven tenths and a bit
    figures = measured(nearly, there)
    assert figures["mask_ap50"] == figures["mask_ap75"] == pytest.approx(1.0)
    assert 0.5 < figures["mask_ap"] < 1
    wrong = [told(0, 2, 0.9, 0, 0, 8), both[1]]  # another class
    assert measured(wrong, there)["mask_ap"] == pytest.approx(51 / 101)


def test_what_lies_in_void_counts_for_nothing() -> None:
    there = [true(0, 1, 1, 0, 0, 8)]
    void = {"at": 0, "class": VOID, "number": 0, "mask": runs_of(square(12, 12, 10))}
    things = [told(0, 1, 0.9, 13, 13, 8), told(0, 1, 0.8, 0, 0, 8)]
    for metric in ("mask_ap", "box_ap"):
        assert measured(things, [*there, void])[metric] == pytest.approx(1.0)
        assert measured(things, there)[metric] == pytest.approx(0.5)  # found behind a wrong one
    less = {**void, "mask": runs_of(square(13, 13, 5))}  # 25 of the 64 pixels of the wrong one
    assert measured(things, [*there, less])["box_ap"] == pytest.approx(0.5)
    with pytest.raises(DataError, match="no thing is marked"):
        measured(things, [void])


def test_void_is_marked_once_whatever_numbers_it_has() -> None:
    classes, things = np.array([[VOID, VOID, 1], [VOID, 0, 1]]), np.array([[4, 5, 1], [0, 0, 2]])
    told = {
        (each["class"], each["number"]): mask_of(each["mask"]) for each in marked(classes, things)
    }
    assert sorted(told) == [(1, 1), (1, 2), (VOID, 0)] and len(marked(classes, things)) == 3
    np.testing.assert_array_equal(told[VOID, 0], classes == VOID)
    np.testing.assert_array_equal(told[1, 2], things == 2)


def precision_at(things: list[Any], truth: list[Any], kind: int, least: float) -> float:
    """The average precision of a class at one overlap, written from its definition."""
    there = [each for each in truth if each["class"] == kind]
    ranked = sorted((t for t in things if t["class"] == kind), key=lambda t: -t["score"])
    taken: set[int] = set()
    right = []
    for thing in ranked:
        best, found = least - 1e-9, None
        for place, other in enumerate(there):
            one, two = mask_of(thing["mask"]), mask_of(other["mask"])
            overlap = (one & two).sum() / (one | two).sum()
            if other["at"] == thing["at"] and place not in taken and overlap >= best:
                best, found = overlap, place
        taken |= set() if found is None else {found}
        right.append(found is not None)
    hits = np.cumsum(right)
    recall, precision = hits / len(there), hits / np.arange(1, len(right) + 1)
    steps = np.linspace(0, 1, 101)
    return float(np.mean([precision[recall >= step - 1e-12].max(initial=0) for step in steps]))


def test_precision_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    truth, things = [], []
    for at in range(6):
        for number in range(5):
            kind, left, top = 1 + number % 2, *rng.integers(0, 14, 2).tolist()
            truth.append(true(at, kind, number + 1, left, top, 8))
            near = (np.array([left, top]) + rng.integers(-2, 3, 2)).clip(0).tolist()
            score = round(float(rng.random()), 6)
            things.append(told(at, kind if rng.random() < 0.8 else 3 - kind, score, *near, 8))
    wanted = [precision_at(things, truth, kind, least) for kind in (1, 2) for least in OVERLAPS]
    figures = measured(things, truth, 6)
    assert figures["mask_ap"] == pytest.approx(np.mean(wanted), abs=1e-6)
    assert 0.05 < figures["mask_ap"] < 0.9


def test_numbers_are_kept_or_not() -> None:
    there = [true(at, 1, own, 10 * own, at, 8) for at in range(3) for own in (0, 1)]
    numbers = {(0, 0): 1, (0, 1): 2, (1, 0): 1, (1, 1): 3, (2, 0): 1, (2, 1): 3}
    things = [told(at, 1, 0.9, 10 * own, at, 8, mine) for (at, own), mine in numbers.items()]
    figures = measured(things, there, 3)
    assert figures["numbers_kept"] == 3 / 4 and figures["numbers_kept_of"] == 4
    unsure = [{**thing, "id": 0} for thing in things]
    figures = measured(unsure, there, 3)
    assert "numbers_kept" not in figures and figures["numbers_kept_of"] == 0


def test_parts_are_the_whole() -> None:
    there, things = [true(0, 1, 1, 0, 0, 8)], [told(0, 1, 0.9, 1, 0, 8, 1)]
    answers = [{"frames": [0], "things": things[: place % 2], "truth": there} for place in range(3)]
    whole, one, two = ThingsMeter(), ThingsMeter(), ThingsMeter()
    for place, answer in enumerate(answers):
        whole.update(answer, {})
        (one if place < 1 else two).update(answer, {})
    one.merge(two)
    assert one.compute() == whole.compute()


# --- following


def box(middle_x: float, middle_y: float, side: float = 0.2) -> list[float]:
    half = side / 2
    return [middle_x - half, middle_y - half, middle_x + half, middle_y + half]


def followed(frames: list[list[tuple[list[float], float]]], patience: int = 3) -> list[list[int]]:
    """The numbers of things, each a box and one colour."""
    follower = Follower(patience, itertools.count(1))
    return [
        follower.step(
            np.array([each for each, _ in frame]).reshape(-1, 4),
            np.array([[colour] * 6 for _, colour in frame]).reshape(-1, 6),
        )
        for frame in frames
    ]


def test_things_that_pass_each_other_keep_their_numbers() -> None:
    steps = np.linspace(0.2, 0.8, 9)
    frames = [[(box(x, 0.5), 1.0), (box(1 - x, 0.5), -1.0)] for x in steps.tolist()]
    frames[4::2] = [frame[::-1] for frame in frames[4::2]]  # told in another order
    numbers = followed(frames)
    assert [sorted(each) for each in numbers] == [[1, 2]] * 9
    assert [each[::-1] if at >= 4 and at % 2 == 0 else each for at, each in enumerate(numbers)] == [
        [1, 2]
    ] * 9


def test_what_was_hidden_comes_back_as_itself_by_its_looks() -> None:
    there, gone = [(box(0.3, 0.3), 1.0)], []
    back = [(box(0.7, 0.6), 1.05)]
    assert followed([there, gone, gone, back]) == [[1], [], [], [1]]
    assert followed([there, *[gone] * 4, back]) == [[1], [], [], [], [], [2]]  # for too long
    other = [(box(0.7, 0.6), -1.0)]
    assert followed([there, gone, other]) == [[1], [], [2]]


def test_pairs_have_the_largest_sum() -> None:
    value = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert assigned(value, 0.2) == [(0, 1), (1, 0)]
    assert assigned(value, 0.84) == [(0, 0)]
    assert assigned(np.zeros((2, 3)), 0.1) == []
