"""Runs a function in a child process that can be killed: limits on memory, time and files.

Plain data and bytes go there and come back, never pickles: a child that a hostile file has
taken over may answer nonsense, but runs no code here. Knows nothing of what the function does.
"""

import ctypes
import fcntl
import importlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Self

from clipmill import errors
from clipmill.errors import ClipmillError

Plain = dict[str, Any]
Target = Callable[[Plain, list[bytes]], tuple[Plain, list[bytes]]]
Cause = Literal["crash", "time", "memory"]

START_SECONDS = 120.0  # to load the target's module, on a machine that is busy
MAX_BLOBS = 1 << 12
MAX_PLAIN_BYTES = 1 << 26
SHARED_BYTES = 4 << 30  # of addresses above `memory_bytes`, for libraries and stacks
KEPT_WORDS_BYTES = 4096
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")  # no tokens, no credentials
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
FOLDER_PREFIX = "clipmill-jail-"

_HEAD = struct.Struct(">II")  # bytes of plain data, number of blobs; then 8 bytes a blob
_OUT_OF_MEMORY = 77  # exit code; nothing can be said any more without memory
_NO_NEW_PRIVILEGES = 38  # of prctl
_BEGIN = "import json, sys; o = json.loads(sys.argv[1]); sys.path[:] = o['path']; from clipmill import jail; jail.serve(o)"


class JailError(ClipmillError):
    """The function did not come to an end: it crashed, or met a limit."""

    def __init__(self, got: str, wanted: str = "", todo: str = "", cause: Cause = "crash") -> None:
        super().__init__(got, wanted, todo)
        self.cause = cause


class _NoMessage(Exception):
    """What a child sent is no message."""


@dataclass(frozen=True)
class Limits:
    """What a child may use."""

    memory_bytes: int = 2 << 30  # private memory of the process, its libraries' included
    seconds: float = 60.0  # of a call, unless the call says otherwise
    file_bytes: int = 4 << 30  # of one file
    open_files: int = 64
    answer_bytes: int = 1 << 30


class Jail:
    """A child process that runs one function, call after call; a new one after each failure."""

    def __init__(
        self, target: str, limits: Limits | None = None, *, what: str = "the function"
    ) -> None:
        if not re.fullmatch(r"[\w.]+:\w+", target):
            raise errors.UsageError(f"target {target!r}", "MODULE:FUNCTION")
        self._target, self._limits, self._what = target, limits or Limits(), what
        self._child: _Child | None = None
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
                self._child = _Child(self._target, self._limits)
                if self._is_interrupted:
                    self._child.kill()
                _receive(self._child.channel, self._limits, _deadline(limit))
            until = _deadline(limit := allowed)
            _send(self._child.channel, request, blobs, until)
            answer, parts = _receive(self._child.channel, self._limits, until)
        except TimeoutError:
            self._end()
            raise JailError(f"{self._what} took more than {limit:g} s", cause="time") from None
        except (EOFError, ConnectionError):
            raise self._crash() from None
        except BaseException as error:  # Ctrl-C too: a late answer would be the next call's
            self._end()
            if isinstance(error, _NoMessage):
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
        if code == _OUT_OF_MEMORY or "std::bad_alloc" in said:
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


class _Child:
    """The parent's side of a child: its process, its channel, its folder, its last words."""

    def __init__(self, target: str, limits: Limits) -> None:
        self.owner = os.getpid()
        _sweep()
        with ExitStack() as undo:  # where there are no more files or processes, nothing stays
            folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{self.owner}-")
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            folder_lock = _locked(folder)
            undo.callback(os.close, folder_lock)
            self.channel, theirs = socket.socketpair()
            undo.callback(self.channel.close)
            with theirs:
                life, life_end = os.pipe()  # our end: when we are gone, the child knows
                undo.callback(os.close, life_end)
                try:
                    process = _begun(target, limits, theirs.fileno(), life, folder)
                finally:
                    os.close(life)
            undo.pop_all()
        self._process = process
        self._words = bytearray()
        assert process.stderr is not None
        self._listener = threading.Thread(
            target=_listen, args=(process.stderr, self._words), daemon=True
        )
        self._listener.start()
        self.end = weakref.finalize(
            self, _end, self.owner, process, self.channel, life_end, folder, folder_lock
        )
        _children.add(self)

    @property
    def said(self) -> str:
        """The last line on its standard error, without addresses."""
        self._listener.join(timeout=1)
        lines = bytes(self._words).decode(errors="replace").strip().splitlines()
        words = "".join(c for c in lines[-1] if c.isprintable())[:300] if lines else ""
        return re.sub(r"0x[0-9a-fA-F]+", "ADDRESS", words)

    def kill(self) -> None:
        """Kill it, and leave the rest to whoever waits for it."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def status(self) -> int:
        """Give its exit code (a signal's negative), after making sure that it has ended."""
        with suppress(ChildProcessError):  # someone here may reap all children
            for _ in range(100):  # it closes its channel before it has quite ended
                if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                    break
                time.sleep(0.01)
        _kill(self._process)
        return self._process.returncode


def _end(
    owner: int,
    process: subprocess.Popen[bytes],
    channel: socket.socket,
    life_end: int,
    folder: str,
    folder_lock: int,
) -> None:
    """End a child and remove its traces; a fork of its owner leaves it alone."""
    channel.close()
    os.close(life_end)
    if os.getpid() == owner:
        _kill(process)
        shutil.rmtree(folder, ignore_errors=True)
    os.close(folder_lock)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child with all that it has started."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listen(stream: IO[bytes], words: bytearray) -> None:
    with stream:
        while piece := os.read(stream.fileno(), KEPT_WORDS_BYTES):
            words += piece
            del words[:-KEPT_WORDS_BYTES]


def _begun(
    target: str, limits: Limits, channel: int, life: int, folder: str
) -> subprocess.Popen[bytes]:
    order = {
        "path": [os.path.abspath(entry) for entry in sys.path],
        "target": target,
        "limits": asdict(limits),
        "channel": channel,
        "life": life,
        "parent": os.getpid(),
    }
    here = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", "-c", _BEGIN, json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(channel, life),
        start_new_session=True,
        env={**here, **ONE_THREAD, "TMPDIR": folder, "HOME": folder},
    )


