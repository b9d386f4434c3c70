"""Parts answered by actors on a Ray cluster: a model each, two parts at once, so that none waits.

What an actor leaves of a part whose answers are large is handed out again. A lost actor is
replaced, and its parts are begun again. Knows neither files nor what a row is.
"""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clipmill import cluster, infer
from clipmill.bulk.asking import Asked, asked_of
from clipmill.bulk.parts import filled
from clipmill.errors import ClipmillError, RunError
from clipmill.evaluate import work
from clipmill.evaluate.work import Answered, Question
from clipmill.infer import Model, Packed
from clipmill.plan import Plan

AT_ONCE = 2  # parts of an actor: while one ends, clips of the next are decoded
MOST_LOSSES = 2  # of actors, for each part they had


class Worker:
    """Holds a model, and answers parts of its plan."""

    def __init__(
        self, packed: Packed, plan: Plan, asked: Asked, feeds: int, most_bytes: int
    ) -> None:
        self.model = infer.unpacked(packed).to(infer.device())
        # Before its threads do so one after another: with others, sums differ in their last bits.
        torch.set_num_threads(self.model.recipe.train.threads)
        self.plan, self.feeds, self.most_bytes = plan, feeds, most_bytes
        self.question = one_at_a_time(self.model, asked_of(self.model, asked))

    def answer(self, pieces: Sequence[range]) -> list[Answered]:
        """Answer one part, or its first pieces if their answers are large."""
        stream = work.answered(
            self.model, self.plan, pieces, "ray", question=self.question, feeds=self.feeds
        )
        with contextlib.closing(stream):
            return next(filled(stream, self.most_bytes))


def one_at_a_time(model: Model, asked: Question | None) -> Question:
    """The question, put to a network by one thread after another.

    Some networks keep what goes through their layers on the way: of two batches at once, one would
    get what is of the other.
    """
    lock = threading.Lock()
    module: Any = model.module

    def ask(batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        with lock:
            told: Mapping[str, torch.Tensor]
            told = asked.ask(batch) if asked else module.predict(batch)[0]
            return told

    return Question(ask, asked.join if asked else model.plugin.answer)


def answered(
    model: Model,
    plan: Plan,
    asked: Asked,
    parts: Sequence[Sequence[range]],
    workers: int,
    most_bytes: int,
) -> Generator[list[Answered]]:
    """Answer parts, in the order in which they are done; of large answers one after another."""
    import ray

    workers = min(workers, len(parts))
    kept = ray.put(infer.packed(model)), ray.put(replace(plan))
    made = _Pool((*kept, asked, AT_ONCE * workers, most_bytes), workers, deque(parts))
    try:
        yield from made.results()
    finally:
        for actor in made.actors:
            ray.kill(actor)


@dataclass
class _Pool:
    given: tuple[Any, ...]
    workers: int
    todo: deque[Sequence[range]]
    actors: list[Any] = field(default_factory=list)
    going: dict[Any, tuple[Any, Sequence[range]]] = field(default_factory=dict)  # by reference
    lost: Counter[int] = field(default_factory=Counter)  # by where a part begins

    def results(self) -> Generator[list[Answered]]:
        import ray
        from ray import exceptions as faults

        for _ in range(self.workers):
            self._hire()
        self._hand_out()
        while self.going:
            reference: Any = ray.wait(list(self.going), num_returns=1)[0][0]
            actor, part = self.going.pop(reference)
            try:
                told = ray.get(reference)
            except faults.RayTaskError as error:
                cause = getattr(error, "cause", None)
                raise (cause if isinstance(cause, ClipmillError) else error) from error
            except (faults.RayActorError, faults.ObjectLostError) as error:
                self._replace(actor, part, error)
            else:
                if left := part[len(told) :]:
                    self.todo.appendleft(left)
                yield told
            self._hand_out()

    def _hire(self) -> None:
        import ray

        made = ray.remote(Worker).options(
            # The CPUs are for decoding, which is done in tasks of its own.
            num_cpus=0, num_gpus=cluster.gpu_share(self.workers), max_concurrency=AT_ONCE,
            scheduling_strategy="SPREAD",
        )  # fmt: skip
        self.actors.append(made.remote(*self.given))

    def _hand_out(self) -> None:
        load = Counter(id(actor) for actor, _ in self.going.values())
        for _ in range(AT_ONCE):
            for actor in self.actors:
                if self.todo and load[id(actor)] < AT_ONCE:
                    part = self.todo.popleft()
                    self.going[actor.answer.remote(part)] = actor, part
                    load[id(actor)] += 1

    def _replace(self, actor: Any, part: Sequence[range], error: Exception) -> None:
        self.lost[part[0].start] += 1
        if self.lost[part[0].start] > MOST_LOSSES:
            raise RunError(
                f"workers die with the clips of one part: {error}", "workers that live",
                "see Ray's logs; what is finished is kept, and the same command goes on",
            ) from error  # fmt: skip
        self.todo.appendleft(part)
        if actor in self.actors:
            self.actors.remove(actor)
            self._hire()
