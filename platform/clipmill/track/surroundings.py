"""What a run was made in: code and its state, packages, machine, command line.

Plain data; what cannot be found out is left out and never fails a run. Knows no MLflow.
"""

import functools
import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import distributions
from typing import Any

import psutil

GIT_SECONDS = 5.0  # a working folder on a slow disk must not hold up a run
MOST_CHANGES = 50  # files with changes that are named


def surroundings() -> dict[str, Any]:
    """Everything about here and now that may explain a result."""
    return {
        "time": time.time(),
        "git": git(),
        "python": platform.python_version(),
        "packages": packages(),
        "machine": machine(),
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "user": _user(),
    }


def git(folder: str | None = None) -> dict[str, Any]:
    """Commit, branch and changes of a working folder; empty where there is none."""
    try:
        commit = _git("rev-parse", "HEAD", folder=folder)
        changes = _git("status", "--porcelain", folder=folder).splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    told = {"commit": commit, "dirty": bool(changes), "changes": changes[:MOST_CHANGES]}
    try:
        return {**told, "branch": _git("symbolic-ref", "--short", "HEAD", folder=folder)}
    except (OSError, subprocess.SubprocessError):  # a commit was checked out, and no branch
        return told


def _git(*words: str, folder: str | None) -> str:
    told = subprocess.run(
        ["git", *words], capture_output=True, check=True, text=True, errors="replace", cwd=folder,
        timeout=GIT_SECONDS, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
    )  # fmt: skip
    return told.stdout.rstrip()


@functools.cache  # half a second, and a process of many runs keeps what it began with
def packages() -> dict[str, str]:
    """All installed packages by name, with their versions."""
    found = {each.name.lower(): each.version for each in distributions() if each.name}
    return dict(sorted(found.items()))


def machine() -> dict[str, Any]:
    """The machine that the run was started on."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpus": psutil.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    torch = sys.modules.get("torch")  # a run has it; nothing is loaded only to be told
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        return None
