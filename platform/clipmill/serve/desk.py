"""The way of a request: let in or sent away, decoded, through the network, told.

The event loop only moves bytes: videos are decoded in processes, networks run in a thread. Knows
no routes and no registry.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from clipmill import infer
from clipmill.serve.allowed import Allowed
from clipmill.serve.batching import Computer, Results
from clipmill.serve.decoding import Decoders
from clipmill.serve.metrics import Metrics
from clipmill.serve.problems import Refusal
from clipmill.serve.shelf import Served
from clipmill.serve.upload import Upload, received
from clipmill.viewing import Asked

MOST_RETRY_SECONDS = 60
PACE_ANSWERS = 10  # that its average looks back on
T = TypeVar("T")


class Pace:
    """How fast answers leave while others wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()
        self._answers, self._mean = 0, 0.5  # seconds between two; a guess until the first

    def begin(self) -> None:
        """Count from now: nothing has waited."""
        self._since = self._clock()

    def left(self) -> None:
        """Tell that one was answered."""
        now = self._clock()
        self._answers = min(self._answers + 1, PACE_ANSWERS)
        self._mean += (now - self._since - self._mean) / self._answers
        self._since = now

    def seconds(self, waiting: int) -> float:
        """How long so many that wait will take; not less than the next has taken already."""
        return max(waiting * self._mean, self._clock() - self._since) if waiting else 0.0


class Desk:
    """Lets so many requests in, and answers them."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed, self.metrics = allowed, Metrics()
        self.decoders = Decoders(allowed, died=self.metrics.deaths.inc)
        self.computer = Computer(self._computed)
        self.pace = Pace()
        self.receiving = self.upload_bytes = 0
        self._unanswered: dict[Upload, int] = {}  # how many videos of each
        for name, told in (
            ("receiving", "Requests whose body is not read yet"),
            ("waiting", "Videos that are here whole and not answered yet"),
            ("upload_bytes", "Bytes of all requests that are not answered yet"),
        ):
            self.metrics.gauge(f"clipmill_{name}", told, functools.partial(getattr, self, name))
        self.metrics.gauge("clipmill_decoding", "Busy decoders", lambda: self.decoders.busy)
        self.metrics.gauge(
            "clipmill_decoded_bytes", "Bytes of decoded videos that are not answered yet",
            lambda: self.decoders.held_bytes,
        )  # fmt: skip

    @property
    def waiting(self) -> int:
        """How many videos are here whole and not answered yet; pictures count as the one they are."""
        return sum(self._unanswered.values())

    def close(self) -> None:
        """End decoders and networks."""
        self.decoders.close()
        self.computer.close()

    def _computed(self, jobs: int, takes: int) -> None:
        self.metrics.together.observe(jobs)
        self.metrics.takes.inc(takes)

    @asynccontextmanager
    async def received(self, request: Request, *, batch: bool = False) -> AsyncGenerator[Upload]:
        """Read what a request brings; who comes when all is busy is sent away before that."""
        self._refuse(self.receiving, "requests under way", self.allowed.receiving)
        self._refuse_when_full()
        async with AsyncExitStack() as kept:
            came = kept.enter_context(self._held())
            self.receiving += 1
            try:
                upload = await kept.enter_async_context(
                    received(request, self.allowed, came, batch=batch)
                )
            finally:
                self.receiving -= 1
            videos = len(upload.files) if batch else 1
            self._refuse_when_full(videos)
            if not self.waiting:
                self.pace.begin()
            self._unanswered[upload] = videos
            kept.callback(self._unanswered.pop, upload)
            yield upload

    @contextmanager
    def _held(self) -> Generator[Callable[[int], None]]:
        """Count the bytes of a request as they come, as long as it is here."""
        own = 0

        def came(more: int) -> None:
            nonlocal own
            own += more
            self.upload_bytes += more
            if own < self.upload_bytes:  # what would never fit has its turn when it is alone
                most = self.allowed.upload_bytes
                self._refuse(self.upload_bytes, "bytes of all requests", most + 1)

        try:
            yield came
        finally:
            self.upload_bytes -= own

    def _refuse_when_full(self, videos: int = 1) -> None:
        most = self.allowed.decoders + self.allowed.waiting
        # What would never fit has its turn when nothing else waits.
        self._refuse(self.waiting, "videos that wait", most - min(videos, most) + 1)

    def _refuse(self, count: int, what: str, most: int) -> None:
        if count < most:
            return
        seconds = min(MOST_RETRY_SECONDS, max(1, round(self.pace.seconds(self.waiting))))
        raise Refusal(
            429, f"{count} {what}", f"fewer than {most}", f"come again in {seconds} s",
            {"Retry-After": str(seconds)},
        )  # fmt: skip

    async def answer(
        self, served: Served, upload: Upload, place: int | None = None, *, each_frame: bool = False
    ) -> dict[str, Any]:
        """Answer the video, or the pictures, of a request; or one video of several."""
        files = upload.files if place is None else upload.files[place : place + 1]
        began = time.monotonic()
        try:
            async with self.decoders.decoded(served.looks, upload.kind, files) as asked:
                decoded = time.monotonic()
                self.metrics.decode_seconds.observe(decoded - began)
                results = await asyncio.wrap_future(self.computer.submit(served.model, asked))
                self.metrics.network_seconds.observe(time.monotonic() - decoded)
                asked = replace(asked, batches=())  # it is told without its frames
            return await asyncio.to_thread(told, served, asked, results, each_frame)
        finally:  # the others of its batch wait on
            if upload in self._unanswered:  # unless its request is over
                self._unanswered[upload] -= 1
                self.pace.left()


def told(served: Served, asked: Asked, results: Results, each_frame: bool) -> dict[str, Any]:
    """What a network made of a video, as `clipmill predict` tells it, and who that shows."""
    ((_, answer),) = infer.answers(served.model.plugin, asked.takes, results)
    plain = infer.worded(served.model, asked, answer, each_frame=each_frame)
    if served.match and "embedding" in answer:
        plain["match"] = served.match(np.asarray(answer["embedding"], np.float32))
    return plain


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do something for a client, and leave off when it goes away."""
    doing, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        for task in (doing, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await doing


async def _left(request: Request) -> None:
    """Wait until the client is gone; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
