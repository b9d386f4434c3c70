"""A test plan over the workers of a Ray cluster: each answers whole videos, each video once.

A worker gets the model as safetensors and plain data, the plan as what it is made from, and its
pieces; a lost one is started again and goes on where its answers ended.
"""

import functools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from clipmill import cluster, infer
from clipmill.errors import ClipmillError, RunError
from clipmill.evaluate.pieces import shares
from clipmill.evaluate.work import Answered, answered
from clipmill.infer import Model, Packed
from clipmill.plan import Plan

RESTARTS = 2  # of a worker that is lost


def spread(
    model: Model, plan: Plan, pieces: Sequence[range], workers: int, address: str | None = None
) -> Generator[Answered]:
    """Answer pieces on so many workers, at most one a piece; in the order they are done."""
    with cluster.session(address):
        import ray

        own = shares(pieces, workers)
        sent = ray.put(infer.packed(model)), ray.put(replace(plan))  # without what it has cached
        task = _task(len(own))
        streams = [task.remote(*sent, share) for share in own]
        try:
            yield from _as_they_come(streams)
        finally:
            for stream in streams:
                ray.cancel(stream)


def _as_they_come(streams: list[Any]) -> Iterator[Answered]:
    import ray

    waiting = list(streams)
    while waiting:
        stream: Any = ray.wait(waiting, num_returns=1)[0][0]
        try:
            yield _result(next(stream))
        except StopIteration:
            waiting.remove(stream)


def _result(reference: Any) -> Answered:
    import ray
    from ray import exceptions as faults

    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except faults.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, ClipmillError) else error) from error
    except faults.RayError as error:
        raise RunError(
            f"a worker of the evaluation is lost for good: {error}", "a living cluster"
        ) from error


@functools.cache
def _remote() -> Any:
    import ray

    return ray.remote(_work)


def _task(workers: int) -> Any:
    # The CPUs are for decoding, which is done in tasks of its own.
    return _remote().options(
        num_cpus=0, num_gpus=cluster.gpu_share(workers), max_retries=RESTARTS, num_returns="streaming",
        scheduling_strategy="SPREAD",
    )  # fmt: skip


def _work(packed: Packed, plan: Plan, pieces: list[range]) -> Iterator[Answered]:
    """Within a worker: answer its pieces."""
    model = infer.unpacked(packed).to(infer.device())
    yield from answered(model, plan, pieces, "ray")
