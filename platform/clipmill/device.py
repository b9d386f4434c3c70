"""Batches on their way to the device: bytes across, prepared there, one batch ahead.

On CUDA through pinned buffers that are used again, on a stream of their own, from a thread of
their own, so that a step of the network hides all of it; on a CPU the same way without streams
and threads. Knows neither the plan nor what preparing means.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch
from numpy.typing import NDArray

from clipmill import augment
from clipmill.augment import Tensors

Batch = dict[str, NDArray[Any]]
Prepare = Callable[[Tensors, Batch], Tensors]  # tensors on the device, and the batch they are of

SLOTS = 2  # one is filled while the other still travels
JOIN_SECONDS = 10.0  # for a source that is asked for a batch nobody wants any more


@dataclass(frozen=True)
class Ready:
    """A batch that a network can take, beside the arrays that it was made from."""

    tensors: Tensors
    batch: Batch
    done: torch.cuda.Event | None = field(default=None, repr=False)


@dataclass
class Times:
    """What bringing batches to the device has cost so far."""

    batches: int = 0
    bytes: int = 0
    wait_seconds: float = 0.0  # for the source
    copy_seconds: float = 0.0
    prepare_seconds: float = 0.0


def to_device(
    batches: Iterable[Batch],
    device: torch.device | str,
    prepare: Prepare,
    *,
    times: Times | None = None,
) -> Iterator[Ready]:
    """Give each batch prepared on the device, in order; `times` is added to as batches come."""
    device = torch.device(device)
    lane = CudaLane(device) if device.type == "cuda" else Lane(device)
    made = _made(batches, lane, prepare, Times() if times is None else times)
    for ready in one_ahead(made) if lane.is_ahead else made:
        lane.hand_over(ready)
        yield ready


def _made(
    batches: Iterable[Batch], lane: "Lane | CudaLane", prepare: Prepare, times: Times
) -> Iterator[Ready]:
    asked = time.perf_counter()
    for batch in batches:
        times.wait_seconds += time.perf_counter() - asked
        ready = lane.bring(batch, prepare, times)
        times.batches += 1
        yield ready
        asked = time.perf_counter()
    lane.settle(times)


class Lane:
    """The way to a device that this thread itself copies to and computes on."""

    is_ahead = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def bring(self, batch: Batch, prepare: Prepare, times: Times) -> Ready:
        """Copy, where there is something to copy to, and prepare."""
        began = time.perf_counter()
        borrowed = augment.borrowed(batch)
        tensors = {name: tensor.to(self.device) for name, tensor in borrowed.items()}
        copied = time.perf_counter()
        made = prepare(tensors, batch)
        times.bytes += sum(tensor.nbytes for tensor in borrowed.values())
        times.copy_seconds += copied - began
        times.prepare_seconds += time.perf_counter() - copied
        return Ready(made, batch)

    def hand_over(self, ready: Ready) -> None:
        """Nothing is under way when it is given."""

    def settle(self, times: Times) -> None:
        """Nothing is left to be timed."""


@dataclass
class Slot:
    """Pinned memory of one batch, by name; free again once its copy has left."""

    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    left: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait until it may be written to."""
        if self.left is not None:
            self.left.synchronize()

    def filled(self, tensors: Tensors, pin: bool = True) -> Tensors:
        """Put a batch into the memory, which grows to the largest one."""
        return {name: self._put(name, tensor, pin) for name, tensor in tensors.items()}

    def _put(self, name: str, tensor: torch.Tensor, pin: bool) -> torch.Tensor:
        if name not in self.memory or self.memory[name].nbytes < tensor.nbytes:
            self.memory[name] = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=pin)
        room = self.memory[name][: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return room.copy_(tensor)


class CudaLane:
    """The way to a CUDA device: pinned memory, a stream of its own, figures when they are due."""

    is_ahead = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.slots = itertools.cycle([Slot() for _ in range(SLOTS)])
        self.under_way: deque[tuple[torch.cuda.Event, ...]] = deque()

    def bring(self, batch: Batch, prepare: Prepare, times: Times) -> Ready:
        """Fill pinned memory, and put copy and preparation on the stream; wait for neither."""
        slot = next(self.slots)
        borrowed = augment.borrowed(batch)
        slot.wait()
        start, left, done = marks = _event(), _event(), _event()
        # A thread has a device of its own: pinned memory, too, must be made with the right one.
        with torch.cuda.stream(self.stream):
            began = time.perf_counter()
            pinned = slot.filled(borrowed)
            times.copy_seconds += time.perf_counter() - began
            start.record(self.stream)
            tensors = {n: t.to(self.device, non_blocking=True) for n, t in pinned.items()}
            left.record(self.stream)
            made = prepare(tensors, batch)
            done.record(self.stream)
        times.bytes += sum(tensor.nbytes for tensor in borrowed.values())
        slot.left = left
        self.under_way.append(marks)
        self._count(times)
        return Ready(made, batch, done)

    def hand_over(self, ready: Ready) -> None:
        """Let the network's stream wait for the batch, and its memory for that stream."""
        assert ready.done is not None
        theirs = torch.cuda.current_stream(self.device)
        theirs.wait_event(ready.done)
        for tensor in ready.tensors.values():
            tensor.record_stream(theirs)

    def settle(self, times: Times) -> None:
        """Wait for what is under way, so that all of it is counted."""
        self.stream.synchronize()
        self._count(times)

    def _count(self, times: Times) -> None:
        while self.under_way and self.under_way[0][-1].query():  # type: ignore[no-untyped-call]
            start, left, done = self.under_way.popleft()
            times.copy_seconds += start.elapsed_time(left) / 1000
            times.prepare_seconds += left.elapsed_time(done) / 1000


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def one_ahead(items: Iterator[Ready]) -> Iterator[Ready]:
    """Make the next item in a thread while the last one is used, and no more than that one."""
    made: SimpleQueue[Ready | BaseException | None] = SimpleQueue()
    wanted, over = threading.Semaphore(1), threading.Event()

    def make() -> None:
        try:
            while wanted.acquire() and not over.is_set():
                item = next(items, None)
                made.put(item)
                if item is None:
                    return
        except BaseException as error:  # the consumer raises it
            made.put(error)

    thread = threading.Thread(target=make, daemon=True, name="clipmill-device")
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            wanted.release()
            yield item
    finally:
        over.set()
        wanted.release()
        thread.join(JOIN_SECONDS)
