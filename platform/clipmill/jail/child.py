"""The child's side: it obeys the limits, and dies with its parent."""

import ctypes
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from clipmill.errors import ClipmillError
from clipmill.jail.messages import Limits, Plain, receive, send

Target = Callable[[Plain, list[bytes]], tuple[Plain, list[bytes]]]

SHARED_BYTES = 4 << 30  # of addresses above `memory_bytes`, for libraries and stacks
OUT_OF_MEMORY = 77  # exit code; nothing can be said any more without memory
_NO_NEW_PRIVILEGES = 38  # of prctl


def serve(order: Plain) -> None:
    """Be the child: obey the limits, load the function, answer calls until the parent is gone."""
    _die_with_parent(order["life"], order["parent"])
    _obey(Limits(**order["limits"]))
    os.dup2(2, 1)  # what the function prints is no message
    channel = socket.socket(fileno=order["channel"])
    module, _, name = order["target"].partition(":")
    try:
        target: Target = getattr(importlib.import_module(module), name)
        send(channel, {}, (), None)
        while True:
            request, blobs = receive(channel, None, None)
            send(channel, *_answered(target, request, blobs), None)
            del request, blobs  # before the next come
    except (EOFError, ConnectionError):
        os._exit(0)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _answered(target: Target, request: Plain, blobs: list[bytes]) -> tuple[Plain, list[bytes]]:
    try:
        done, parts = target(request, blobs)
        json.dumps(done)
        return {"done": done}, parts
    except Exception as error:
        if any(isinstance(link, MemoryError) for link in _chain(error)):
            os._exit(OUT_OF_MEMORY)
        if isinstance(error, ClipmillError):
            return {"error": type(error).__name__, "args": [str(arg) for arg in error.args]}, []
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}, []


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    """Give an error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _obey(limits: Limits) -> None:
    """Set the limits; those above what the system allows anyway stay as they are."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, limits.memory_bytes),  # what malloc and private maps give
        (resource.RLIMIT_AS, limits.memory_bytes + SHARED_BYTES),  # shared maps too
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        Path("/proc/self/oom_score_adj").write_text("800")  # rather this process than its parent


def _die_with_parent(life: int, parent: int) -> None:
    """Have the system kill this process when the parent's end of the pipe closes.

    A signal ends even a long call into C. PR_SET_PDEATHSIG will not do: it fires when the
    thread that started us ends. The watch is for a parent that is gone by now.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    with suppress(AttributeError):  # elsewhere it is SIGIO, which kills as well
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(life, parent), daemon=True).start()


def _watch(life: int, parent: int) -> None:
    while os.getppid() == parent and not select.select([life], [], [], 1.0)[0]:
        pass
    os._exit(1)
