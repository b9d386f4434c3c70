"""Plan to batches: read, decode and sample takes anywhere, hand them over in the plan's order.

Each rank asks for blocks of its slice of the plan, a window ahead over all epochs, and takes them
in order; position and take digest travel with the pixels and are checked against the plan. It
measures itself and says what limited.
"""

import time
from collections.abc import Iterator
from typing import Any, Literal

from clipmill import plan as plans
from clipmill.feed.block import decode, decoded_size, part_seen, sample
from clipmill.feed.cache import Cache
from clipmill.feed.figures import Figures, verdict
from clipmill.feed.footage import Footage, OfFile, OfPictures, Stored
from clipmill.feed.hands import Hands, Threads, Workers
from clipmill.feed.mend import too_many_bad
from clipmill.feed.pieces import collated
from clipmill.feed.producer import Producer
from clipmill.feed.share import Share, positions
from clipmill.plan import Plan
from clipmill.plugin import Sample
from clipmill.recipe import Feed as Settings

__all__ = [
    "Feed",
    "Figures",
    "Footage",
    "OfFile",
    "OfPictures",
    "Settings",
    "Share",
    "Stored",
    "batches",
    "collated",
    "decode",
    "decoded_size",
    "part_seen",
    "positions",
    "sample",
    "too_many_bad",
    "verdict",
]

Transport = Literal["ray", "thread"]


def batches(
    plan: Plan, share: Share, settings: Settings | None = None, transport: Transport = "thread"
) -> "Feed":
    """The share's batches in order, checked against the plan."""
    return Feed(plan, share, settings or Settings(), transport)


class Feed(Iterator[Sample]):
    """A share's batches; `figures` tell how it goes, `ledger` which clips were bad."""

    def __init__(self, plan: Plan, share: Share, settings: Settings, transport: Transport) -> None:
        if plan.stage == "train":
            plans.check_ranks(plan, share.world)
        cache = Cache(settings.cache_mb, settings.cache_folder)
        hands: Hands = Workers(cache, share.world) if transport == "ray" else Threads(cache)
        self.figures = Figures(cpus=hands.cpus)
        self._given = time.perf_counter()
        self._producer = Producer(plan, share, settings, hands, self.figures)

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The clips that could not be decoded so far: position, wanted, used, reason."""
        return self._producer.mender.ledger

    def __next__(self) -> Sample:
        asked = time.perf_counter()
        self.figures.ready_batches += self._producer.ready.qsize()
        item = self._producer.next()
        if item is None or isinstance(item, BaseException):
            self.close()
            raise item or StopIteration
        self._measure(asked, item)
        return item

    def _measure(self, asked: float, batch: Sample) -> None:
        now, figures = time.perf_counter(), self.figures
        if figures.batches == 0:
            figures.first_batch_seconds = now - self._given
        else:
            figures.step_seconds += asked - self._given
            figures.wait_seconds += now - asked
        figures.batches += 1
        figures.clips += len(batch["position"])
        figures.bytes += sum(column.nbytes for column in batch.values())
        self._given = now

    def close(self) -> None:
        """Stop, and leave no thread and no task behind."""
        self._producer.close()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if producer := getattr(self, "_producer", None):
            producer.over.set()  # its thread ends; nobody waits for it here
