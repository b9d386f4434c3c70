"""What is told where no bar can be drawn: each line once, with the time left, and no blanks."""

import pytest

from clipmill.cli import screen


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("clipmill.cli.screen.time.monotonic", lambda: self.now)


def test_lines_of_progress_tell_the_time_left_and_never_the_same_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, drawn = Clock(monkeypatch), screen.Screen()
    for passes, done in ((0, 40), (5, 42), (15, 60), (20, 60), (20, 80), (1, 100), (30, 100)):
        clock.now += passes
        drawn.progress("training", done, 100, {"loss": 0.5})
    assert capsys.readouterr().err.splitlines() == [
        "training: 40/100  loss 0.5",  # a run that goes on: the pace is that from here
        "training: 60/100  left 0:00:40  loss 0.5",
        "training: 80/100  left 0:00:30  loss 0.5",
        "training: 100/100  loss 0.5",
    ]


def test_tables_in_files_have_no_blanks_at_the_ends_of_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen.pairs({"name": "first", "metrics": {"loss": 0.25, "accuracy": 1.0}, "note": None})
    assert capsys.readouterr().out.splitlines() == [
        "name     first",
        "metrics  loss 0.25  accuracy 1",
        "note",
    ]
