"""A run on Ray Train workers: lost ones are replaced, and the work goes on from the last commit.

The only place that knows Ray Train. What an error of ours says would be said again by another
try, so it ends the run at once; all else is tried again up to `train.max_failures` times.
"""

import atexit
import os
import shutil
import threading
from typing import Any

import torch
import torch.distributed

from clipmill import storage
from clipmill.errors import ClipmillError, RunError, StorageError
from clipmill.folder import Folder
from clipmill.launch import turn
from clipmill.launch.worker import work
from clipmill.recipe import Recipe

RESIZE_SECONDS = 30.0  # between looks for room for more workers
COLLECTIVE_SECONDS = 120
MOST_STARTS = 10  # tries to place the workers, each of 20 seconds; Ray Train's own is no limit


def fit(given: Recipe, folder: str) -> None:
    """Train to the last step, or until the run is told to stop."""
    scratch = storage.join(folder, ".ray")
    trainer, faults = _trainer(given, folder, scratch), list[BaseException]()

    def ride() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            faults.append(error)

    # In the main thread Ray Train would take Ctrl-C for itself, and keep it.
    thread = threading.Thread(target=ride, name="clipmill-fit", daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if faults:
        raise _told(faults[0], given) from faults[0]


def attempt(settings: dict[str, Any]) -> None:
    """Work as one rank, and mark an error that another try would meet again."""
    from ray.exceptions import RayError

    home, workers = Folder(settings["folder"]), torch.distributed.get_world_size()
    own = turn.begin(home, workers) if torch.distributed.get_rank() == 0 else None
    try:
        work(settings, own)
    except ClipmillError as error:
        passing = isinstance(error, StorageError) or isinstance(error.__cause__, RayError)
        error.__dict__["lasting"] = not passing  # travels with the error
        raise


def _trainer(given: Recipe, folder: str, scratch: str) -> Any:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu, asked = torch.cuda.is_available(), given.train
    least = asked.min_workers or asked.workers
    return TorchTrainer(
        attempt,
        train_loop_config={"recipe": given.plain(), "folder": folder, "transport": "ray"},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # typed as that of Ray Train v1
            num_workers=asked.workers if least == asked.workers else (least, asked.workers),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            use_gpu=gpu,
            # Every CPU is for decoding; a worker that asks for nothing at all is not placed.
            resources_per_worker={"CPU": 0, **({"GPU": 1} if gpu else {"memory": 1})},
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        # Ray Train restores by name by itself; our commits are the truth, so every try is new.
        run_config=RunConfig(  # type: ignore[call-arg]  # typed as that of Ray Train v1
            name=f"{given.run.name}-{os.urandom(4).hex()}",
            storage_path=scratch,
            failure_config=FailureConfig(  # type: ignore[call-arg]  # typed as that of Ray Train v1
                max_failures=asked.max_failures, controller_failure_limit=MOST_STARTS
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
            callbacks=[_ends_at_lasting_errors(), *_ends_at_its_end()],
        ),
    )


def _ends_at_lasting_errors() -> Any:
    """What Ray Train asks about an error: raising there ends the run instead of a new try.

    Made inside, so that its class travels whole and the controller need not load this package.
    """
    from ray.train import UserCallback

    class EndsAtLastingErrors(UserCallback):  # type: ignore[misc, unused-ignore]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Any]) -> None:
            for error in worker_exceptions.values():
                own = getattr(error, "_base_exc", error)
                if getattr(own, "lasting", False):
                    raise own

    return EndsAtLastingErrors()


def _ends_at_its_end() -> list[Any]:
    """Has the controller end without the destructors of Ray's library, when all else is done.

    One of them posts to a loop that another has destroyed, and now and then waits there for good:
    0.8 GB that stay. Python's own exit comes after Ray has shut the worker down, and before these.
    """
    try:
        from ray.train.v2._internal.execution.callback import ControllerCallback
    except ImportError:  # of its own making, it may move: then it ends as it always has
        return []

    class EndsAtItsEnd(ControllerCallback):  # type: ignore[misc, unused-ignore]
        def after_controller_start(self, train_run_context: Any) -> None:
            atexit.register(os._exit, 0)

    return [EndsAtItsEnd()]


def _told(error: BaseException, given: Recipe) -> BaseException:
    """Find our own error among those of Ray, or tell theirs in a line."""
    inner: Any
    for inner in [error, *getattr(error, "worker_failures", {}).values()]:
        while inner is not None:
            if isinstance(inner, ClipmillError):
                return inner
            inner = next(
                (
                    below
                    for name in ("controller_failure", "_base_exc", "cause", "__cause__")
                    if isinstance(below := getattr(inner, name, None), BaseException)
                ),
                None,
            )
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return RunError(
        f"training stopped: {last}", todo=f"see the run {given.run.name}, then resume it"
    )
