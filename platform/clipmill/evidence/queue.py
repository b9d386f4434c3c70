"""Runs trials that have not been, one after another: of an evidence, or of a transfer.

Knows neither how a trial is run nor what it is of.
"""

import logging
from collections.abc import Callable, Sequence
from statistics import fmean
from textwrap import shorten
from typing import Protocol, TypeVar

from clipmill.errors import ClipmillError
from clipmill.evidence.trial import Progress, Row

FAILS = (ClipmillError, RuntimeError)  # the last is what torch raises, as for memory
ERROR_LETTERS = 500  # at most: torch may name every weight there is

log = logging.getLogger("clipmill")


class Waiting(Protocol):
    """What is run, unless there is a result of it."""

    @property
    def name(self) -> str:
        """Of its run."""

    def result(self) -> Row | None:
        """What came out of it."""


Each = TypeVar("Each", bound=Waiting)


def run_all(
    waiting: Sequence[Each], run: Callable[[Each], Row], progress: Progress | None
) -> list[Row]:
    """Run trials; one that fails is told, and costs no other."""
    failed, took = list[Row](), list[float]()
    for done, trial in enumerate(waiting):
        if trial.result():  # another began with it
            continue
        left = {"minutes_left": fmean(took) * (len(waiting) - done) / 60} if took else {}
        if progress:
            progress("trials", done, len(waiting), left)
        try:
            took.append(run(trial)["seconds"])
        except FAILS as error:
            whole = str(error) if isinstance(error, ClipmillError) else repr(error)
            told = shorten(whole, ERROR_LETTERS)
            log.warning("%s failed: %s", trial.name, told)
            failed.append({"name": trial.name, "error": told})
    if progress and waiting:
        progress("trials", len(waiting), len(waiting), {})
    return failed
