"""What a job prints, as it prints it, and that it has ended, through connections that break.

Knows nothing of what it means, but that the last line may be a JSON object.
"""

import asyncio
import contextlib
import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError

from clipmill.errors import RunError
from clipmill.jobs.head import NOT_FOUND, Head

LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0  # for all that was printed, where nothing can be listened to
PATIENCE_SECONDS = 60.0  # for a head that does not answer
KEPT_CHARACTERS = 1 << 26  # of the end, where the result is
FAULTS = (OSError, RuntimeError, ClientError)  # of a connection


class Printed:
    """What was printed so far: told on, counted, and its end kept."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write, self.count = write, 0
        self._kept, self._length = deque[str](), 0

    def add(self, text: str) -> None:
        """Tell more of it."""
        self.write(text)
        self.count += len(text)
        self._kept.append(text)
        self._length += len(text)
        while self._length - len(self._kept[0]) >= KEPT_CHARACTERS:
            self._length -= len(self._kept.popleft())

    def end(self) -> str:
        """The last of it."""
        return "".join(self._kept)[-KEPT_CHARACTERS:]


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
        except FAULTS as error:
            if str(error).startswith(NOT_FOUND):
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
        was_heard = False
        with patience.borne():
            is_over = patience.is_over()
            was_heard = not is_over and _tail(there, job, printed)
            if not was_heard:
                printed.add(there.client.get_job_logs(job)[printed.count :])
            if is_over:
                return printed.end()
        time.sleep(LOOK_SECONDS if was_heard else ASK_SECONDS)


def _tail(there: Head, job: str, printed: Printed) -> bool:
    """Tell what is new until the job ends; false where the connection does, or never came."""
    at = 0  # it begins at the beginning
    with contextlib.suppress(*FAULTS), contextlib.closing(_heard(there, job)) as texts:
        for text in texts:
            fresh = text[max(0, printed.count - at) :]
            at += len(text)
            if fresh:
                printed.add(fresh)
        return True
    return False


def _heard(there: Head, job: str) -> Generator[str, None, None]:
    """What comes through a connection, in a thread of its own: a notebook has a loop running here."""
    logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
    told, loop = queue.SimpleQueue[str | BaseException | None](), asyncio.new_event_loop()

    async def listen() -> None:
        async with contextlib.aclosing(there.client.tail_job_logs(job)) as texts:
            async for text in texts:
                told.put(text)

    task = loop.create_task(listen())
    thread = threading.Thread(target=_ride, args=(loop, task, told), name="clipmill-log")
    thread.start()
    try:
        while (text := told.get()) is not None:
            if isinstance(text, BaseException):
                raise text
            yield text
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _ride(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]", told: Any) -> None:
    try:
        with contextlib.closing(loop):
            loop.run_until_complete(task)
    except BaseException as error:  # raised where it is waited for
        told.put(error)
    else:
        told.put(None)


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
