"""Bytes and seconds as a person says them."""

import pytest

from clipmill import amounts


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (5.25, "5.2 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.0, "59 min 59 s"),
        (7384.0, "2 h 03 min"),
    ],
)
def test_durations_read_well(seconds: float | None, words: str) -> None:
    assert amounts.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (2.5e13, "25 TB")],
)
def test_sizes_read_well(count: float, words: str) -> None:
    assert amounts.size(count) == words
