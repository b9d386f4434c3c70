"""The thread behind a feed: asks for blocks, restores order, joins batches, checks them.

A few batches are ready at any time; the step that takes them never waits for Python.
"""

import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator

import numpy as np

from clipmill.errors import DataError
from clipmill.feed.block import Block, Request
from clipmill.feed.figures import Figures
from clipmill.feed.hands import Hands
from clipmill.feed.mend import Mender
from clipmill.feed.pieces import in_order, joined, to_sizes
from clipmill.feed.share import Share, in_blocks, lot_of, positions
from clipmill.feed.window import window_of
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.recipe import Feed as Settings

READY_BATCHES = 2


class Producer:
    """Makes a share's batches in a thread of its own."""

    def __init__(
        self, plan: Plan, share: Share, settings: Settings, hands: Hands, figures: Figures
    ) -> None:
        self.plan, self.share, self.settings = plan, share, settings
        self.hands, self.figures = hands, figures
        most_bad = settings.max_bad_share * plan.takes_in_catalog  # of all ranks
        self._data_digest = plan.catalog.digest if settings.cache_mb else ""
        self.mender = Mender(plan, hands, figures, most_bad)
        self.ready: queue.Queue[Sample | BaseException | None] = queue.Queue(READY_BATCHES)
        self.over = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True, name="clipmill-feed")
        self._thread.start()

    def next(self) -> Sample | BaseException | None:
        """The next batch, what went wrong, or None after the last."""
        return None if self.over.is_set() else self.ready.get()

    def close(self) -> None:
        """Stop, wait until the thread has ended, and let go whoever waits for a batch."""
        self.over.set()
        self.hands.stop()
        self._thread.join()
        with contextlib.suppress(queue.Full):
            self.ready.put_nowait(None)

    def _produce(self) -> None:
        try:
            for batch in self._batches():
                self._put(batch)
                if self.over.is_set():
                    break
            self._put(None)
        except BaseException as error:  # the consumer raises it
            self._put(error)
        finally:
            self.hands.close()

    def _put(self, item: Sample | BaseException | None) -> None:
        while not self.over.is_set():
            try:
                return self.ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _batches(self) -> Iterator[Sample]:
        parts, sizes, asked = itertools.tee(positions(self.plan, self.share), 3)
        requests = (self._request(block) for block in in_blocks(asked))
        window = window_of(self.plan, self.settings.ahead_mb, self.hands.cpus)
        made = in_order(requests, self.hands, window.blocks)
        blocks = self.mender.mended(self._counted(made))
        for part, pieces in zip(parts, to_sizes(blocks, map(len, sizes)), strict=True):
            batch = joined(self.plan.plugin, pieces)
            if batch:
                check(self.plan, part, batch, self.mender.used)
                yield batch
            for place in part:
                self.mender.used.pop(place, None)

    def _request(self, block: list[range]) -> Request:
        places = tuple(place for part in block for place in part)
        return Request(self.plan.plugin, lot_of(self.plan, block), places, self._data_digest)

    def _counted(self, made: Iterator[tuple[Request, Block]]) -> Iterator[tuple[Request, Block]]:
        for request, block in made:
            self.figures.made += 0 if block.cached else len(request)
            self.figures.cached += len(request) if block.cached else 0
            self.figures.cpu_seconds += block.cpu_seconds
            self.figures.worker_seconds += block.seconds
            yield request, block


def check(plan: Plan, wanted: range, batch: Sample, used: dict[int, bytes]) -> None:
    """Refuse a batch whose takes are not those of the plan, or those used in their stead."""
    due = dict(zip(wanted, plan.digests(plan.at(wanted.start, wanted.stop)), strict=True))
    due.update({place: used[place] for place in wanted if place in used})
    came = batch["position"].tolist()
    digests = [bytes(row) for row in np.ascontiguousarray(batch["digest"])]
    all_there = came == list(wanted) or (plan.stage != "train" and came == sorted(came))
    if not all_there or digests != [due.get(place) for place in came]:
        raise DataError(
            f"the feed gave the takes {came}",
            f"those of the plan at {wanted.start} to {wanted.stop - 1}",
            "the dataset changed while it was read: run `clipmill verify` on it",
        )
