"""Trials side by side on one Ray, each in a process of its own; told in the order they end.

A trial has its own chance and threads there, so that it is what it would be alone. A signal stops
all of them as it would stop one. Knows neither rungs nor how trials are compared.
"""

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clipmill import cluster
from clipmill import plan as plans
from clipmill.catalog import Catalog
from clipmill.errors import ClipmillError, RunError
from clipmill.folder import Tail
from clipmill.launch import Stopped, room, stop
from clipmill.launch.mirror import Progress
from clipmill.recipe import Recipe
from clipmill.sweep.trial import Outcome, Turn, taken

LOOK_SECONDS = 0.2
STOP_SECONDS = 120.0  # for a run that is told to stop: a step and a commit

Began = Callable[[Turn], None]


def check_room(given: Recipe, catalog: Catalog, count: int) -> None:
    """Refuse more trials at once than there is room for: they would wait for one another."""
    workers, cpus, gpus = given.train.workers, cluster.cpus(), cluster.gpus()
    asked = f"{count} trials side by side" + (f" of {workers} workers each" if workers else "")
    needed = count * max(1, workers)
    if needed > cpus:
        raise RunError(f"{asked} on {cpus} CPUs", "a CPU for each", "lower --parallel")
    if gpus and workers and needed > gpus:
        raise RunError(f"{asked} on {gpus:g} GPUs", "a GPU for each", "lower --parallel")
    if workers:
        store, plan = cluster.object_store_bytes(), plans.make(given, "train", catalog)
        window = count * room.needed_bytes(given, plan, cpus // count)
        if window > store:
            raise RunError(
                f"{asked}, and the object store of Ray holds {store >> 20} MB",
                f"{-(-window >> 20)} MB for clips decoded ahead",
                "lower --parallel or feed.ahead_mb",
            )


def outcomes(
    turns: Sequence[Turn], count: int, folder: str, began: Began, progress: Progress | None
) -> Iterator[tuple[Turn, Outcome]]:
    """Take turns, so many at once; what they come to in the order they end.

    A signal leaves its word in `folder`, and is passed on to the runs that go on.
    """
    waiting, going = deque(turns), dict[Any, Turn]()
    watch = _Watch(progress)
    stop.forget(folder)
    with stop.on_signals(folder) as came, _ended(going):
        while going or (waiting and not came):
            while waiting and len(going) < count and not came:
                turn = waiting.popleft()
                began(turn)
                going[_begun(turn, count)] = turn
            for reference in _done(going, LOOK_SECONDS):
                outcome, ended = _result(reference), going.pop(reference)
                stop.forget(ended.home.path)  # it may have been asked when it was over already
                if outcome is not None:
                    yield ended, outcome
            watch.tell(going.values())
            if came:
                _ask_to_stop(going)
    stop.forget(folder)
    if came:
        raise Stopped("stopped; the same command goes on with the sweep", came[0])


@contextlib.contextmanager
def _ended(going: dict[Any, Turn]) -> Iterator[None]:
    """Nothing is left running by an error: runs keep what they have, but for a second signal."""
    import ray

    try:
        yield
    except Stopped:
        for reference in going:
            ray.cancel(reference, force=True)
        raise
    except BaseException:
        _ask_to_stop(going)
        if going:
            ray.wait(list(going), num_returns=len(going), timeout=STOP_SECONDS)
        raise


def _ask_to_stop(going: dict[Any, Turn]) -> None:
    for turn in going.values():
        with contextlib.suppress(FileNotFoundError):  # it has not even made its folder
            stop.ask(turn.home.path)


class _Watch:
    """Tells the progress of runs in other processes, from their files."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.tails = progress, dict[str, Tail]()

    def tell(self, going: Any) -> None:
        for turn in going if self.progress else ():
            tail = self.tails.setdefault(turn.name, Tail(turn.home.metrics))
            rows, _ = tail.read()
            if rows and self.progress:
                self.progress(turn.name, rows[-1]["step"], turn.given.train.steps, rows[-1])


# --- on Ray


def _begun(turn: Turn, count: int) -> Any:
    workers = turn.given.train.workers
    # With workers of its own a trial only watches over them: the CPUs are for decoding.
    has = {"num_cpus": 0} if workers else {"num_cpus": 1, "num_gpus": cluster.gpu_share(count)}
    options = {**has, "max_retries": 0, "scheduling_strategy": "SPREAD"}
    named = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    return _remote().options(**options).remote(turn, named)


@functools.cache
def _remote() -> Any:
    import ray

    return ray.remote(_work)


def _work(turn: Turn, mlflow: dict[str, str]) -> Outcome | None:
    """Within a process of Ray: take a turn; None if it was told to stop."""
    os.environ.update(mlflow)  # the same store, on whichever node
    try:
        return taken(turn)
    except Stopped:
        return None


def _done(going: dict[Any, Turn], seconds: float) -> list[Any]:
    import ray

    return list(ray.wait(list(going), num_returns=1, timeout=seconds)[0]) if going else []


def _result(reference: Any) -> Outcome | None:
    import ray
    from ray import exceptions as faults

    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except faults.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, ClipmillError) else error) from error
    except faults.RayError as error:  # such as a process that was killed for its memory
        return Outcome(error=f"its process is lost: {str(error).splitlines()[0]}")
