"""What a feed tells of itself: the verdict follows the figures."""

import pytest

from clipmill.feed.figures import Figures, verdict


def figures(**changed: float) -> Figures:
    told = {
        "cpus": 2, "batches": 100, "clips": 1600, "made": 1600, "wait_seconds": 5.0,
        "step_seconds": 5.0, "cpu_seconds": 12.0, "worker_seconds": 13.0,
    }  # fmt: skip
    return Figures(**{**told, **changed})  # type: ignore[arg-type]


def test_shares_and_rates_leave_the_start_out() -> None:
    told = figures(first_batch_seconds=100.0)
    assert told.wait_share == 0.5
    assert told.clips_per_second == pytest.approx(1584 / 10)
    assert told.cpu_ms_a_clip == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"cpu_seconds": 18.0, "worker_seconds": 20.0}, "decoding limits"),
        ({"cpu_seconds": 4.0, "worker_seconds": 20.0}, "reading limits"),
        ({"cpu_seconds": 11.0, "worker_seconds": 20.0}, "CPUs limit"),
        ({"wait_seconds": 0.05, "step_seconds": 10.0}, "the step limits"),
        ({"wait_seconds": 0.05, "step_seconds": 10.0, "copy_seconds": 5.0}, "copying"),
        ({"batches": 1}, "too few batches"),
    ],
)
def test_the_verdict_names_what_limits(changed: dict[str, float], words: str) -> None:
    assert verdict(figures(**changed)).startswith(words)


def test_a_step_that_limits_tells_what_decoding_could_give() -> None:
    told = verdict(figures(wait_seconds=0.01, step_seconds=20.0, cpu_seconds=16.0))
    assert "decoding could give 200" in told


def test_figures_of_nothing_are_zeros() -> None:
    told = Figures().plain()
    assert (told["wait_share"], told["clips_per_second"], told["cpu_ms_a_clip"]) == (0.0, 0.0, 0.0)
