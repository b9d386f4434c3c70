"""Runs a function in a child process that can be killed: limits on memory, time and files.

Plain data and bytes go there and come back, never pickles: a child that a hostile file has
taken over may answer nonsense, but runs no code here. Knows nothing of what the function does.
"""

import os
import re
import signal
import threading
from collections.abc import Sequence
from typing import Literal, Self

from clipmill import errors
from clipmill.errors import ClipmillError
from clipmill.jail.child import OUT_OF_MEMORY, serve
from clipmill.jail.messages import (
    MAX_PLAIN_BYTES,
    Limits,
    NoMessage,
    Plain,
    deadline_of,
    receive,
    send,
)
from clipmill.jail.process import FOLDER_PREFIX, Child

Cause = Literal["crash", "time", "memory"]

START_SECONDS = 120.0  # to load the target's module, on a machine that is busy

__all__ = ["FOLDER_PREFIX", "MAX_PLAIN_BYTES", "Jail", "JailError", "Limits", "serve"]


class JailError(ClipmillError):
    """The function did not come to an end: it crashed, or met a limit."""

    def __init__(self, got: str, wanted: str = "", todo: str = "", cause: Cause = "crash") -> None:
        super().__init__(got, wanted, todo)
        self.cause = cause


class Jail:
    """A child process that runs one function, call after call; a new one after each failure."""

    def __init__(
        self, target: str, limits: Limits | None = None, *, what: str = "the function"
    ) -> None:
        if not re.fullmatch(r"[\w.]+:\w+", target):
            raise errors.UsageError(f"target {target!r}", "MODULE:FUNCTION")
        self._target, self._limits, self._what = target, limits or Limits(), what
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._is_interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove what it left; a call after it starts a new one."""
        with self._lock:
            self._end()

    def call(
        self, request: Plain, blobs: Sequence[bytes] = (), *, seconds: float | None = None
    ) -> tuple[Plain, list[bytes]]:
        """Run the function; its ClipmillError comes back as such, its end as a JailError."""
        allowed = self._limits.seconds if seconds is None else seconds
        with self._lock:
            self._is_interrupted, fresh = False, not self._is_ours()
            try:
                return self._once(request, blobs, allowed)
            except JailError as error:
                if fresh or error.cause == "time" or self._is_interrupted:
                    raise
            # What earlier calls left behind in the child must not decide over this one.
            return self._once(request, blobs, allowed)

    def interrupt(self) -> None:
        """Kill the child: the call that waits for it fails, in its own thread, and is not made again."""
        self._is_interrupted = True  # before the look: a child that comes after it is killed, too
        child = self._child
        if child is not None and child.owner == os.getpid():
            child.kill()

    def _is_ours(self) -> bool:
        """Tell whether there is a child of this process; a fork must not share its parent's."""
        return self._child is not None and self._child.owner == os.getpid()

    def _once(
        self, request: Plain, blobs: Sequence[bytes], allowed: float
    ) -> tuple[Plain, list[bytes]]:
        limit = START_SECONDS
        try:
            if self._child is None or not self._is_ours():
                self._child = Child(self._target, self._limits)
                if self._is_interrupted:
                    self._child.kill()
                receive(self._child.channel, self._limits, deadline_of(limit))
            until = deadline_of(limit := allowed)
            send(self._child.channel, request, blobs, until)
            answer, parts = receive(self._child.channel, self._limits, until)
        except TimeoutError:
            self._end()
            raise JailError(f"{self._what} took more than {limit:g} s", cause="time") from None
        except (EOFError, ConnectionError):
            raise self._crash() from None
        except BaseException as error:  # Ctrl-C too: a late answer would be the next call's
            self._end()
            if isinstance(error, NoMessage):
                raise JailError(f"{self._what} answered {error}") from None
            raise
        return self._opened(answer), parts

    def _opened(self, answer: Plain) -> Plain:
        if isinstance(done := answer.get("done"), dict):
            return done
        if isinstance(name := answer.get("error"), str):
            raise _revived(name, answer.get("args"))
        self._end()
        why = answer.get("failed")
        told = f"failed ({str(why)[:500]})" if why else "answered what is no answer"
        raise JailError(f"{self._what} {told}")

    def _crash(self) -> JailError:
        assert self._child is not None
        code, said = self._child.status(), self._child.said
        self._end()
        if code == OUT_OF_MEMORY or "std::bad_alloc" in said:
            megabytes = self._limits.memory_bytes >> 20
            return JailError(f"{self._what} needed more than {megabytes} MB", cause="memory")
        words = f": {said}" if said else ""
        if code >= 0:
            return JailError(f"{self._what} ended (exit {code}){words}")
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        if -code == signal.SIGKILL:
            return JailError(f"{self._what} was killed ({name}), maybe for want of memory")
        return JailError(f"{self._what} crashed ({name}){words}")

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None


def _revived(name: str, args: object) -> ClipmillError:
    """Make the error of a name; what is no error of ours becomes the plain kind."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ClipmillError)):
        kind = ClipmillError
    return kind(*[str(arg) for arg in (args if isinstance(args, list) else [])[:3]] or [name])