def _locked(folder: str) -> int:
    """Lock a folder as long as this process lives."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _sweep() -> None:
    """Remove the folders of this user's jails whose owners were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}[0-9]*-*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        with suppress(OSError):
            if folder.lstat().st_uid != os.getuid() or _is_alive(int(owner)):
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:  # the owner may live where its number means nothing here: in another container
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _revived(name: str, args: object) -> ClipmillError:
    """Make the error of a name; what is no error of ours becomes the plain kind."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ClipmillError)):
        kind = ClipmillError
    return kind(*[str(arg) for arg in (args if isinstance(args, list) else [])[:3]] or [name])


_children: weakref.WeakSet[_Child] = weakref.WeakSet()


def _let_go() -> None:
    """In a fork, close what would keep the children of its parent alive."""
    for child in list(_children):
        child.end()


os.register_at_fork(after_in_child=_let_go)


# --- messages


def _deadline(seconds: float) -> float:
    return time.monotonic() + seconds


def _wait_until(channel: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)


def _send(
    channel: socket.socket, plain: Plain, blobs: Sequence[bytes], deadline: float | None
) -> None:
    text = json.dumps(plain).encode()
    if len(text) > MAX_PLAIN_BYTES or len(blobs) > MAX_BLOBS:
        told = f"{len(text)} bytes of plain data and {len(blobs)} blobs"
        raise errors.UsageError(told, f"at most {MAX_PLAIN_BYTES} and {MAX_BLOBS}")
    sizes = struct.pack(f">{len(blobs)}Q", *map(len, blobs))
    for piece in (_HEAD.pack(len(text), len(blobs)) + sizes + text, *blobs):
        _wait_until(channel, deadline)
        channel.sendall(piece)


def _receive(
    channel: socket.socket, limits: Limits | None, deadline: float | None
) -> tuple[Plain, list[bytes]]:
    """Take a message; with limits, whoever sent it is not believed."""
    length, count = _HEAD.unpack(_take(channel, _HEAD.size, deadline))
    if limits and (length > MAX_PLAIN_BYTES or count > MAX_BLOBS):
        raise _NoMessage("what is no message")
    sizes = struct.unpack(f">{count}Q", _take(channel, 8 * count, deadline))
    if limits and length + sum(sizes) > limits.answer_bytes:
        raise _NoMessage(f"with more than {limits.answer_bytes} bytes")
    text = _take(channel, length, deadline)
    blobs = [_take(channel, size, deadline) for size in sizes]
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise _NoMessage("what is no message")
    return plain, blobs


def _take(channel: socket.socket, size: int, deadline: float | None) -> bytes:
    taken, at = io.BytesIO(), 0
    if size:  # all of it at once
        taken.seek(size - 1)
        taken.write(b"\0")
    with taken.getbuffer() as view:
        while at < size:
            _wait_until(channel, deadline)
            count = channel.recv_into(view[at:])
            if not count:
                raise EOFError
            at += count
    return taken.getvalue()  # those bytes themselves: a copy would not fit beside a large upload


# --- the child's side


def serve(order: Plain) -> None:
    """Be the child: obey the limits, load the function, answer calls until the parent is gone."""
    _die_with_parent(order["life"], order["parent"])
    _obey(Limits(**order["limits"]))
    os.dup2(2, 1)  # what the function prints is no message
    channel = socket.socket(fileno=order["channel"])
    module, _, name = order["target"].partition(":")
    try:
        target: Target = getattr(importlib.import_module(module), name)
        _send(channel, {}, (), None)
        while True:
            request, blobs = _receive(channel, None, None)
            _send(channel, *_answered(target, request, blobs), None)
            del request, blobs  # before the next come
    except (EOFError, ConnectionError):
        os._exit(0)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)


def _answered(target: Target, request: Plain, blobs: list[bytes]) -> tuple[Plain, list[bytes]]:
    try:
        done, parts = target(request, blobs)
        json.dumps(done)
        return {"done": done}, parts
    except Exception as error:
        if any(isinstance(link, MemoryError) for link in _chain(error)):
            os._exit(_OUT_OF_MEMORY)
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
