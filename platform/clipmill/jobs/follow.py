"""What a job prints, as it prints it, and that it has ended, through connections that break.

Knows nothing of what it means, but that the last line may be a JSON object.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError

from clipmill.errors import RunError
from clipmill.jobs.head import Head

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for a head that does not answer
KEPT_CHARACTERS = 1 << 26  # of the end, where the result is
NOT_FOUND = "status code 404"


class Printed:
    """What was printed so far: told on, counted, and its end kept."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write, self.count, self.end = write, 0, ""

    def add(self, text: str) -> None:
        """Tell more of it."""
        self.write(text)
        self.count += len(text)
        self.end = (self.end + text)[-KEPT_CHARACTERS:]


@dataclass
class _Patience:
    """Asks whether a job has ended, and bears connections that break, as long as it may."""

    there: Head
    job: str
    silent_since: float | None = None

    def is_over(self) -> bool:
        """Ask the head."""
        ended = bool(self.there.client.get_job_info(self.job).status.is_terminal())
        self.silent_since = None
        return ended

    @contextlib.contextmanager
    def borne(self) -> Iterator[None]:
        """While it lasts, a connection may break."""
        try:
            yield
        except (OSError, RuntimeError, ClientError) as error:
            if isinstance(error, RuntimeError) and NOT_FOUND in str(error):
                raise
            self.silent_since = self.silent_since or time.monotonic()
            if time.monotonic() - self.silent_since > PATIENCE_SECONDS:
                raise RunError(
                    f"{self.there.address} does not answer any more: {error}",
                    "a head that does",
                    f"{self.job} may go on: `clipmill jobs logs {self.job} --follow`",
                ) from error


def wait(there: Head, job: str) -> None:
    """Wait until a job has ended."""
    patience = _Patience(there, job)
    while True:
        with patience.borne():
            if patience.is_over():
                return
        time.sleep(LOOK_SECONDS)


def follow(there: Head, job: str, write: Callable[[str], None]) -> str:
    """Tell all that a job prints until it has ended; give the end of it."""
    printed, patience = Printed(write), _Patience(there, job)
    while True:
        with patience.borne():
            if patience.is_over():
                printed.add(there.client.get_job_logs(job)[printed.count :])
                return printed.end
            asyncio.run(_tail(there, job, printed))
        time.sleep(LOOK_SECONDS)


async def _tail(there: Head, job: str, printed: Printed) -> None:
    """Tell what is new until the job ends or the connection does; a tail begins at the beginning."""
    logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
    at = 0
    async for text in there.client.tail_job_logs(job):
        fresh = text[max(0, printed.count - at) :]
        at += len(text)
        if fresh:
            printed.add(fresh)


def last_object(text: str) -> dict[str, Any] | None:
    """The last line that is a JSON object, where there is one."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return None
