"""The way of a request: let in or sent away, decoded, through the network, told.

The event loop only moves bytes: videos are decoded in processes, networks run in a thread. Knows
no routes and no registry.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
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
T = TypeVar("T")


class Desk:
    """Lets so many requests in, and answers them."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed, self.metrics = allowed, Metrics()
        self.decoders = Decoders(allowed, died=self.metrics.deaths.inc)
        self.computer = Computer(self._computed)
        # What is decoded lies in memory until a slow network has seen it.
        self._decoded = asyncio.Semaphore(allowed.decoders + allowed.ahead)
        self.receiving = 0
        self._unanswered: dict[Upload, int] = {}  # how many videos of each
        for name, told in (
            ("receiving", "Requests whose body is not read yet"),
            ("waiting", "Videos that are here whole and not answered yet"),
        ):
            self.metrics.gauge(f"clipmill_{name}", told, functools.partial(getattr, self, name))
        self.metrics.gauge("clipmill_decoding", "Busy decoders", lambda: self.decoders.busy)

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
            self.receiving += 1
            try:
                upload = await kept.enter_async_context(
                    received(request, self.allowed, batch=batch)
                )
            finally:
                self.receiving -= 1
            videos = len(upload.files) if batch else 1
            self._refuse_when_full(videos)
            self._unanswered[upload] = videos
            kept.callback(self._unanswered.pop, upload)
            yield upload

    def _refuse_when_full(self, videos: int = 1) -> None:
        most = self.allowed.decoders + self.allowed.waiting
        # What would never fit has its turn when nothing else waits.
        self._refuse(self.waiting, "videos that wait", most - min(videos, most) + 1)

    def _refuse(self, count: int, what: str, most: int) -> None:
        if count < most:
            return
        ahead = self.waiting * self.decoders.seconds / self.allowed.decoders
        seconds = min(MOST_RETRY_SECONDS, max(1, round(ahead)))
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
            async with self._decoded:
                asked = await self.decoders.decode(served.looks, upload.kind, files)
                decoded = time.monotonic()
                self.metrics.decode_seconds.observe(decoded - began)
                results = await asyncio.wrap_future(self.computer.submit(served.model, asked))
                self.metrics.network_seconds.observe(time.monotonic() - decoded)
            return await asyncio.to_thread(told, served, asked, results, each_frame)
        finally:  # the others of its batch wait on
            if upload in self._unanswered:  # unless its request is over
                self._unanswered[upload] -= 1


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
