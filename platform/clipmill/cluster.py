"""A Ray to work on: the one that is named, or a quiet local one that ends with the work.

Knows nothing of what runs on it.
"""

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from clipmill.errors import ClipmillError, UsageError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    # Nobody reads them, and they cost a tenth of a core beside the decoders.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
}
KNOCK_SECONDS = 10.0


@contextlib.contextmanager
def session(address: str | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Use the Ray that is there, the one at the address, or a local one of our own."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        start(_chosen(address), dashboard=dashboard)
        _hear_again(before)
        yield
    finally:
        ray.shutdown()
        _hear_again(before)


def starts_one(address: str | None = None) -> bool:
    """Tell whether a session would start a local Ray: none is up, and none is named."""
    return not _is_up() and not is_named(address)


def is_named(address: str | None = None) -> bool:
    """Tell whether a cluster is named, at the address or by the environment."""
    return _chosen(address) != "local"


def check(workers: int | None, address: str | None) -> None:
    """Refuse a cluster that nobody would work on, or where nothing listens; None is as many as fit."""
    if workers == 0 and address:
        raise UsageError(
            f"0 workers, and the cluster at {address}", "workers there, or none and no cluster"
        )
    if workers != 0 and not _is_up():
        _knock(_chosen(address))


def _knock(address: str) -> None:
    """Ray tries for minutes, heeding no signal, where this takes no second."""
    named = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if named is None:  # it is looked for, or started
        return
    try:
        socket.create_connection((named[1], int(named[2])), KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClipmillError(
            f"nothing listens at {address}: {error}",
            "HOST:PORT of a cluster's head, as `ray start --head` tells it",
            "check --address or RAY_ADDRESS, and that the head is up",
        ) from None


def _is_up() -> bool:
    ray = sys.modules.get("ray")  # one that is not even loaded is not up
    return ray is not None and bool(ray.is_initialized())


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _hear_again(before: Any) -> None:
    """Put back who hears SIGTERM: Ray takes it for itself."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def start(address: str, *, dashboard: bool = False) -> None:
    """Connect to a cluster, or start a local one with a token of its own; both without chatter."""
    import ray

    _knock(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address == "local" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one home
    # Ray Train asks the dashboard for the state of its actors, and complains without it.
    options: dict[str, Any] = {"include_dashboard": dashboard} if address == "local" else {}
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=bool(os.environ.get("CLIPMILL_DEBUG")),
            **options,
        )
    except ray.exceptions.AuthenticationError as error:
        raise _stranger(address, error) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClipmillError(
            f"no Ray at {address} lets us in: {error}",
            "a cluster, and the token that its nodes were started with",
            "set RAY_AUTH_TOKEN_PATH to a file with it; check --address or RAY_ADDRESS",
        ) from error
    except Exception as error:  # a bare one tells that no node was up in half a minute
        raise ClipmillError(
            f"no Ray has started at {address}: {error}",
            "a machine with a core to spare",
            "give the same command again when less runs beside it",
        ) from error


def _stranger(address: str, error: Exception) -> ClipmillError:
    first = str(error).strip().splitlines()[0].rstrip(".")
    return ClipmillError(
        f"the Ray at {address} lets nobody in without its token: {first}",
        "the token that its nodes were started with",
        "set RAY_AUTH_TOKEN_PATH to a file with it, or RAY_AUTH_MODE=disabled where it has none",
    )


def cpus() -> int:
    """CPUs of the whole cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def gpus() -> float:
    """GPUs of the whole cluster."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def gpu_share(tasks: int) -> float:
    """The GPUs of one of so many tasks at once: one, or a part of one where there are fewer."""
    return min(1.0, int(100 * gpus() / tasks) / 100)


def object_store_bytes() -> int:
    """Shared memory of the whole cluster."""
    import ray

    return int(ray.cluster_resources().get("object_store_memory", 0))  # type: ignore[no-untyped-call]


def quiet_data() -> None:
    """Hush Ray Data in this process; its progress bars and hints are not ours."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
