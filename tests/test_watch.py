"""Looking while something else goes on: from its first moment to its last, and no longer."""

import threading

import pytest

from clipmill.watch import watching


def test_it_looks_until_the_end_and_no_longer() -> None:
    seen, enough = list[str](), threading.Event()

    def look() -> None:
        seen.append("look")
        if len(seen) > 3:
            enough.set()

    with watching(look, every_seconds=0.001, name="test", first=lambda: seen.append("first")):
        names = [thread.name for thread in threading.enumerate()]
        assert enough.wait(10)
    count = len(seen)
    assert seen[0] == "first" and set(seen[1:]) == {"look"} and "clipmill-test" in names
    assert "clipmill-test" not in [thread.name for thread in threading.enumerate()]
    assert len(seen) == count


def test_an_error_beside_it_ends_it_too() -> None:
    with (
        pytest.raises(KeyError),
        watching(lambda: None, every_seconds=60, name="test"),
    ):
        raise KeyError
    assert "clipmill-test" not in [thread.name for thread in threading.enumerate()]
