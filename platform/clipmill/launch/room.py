"""Is there room for a run: CPUs and shared memory that remain for decoding, or it stands still.

Looks at this machine and at the cluster; reserves nothing.
"""

import os
import shutil

import torch

from clipmill import cluster
from clipmill.errors import RunError
from clipmill.feed.window import window_of
from clipmill.plan import Plan
from clipmill.recipe import Recipe

SHARED_MEMORY = "/dev/shm"
SPARE = 1.25  # blocks that are being made and those that are being read lie there at once


def check_machine(given: Recipe, plan: Plan) -> None:
    """Refuse, before a local Ray starts, what this machine's shared memory cannot hold."""
    if not os.path.isdir(SHARED_MEMORY):
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    needed = needed_bytes(given, plan, os.cpu_count() or 1)
    if needed > free:
        raise RunError(
            f"{free >> 20} MB of shared memory are free in {SHARED_MEMORY}",
            f"{_megabytes(needed)} for clips decoded ahead of {given.train.workers} workers",
            "lower feed.ahead_mb, or give the container more with --shm-size",
        )


def check_cluster(given: Recipe, plan: Plan) -> None:
    """Refuse what the cluster's CPUs and its object store cannot hold."""
    # Decoding gets all CPUs: a task holds one, a training worker none. It stands still by
    # itself when enough is ready, so a network on the CPU gets what it needs.
    cpus = cluster.cpus()
    if cpus < 1 or (given.train.workers > cpus and not torch.cuda.is_available()):
        raise RunError(
            f"{given.train.workers} workers on {cpus} CPUs",
            "a CPU for each, which it shares with decoding",
            "lower train.workers",
        )
    store, needed = cluster.object_store_bytes(), needed_bytes(given, plan, cpus)
    if needed > store:
        raise RunError(
            f"the object store of Ray holds {store >> 20} MB",
            f"{_megabytes(needed)} for clips decoded ahead of {given.train.workers} workers",
            "lower feed.ahead_mb, or start Ray with a larger --object-store-memory",
        )


def needed_bytes(given: Recipe, plan: Plan, cpus: int) -> int:
    """How much lies decoded in shared memory at most: the windows of all workers."""
    workers = given.train.workers
    window = window_of(plan, given.feed.ahead_mb, max(1, cpus // workers))
    return int(workers * window.bytes * SPARE)


def _megabytes(count: int) -> str:
    return f"{-(-count >> 20)} MB"
