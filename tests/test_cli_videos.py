"""Answers in the terminal: what, how surely, when and where, for each kind of answer."""

from typing import Any

import pytest

from clipmill import infer
from clipmill.cli import videos
from clipmill_segment.mask_rcnn import MaskRCNN
from serving import FIELDS, made, walk

MODELS: dict[str, dict[str, Any]] = {
    "things": {"plugin": "mask_rcnn", **MaskRCNN.small, "sure": 0.2, "test_clips": 2},
    "masks": {"plugin": "unet", "size": 32, "resize": 40},
    "classes": FIELDS["still"],
    "several": {**FIELDS["still"], "labels": "several", "threshold": 0.01},
    "embedding": {"plugin": "siamese", "width": 0.125, "size": 32, "resize": 36, "embedding": 8},
}


def answered(kind: str) -> dict[str, Any]:
    return {"video": "walk.mp4", **infer.answer(made(kind, MODELS[kind]), walk())}


def printed(answer: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line behind the name of the video."""
    videos.show(answer)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "walk.mp4"
    return [line.split() for line in lines]


def test_things_are_told_with_time_number_score_and_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = answered("things")
    columns, *rows, note = printed(answer, capsys)
    assert columns == ["seconds", "number", "class", "score", "left", "top", "right", "bottom"]
    assert len(rows) == len(answer["things"]) > 0
    for row, thing in zip(rows, answer["things"], strict=True):
        told = [f"{thing['frame_seconds']:.2f}", str(thing["id"]), thing["label"]]
        assert row[:4] == [*told, f"{thing['score']:.4f}"]
        left, top, right, bottom = thing["box"]  # of 48 x 48 in the middle of 64 x 48
        wanted = [8 + 48 * left, 48 * top, 8 + 48 * right, 48 * bottom]
        assert [float(side) for side in row[4:]] == pytest.approx(wanted, abs=1.5)
    assert note[:5] == [str(len(rows)), "sightings", "in", "2", "frames,"]


def test_what_is_below_the_threshold_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    answer = answered("things")
    columns, note = printed({**answer, "threshold": 0.99}, capsys)
    assert columns[0] == "seconds"
    assert f"{len(answer['things'])} below a score of 0.99: --json" in " ".join(note)


@pytest.mark.parametrize("kind", ["masks", "classes", "several"])
def test_classes_are_told_with_their_shares(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answered(kind)
    columns, *rows = printed(answer, capsys)
    told, name, share = (
        (answer["masks"], "label", "share")
        if kind == "masks"
        else (answer["classes"], "name", "probability")
    )
    assert columns == ["class", share]
    assert rows[: len(told)] == [[each[name], f"{each[share]:.4f}"] for each in told]
    if kind == "masks":
        assert rows[-1] == ["of", "the", "picture", "at", f"{answer['frame_seconds']:.2f}", "s"]


def test_of_other_answers_the_numbers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(answered("embedding"), capsys) == [["embedding", "8", "numbers"]]
    heat = {"video": "walk.mp4", "error": 0.25, "heat": [[[0.0] * 3] * 2] * 4, "spans": []}
    assert printed(heat, capsys) == [
        ["error", "0.25"],
        ["heat", "4", "x", "2", "x", "3", "numbers"],
    ]
