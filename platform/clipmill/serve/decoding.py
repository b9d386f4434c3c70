"""So many killable processes that decode what strangers send, each with limits, kept warm.

A hostile video costs its own request, and at the most one process, which comes again. Knows
neither networks nor requests.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from clipmill import viewing
from clipmill.errors import ClipmillError, TooLongError, VideoError
from clipmill.jail import Jail, JailError
from clipmill.serve.allowed import Allowed
from clipmill.viewing import Asked, Looks

TARGET = "clipmill.viewing:decode"
MOST_CALLS = 1000  # of one process: what it has leaked, or what took it over, ends with it
LEFT_SECONDS = 1.0  # that work nobody waits for may go on, before its process is killed
CLOSING_SECONDS = 0.1  # from one try to end a process to the next

log = logging.getLogger("clipmill.serve")


class Readable(Protocol):
    """An uploaded file."""

    def read(self) -> bytes:
        """All of it."""


class Decoders:
    """Decodes as many videos at once as there are processes; the next waits its turn.

    It waits, too, while more of what was decoded is held than may be.
    """

    def __init__(self, allowed: Allowed, died: Callable[[], None] = lambda: None) -> None:
        self._allowed, self._died = allowed, died
        cells = range(allowed.decoders)
        self._jails = [Jail(TARGET, allowed.cell, what="the decoder") for _ in cells]
        self._free = list(self._jails)
        self._calls = dict.fromkeys(self._jails, 0)
        self._slots = asyncio.Semaphore(allowed.decoders)
        self._threads = ThreadPoolExecutor(allowed.decoders, thread_name_prefix="clipmill-decode")
        self.busy = self.held_bytes = 0
        self._changed = asyncio.Event()
        self._warm: dict[str, Any] = {}
        self._is_closed = False

    def warm(self, looks: Looks) -> None:
        """Start every process, and have it load what this model needs."""
        self._warm = viewing.request(looks, self._allowed.bounds, "warm")
        list(self._threads.map(lambda jail: jail.call(self._warm), self._jails))

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._is_closed = True
        closing = threading.Thread(target=self._threads.shutdown)
        closing.start()
        while closing.is_alive():
            for jail in self._jails:
                jail.interrupt()
            closing.join(CLOSING_SECONDS)  # an interrupt of a call that has not begun is none
        for jail in self._jails:
            jail.close()

    @asynccontextmanager
    async def decoded(
        self, looks: Looks, kind: str, files: Sequence[Readable]
    ) -> AsyncGenerator[Asked]:
        """Wait for a process, and have it decode what the model wants to see; that is held meanwhile.

        Cancelled, it gives the process back as soon as that is done, or killed.
        """
        asked, size = await self._decode(looks, kind, files)
        self._hold(size)
        try:
            yield asked
        finally:
            self._hold(-size)

    def _hold(self, more: int) -> None:
        self.held_bytes += more
        if self.held_bytes <= self._allowed.ahead_bytes:
            self._changed.set()

    async def _turn(self) -> None:
        await self._slots.acquire()
        try:
            while self.held_bytes > self._allowed.ahead_bytes:
                self._changed.clear()
                await self._changed.wait()
        except asyncio.CancelledError:
            self._slots.release()
            raise

    async def _decode(
        self, looks: Looks, kind: str, files: Sequence[Readable]
    ) -> tuple[Asked, int]:
        await self._turn()
        loop, jail = asyncio.get_running_loop(), self._free.pop()
        self.busy += 1
        future = loop.run_in_executor(self._threads, self._decoded, jail, looks, kind, files)
        answer = asyncio.shield(future)  # hears first, so that the next knows what is held
        future.add_done_callback(lambda done: self._give_back(jail, done))
        try:
            return await answer
        except asyncio.CancelledError:
            loop.call_later(LEFT_SECONDS, self._interrupt, jail, future)
            raise

    def _give_back(self, jail: Jail, done: "asyncio.Future[tuple[Asked, int]]") -> None:
        failed = None if done.cancelled() else done.exception()  # whoever waits sees it, too
        if failed is None or not isinstance(failed.__cause__, JailError) or self._is_closed:
            self._freed(jail)
            return
        # The next request shall not pay for a new process; this one has its answer by now.
        loop = asyncio.get_running_loop()
        revived = loop.run_in_executor(self._threads, self._revive, jail)
        revived.add_done_callback(lambda _: self._freed(jail))

    def _freed(self, jail: Jail) -> None:
        self.busy -= 1
        self._free.append(jail)
        self._slots.release()

    def _revive(self, jail: Jail) -> None:
        with suppress(ClipmillError):
            jail.call(self._warm)

    def _interrupt(self, jail: Jail, future: "asyncio.Future[tuple[Asked, int]]") -> None:
        if not future.done():
            jail.interrupt()  # in vain, if its call has not begun
            asyncio.get_running_loop().call_later(LEFT_SECONDS, self._interrupt, jail, future)

    def _decoded(
        self, jail: Jail, looks: Looks, kind: str, files: Sequence[Readable]
    ) -> tuple[Asked, int]:
        """What is asked about, and the bytes that it keeps."""
        bounds = self._allowed.bounds
        self._calls[jail] += 1
        if self._calls[jail] % MOST_CALLS == 0:
            jail.close()
        try:
            request = viewing.request(looks, bounds, kind)
            self._warm = {**request, "kind": "warm"}
            plain, blobs = jail.call(request, [file.read() for file in files])
            return self._believed(jail, looks, plain, blobs), sum(map(len, blobs))
        except JailError as error:
            self._died()
            log.info("%s", error)
            raise told(error) from error

    def _believed(
        self, jail: Jail, looks: Looks, plain: dict[str, Any], blobs: list[bytes]
    ) -> Asked:
        try:
            return viewing.received(looks, self._allowed.bounds, plain, blobs)
        except VideoError as error:
            jail.close()  # a process that lies is no decoder any more
            raise JailError(str(error)) from error


def told(error: JailError) -> VideoError:
    """What the end of a process says about the video that it decoded."""
    what, *_ = [str(arg) for arg in error.args]
    if error.cause == "time":
        return TooLongError(what, "a video that decodes sooner", "cut it, or make it smaller")
    if error.cause == "memory":
        return TooLongError(what, "smaller pictures", "scale it down")
    return VideoError(
        "the decoder came to no good end", "a whole video file", "check that it plays"
    )
