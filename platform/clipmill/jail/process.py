"""The parent's side of a child: its process, its channel, its folder, its last words."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from clipmill.jail.messages import Limits

KEPT_WORDS_BYTES = 4096
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")  # no tokens, no credentials
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
FOLDER_PREFIX = "clipmill-jail-"

_BEGIN = "import json, sys; o = json.loads(sys.argv[1]); sys.path[:] = o['path']; from clipmill import jail; jail.serve(o)"


class Child:
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


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _let_go() -> None:
    """In a fork, close what would keep the children of its parent alive."""
    for child in list(_children):
        child.end()


os.register_at_fork(after_in_child=_let_go)
