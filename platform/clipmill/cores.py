"""How many cores this process may use: its affinity, within the CPU quota of its container.

A machine's own count is no help there: a container of two cores on a host of 96 sees 96. Knows
nothing of what they are used for.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def usable() -> int:
    """How many this process may use, at least one; a part of a core counts as one."""
    may = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        may = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(may, quota())))


def quota(root: Path = Path("/")) -> float:
    """How many cores the control groups of this process allow it; infinite without a limit."""
    try:
        told = (root / "proc/self/cgroup").read_text()
    except OSError:
        return math.inf
    found = [limit for folder in _folders(root, told) if (limit := _limit(folder)) is not None]
    return min(found, default=math.inf)


def _folders(root: Path, told: str) -> Iterator[Path]:
    """Where limits may lie: of its group and of those around it.

    A container may be told its group by the host's name and see it as the topmost, so that the
    folders between do not exist.
    """
    for line in told.splitlines():
        controllers, colon, group = line.partition(":")[2].partition(":")
        if not colon or (controllers and "cpu" not in controllers.split(",")):
            continue
        inner = PurePosixPath(group.lstrip("/"))
        for name in {controllers, "cpu"} if controllers else {""}:  # together, or a name for it
            place = root / "sys/fs/cgroup" / name
            yield from (place / each for each in (inner, *inner.parents))


def _limit(folder: Path) -> float | None:
    """The quota of one group, by version 2 or version 1 of the interface."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        used, period = (folder / "cpu.max").read_text().split()
        return None if used == "max" else int(used) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        used = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(used) / int(period) if int(used) > 0 else None
    return None
