"""Pages for a terminal: small curves, words for states, and a view that follows."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from clipmill.cli import pages


def test_a_curve_is_drawn_from_its_least_to_its_largest() -> None:
    assert pages.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert pages.spark([3, 3, 3]) == "▁▁▁"
    assert pages.spark([1, math.nan, math.inf, 2]) == "▁█"
    assert pages.spark([]) == pages.spark([math.nan]) == ""
    long = pages.spark([step for step in range(1000)])
    assert len(long) == pages.CURVE_WIDTH and list(long) == sorted(long)


def test_what_was_learned_is_told_apart_from_the_machine() -> None:
    metrics = {"loss": 1, "val_accuracy": 0.5, "val_accuracy/left": 1.0, "feed_bad": 0,
               "learning_rate": 0.1, "takes_per_second": 9}  # fmt: skip
    assert pages.learned(metrics) == {"loss": 1, "val_accuracy": 0.5}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("living", "living"),
        ("stopped", "stopped by the sweep tried"),
        ("waiting", "waits in the sweep tried"),
    ],
)
def test_a_trial_that_rests_is_told_as_such(
    state: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.runs({"runs": [{**told(3, state), "sweep": "tried"}]})
    out, err = capsys.readouterr()
    assert words in out and err == ""


def told(steps: int, state: str) -> dict[str, Any]:
    return {
        "name": "a[b]", "state": state, "steps": steps, "total_steps": 9, "seconds": 61.0,
        "takes_per_second": 12.0, "left_seconds": 5.0, "verdict": "the step limits", "metrics":
        {"loss": 0.25}, "curves": {"loss": {"steps": [1, 2], "values": [0.5, 0.25]}},
    }  # fmt: skip


def test_following_tells_progress_and_gives_what_was_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[tuple[Any, ...]] = []
    states: Iterator[dict[str, Any]] = iter([told(1, "living"), told(9, "finished")])
    last = pages.follow(states, lambda *words: heard.append(words))
    assert last["state"] == "finished" and capsys.readouterr().out == ""
    assert heard == [("training", 1, 9, {"loss": 0.25}), ("training", 9, 9, {"loss": 0.25})]


def test_the_living_view_has_progress_pace_time_left_and_limit() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(pages._living(told(3, "living")))
    text = console.export_text()
    for words in ("a[b]", "step 3 of 9", "12 clips a second", "5.0 s left", "the step limits",
                  "loss", "▁", "█", "0.25"):  # fmt: skip
        assert words in text
