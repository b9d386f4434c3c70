"""One thread that runs networks over decoded videos, those of several requests together.

Nobody waits for company: while a batch computes, the next gathers. A long video takes turns with
the others. Knows neither requests nor decoding.
"""

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from clipmill import infer
from clipmill.infer import Asked, Model, Output
from clipmill.plugin import Sample

Results = list[tuple[int, Output]]


@dataclass(eq=False)
class _Job:
    """A decoded video on its way through a network."""

    model: Model
    batches: deque[Sample]
    done: "Future[Results]" = field(default_factory=Future)
    results: Results = field(default_factory=list)

    def take(self, outputs: Sequence[Output]) -> None:
        """Take in the outputs of its next takes."""
        first = len(self.results)
        self.results += [(first + at, output) for at, output in enumerate(outputs)]
        if not self.batches:
            self.done.set_result(self.results)


@dataclass(frozen=True)
class _Turn:
    """What is computed at once: of each of these jobs one batch."""

    jobs: list[_Job]
    batches: list[Sample]


class Computer:
    """Runs jobs in turns, in a thread of its own that begins with the first."""

    def __init__(self, computed: Callable[[int, int], None] = lambda jobs, takes: None) -> None:
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._computed = computed
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, model: Model, asked: Asked) -> "Future[Results]":
        """Run a decoded video; the future gives the output of each of its takes."""
        job = _Job(model, deque(asked.batches))
        job.done.add_done_callback(functools.partial(self._forget, job.batches))
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the computer is closed")
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="clipmill-compute", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return job.done

    def close(self) -> None:
        """End the thread after the turn under way; jobs that are left are cancelled."""
        with self._changed:
            self._is_closed = True
            for job in self._jobs:
                job.done.cancel()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _forget(self, batches: deque[Sample], done: "Future[Results]") -> None:
        """Let the frames of a job go that was cancelled, but for those of the turn under way."""
        if done.cancelled():
            with self._changed:
                batches.clear()
                self._jobs = deque(job for job in self._jobs if not job.done.cancelled())

    def _run(self) -> None:
        while turn := self._next():
            self._compute(turn)
            with self._changed:
                left = [job for job in turn.jobs if job.batches and not job.done.done()]
                self._jobs.extend(left)
                if self._is_closed:
                    for job in left:
                        job.done.cancel()
            del turn, left  # frames are not kept while waiting for others

    def _next(self) -> _Turn | None:
        with self._changed:
            while True:
                if self._is_closed:
                    return None
                if self._jobs:
                    return self._gathered()
                self._changed.wait()

    def _gathered(self) -> _Turn:
        """The oldest job's next batch, and those of others that fit beside it."""
        first = self._jobs[0]
        most, kind = first.model.recipe.train.batch, _kind(first.batches[0])
        turn, takes = _Turn([], []), 0
        for job in list(self._jobs):
            count = len(job.batches[0]["position"])
            fits = not turn.jobs or takes + count <= most
            if job.model is first.model and fits and _kind(job.batches[0]) == kind:
                takes += count
                turn.jobs.append(job)
                turn.batches.append(job.batches.popleft())
                self._jobs.remove(job)
        return turn

    def _compute(self, turn: _Turn) -> None:
        try:
            outputs = _outputs(turn.jobs[0].model, turn.batches)
        except Exception as error:
            self._alone(turn, error)
            return
        self._computed(len(turn.jobs), sum(map(len, outputs)))
        for job, own in zip(turn.jobs, outputs, strict=True):
            _settled(job, own)

    def _alone(self, turn: _Turn, error: Exception) -> None:
        """One bad video must not take its company with it."""
        if len(turn.jobs) == 1:
            _failed(turn.jobs[0], error)
            return
        for job, batch in zip(turn.jobs, turn.batches, strict=True):
            self._compute(_Turn([job], [batch]))


def _settled(job: _Job, outputs: list[Output]) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile
        job.take(outputs)


def _failed(job: _Job, error: Exception) -> None:
    job.batches.clear()
    with suppress(InvalidStateError):
        job.done.set_exception(error)


def _kind(batch: Sample) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """What batches must have in common to be put together."""
    return tuple(sorted((name, a.dtype.str, a.shape[1:]) for name, a in batch.items()))


def _outputs(model: Model, batches: Sequence[Sample]) -> list[list[Output]]:
    """The outputs of each batch, computed together."""
    counts = [len(batch["position"]) for batch in batches]
    together = {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}
    together["position"] = np.arange(sum(counts))
    found = [output for _, output in infer.outputs(model, [together])]
    if len(found) != sum(counts):
        raise RuntimeError(f"{len(found)} outputs of {sum(counts)} takes")
    edges = np.cumsum([0, *counts]).tolist()
    return [found[a:b] for a, b in itertools.pairwise(edges)]
