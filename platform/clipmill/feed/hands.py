"""Who makes blocks: threads of this process, or tasks on a Ray cluster.

Both take a request and give a ticket; a ticket gives the block. On Ray a block is one ordinary
task of a tenth of a second or more: Ray places it on any node and makes it again where a worker
or a node is lost. Only a window of blocks is ever asked for, so that nothing grows with the run.

Measured beside Ray Data with decoding inside its tasks, see tests/bench/RESULTS.md.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from clipmill import cores
from clipmill.errors import ClipmillError, RunError
from clipmill.feed.block import Block, Request
from clipmill.feed.cache import Cache

LOOK_SECONDS = 0.5  # between looks at whether anybody still waits
CRASH = "the decoder crashed on it"

Ticket = Callable[[], Block]  # waits for the block


class Hands(Protocol):
    """Makers of blocks."""

    cpus: int

    def ask(self, request: Request) -> Ticket:
        """Begin a block."""

    def stop(self) -> None:
        """Wait for no block any more: tickets that are waited for give up."""

    def close(self) -> None:
        """End: blocks that nobody waits for any more are given up."""


class Threads:
    """Threads of this process; decoders let each other run. A decoder that crashes ends it."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.cpus = cores.usable()
        self._pool = ThreadPoolExecutor(self.cpus, thread_name_prefix="clipmill-decode")

    def ask(self, request: Request) -> Ticket:
        """Begin a block."""
        future: Future[Block] = self._pool.submit(self._cache.make, request)
        return future.result

    def stop(self) -> None:
        """Nothing: a block is done in a moment."""

    def close(self) -> None:
        """End, when the blocks under way are done."""
        self._pool.shutdown(cancel_futures=True)


class Workers:
    """Tasks on the cluster; `world` pipelines share its CPUs."""

    def __init__(self, cache: Cache, world: int = 1) -> None:
        from clipmill import cluster

        self._cache, self._over = cache, threading.Event()
        if (cpus := cluster.cpus()) < 1:
            raise RunError(f"a Ray of {cpus} CPUs", "one for decoding at the least")
        self.cpus = max(1, cpus // world)
        self._open: set[Any] = set()

    def ask(self, request: Request) -> Ticket:
        """Begin a block."""
        reference = _remote().remote(self._cache, request)
        self._open.add(reference)
        return functools.partial(self._result, request, reference)

    def _result(self, request: Request, reference: Any) -> Block:
        import ray
        from ray import exceptions as faults

        try:
            while not ray.wait([reference], timeout=LOOK_SECONDS)[0]:
                if self._over.is_set():
                    raise RunError("the feed is closed", "batches before that")
            return ray.get(reference)  # type: ignore[no-any-return]
        except faults.RayTaskError as error:
            raise _own(error) from error
        except faults.OutOfMemoryError as error:
            if len(request) == 1:
                raise RunError(
                    f"decoding one clip ran out of memory: {error}", "free memory on the node",
                    "lower feed.ahead_mb or train.workers",
                ) from error  # fmt: skip
            return self._one_by_one(request, error)
        except faults.WorkerCrashedError as error:
            return self._one_by_one(request, error)
        except faults.RayError as error:
            raise RunError(
                f"the takes {request.positions[0]} and on are lost: {error}", "a living cluster"
            ) from error
        finally:
            self._open.discard(reference)

    def _one_by_one(self, request: Request, error: Exception) -> Block:
        """Make each take of a block apart, so that one that ends its worker harms no other."""
        if len(request) == 1:
            return Block(request.positions, samples=[None], reasons={0: CRASH})
        tickets = [self.ask(request.alone(place)) for place in range(len(request))]
        parts = [ticket() for ticket in tickets]
        reasons = {at: part.reasons[0] for at, part in enumerate(parts) if part.reasons}
        videos = {key for at in range(len(request)) for key in request.keys(at)}
        if len(reasons) == len(request) and len(videos) > 1:
            raise RunError(f"decode workers die: {error}", "workers that live", "see Ray's logs")
        samples = [part.rows()[0] for part in parts]
        return Block(request.positions, samples=samples, reasons=reasons)

    def stop(self) -> None:
        """Let go who waits for a block: the cluster may have no CPU for it for a long time."""
        self._over.set()

    def close(self) -> None:
        """Give up the blocks that nobody waits for any more."""
        import ray

        for reference in self._open:
            with contextlib.suppress(Exception):  # the cluster may be gone
                ray.cancel(reference)
        self._open.clear()


@functools.cache
def _remote() -> Any:
    import ray

    # A CPU each: a decoder keeps one busy. Workers that train hold next to none for themselves.
    return ray.remote(Cache.make).options(num_cpus=1, max_retries=1)


def _own(error: Any) -> BaseException:
    """Our own error among those that Ray wraps."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, ClipmillError) else error
