"""Hold a folder against all others: a lock on a disk, a lease in an object store."""

import contextlib
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from clipmill.errors import BusyError, StorageError
from clipmill.storage import files, whole
from clipmill.storage.places import is_http, is_remote, join

HELD = ".held"
LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
READS = 3


@contextlib.contextmanager
def holding(folder: str, what: str) -> Iterator[None]:
    """Hold a folder for a while; on a disk the kernel lets go if the holder dies.

    In an object store a dead holder's lease runs out after a minute.
    """
    with _leased(folder, what) if is_remote(folder) else _locked(folder, what):
        yield


@contextlib.contextmanager
def _locked(folder: str, what: str) -> Iterator[None]:
    with whole.making(folder):
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, HELD), "a+")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _busy(folder, file.read().strip()) from None
        file.truncate(0)
        file.write(f"{what}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _busy(folder: str, holder: str, todo: str = "wait for it or end it") -> BusyError:
    return BusyError(f"{folder} is in use by {holder or 'another process'}", "a free folder", todo)


# What a lease cannot do: object stores offer no write under a condition that all of them keep.
# Of two that come in the same instant the later writer wins, and the earlier learns of it when it
# reads back; if both read back before the other's write, both go on until the first renewal.
# A holder that stands still for a minute loses the lease, and is told so at its end. Clocks of
# the machines must agree to within some seconds. It guards against mistakes, not against races
# to the millisecond; what is written stays whole, as every object is put whole.
@dataclass
class _Lease:
    folder: str
    what: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    ended: threading.Event = field(default_factory=threading.Event)
    lost_to: str = ""

    @property
    def path(self) -> str:
        return join(self.folder, HELD)

    def take(self) -> None:
        held = standing(self.path)
        told = held.get("time")
        age = time.time() - told if isinstance(told, int | float) else LEASE_SECONDS
        if age < LEASE_SECONDS:
            left = f"wait for it or end it; if it has died, wait {LEASE_SECONDS - age:.0f} s"
            raise _busy(self.folder, _holder(held), left)
        self.write()
        if (now := standing(self.path)).get("token") != self.token:
            raise _busy(self.folder, _holder(now))

    def write(self) -> None:
        who = {"holder": self.what, "host": socket.gethostname(), "pid": os.getpid()}
        whole.put_json(self.path, {**who, "time": time.time(), "token": self.token})

    def keep(self) -> None:
        while not self.lost_to and not self.ended.wait(RENEW_SECONDS):
            # A store that is away for a moment is asked again at the next turn.
            with contextlib.suppress(StorageError):
                if self.is_ours():
                    self.write()

    def is_ours(self) -> bool:
        now = standing(self.path)
        if now and now.get("token") != self.token:
            self.lost_to = _holder(now)
        return not self.lost_to


def standing(path: str) -> dict[str, object]:
    """Read the lease that is there, if any."""
    for _ in range(READS):
        if not files.exists(path):
            return {}
        # Between a store's answers of size and of bytes it may be renewed, or end.
        with contextlib.suppress(StorageError):
            return files.read_json(path)
    return files.read_json(path)


def _holder(held: dict[str, object]) -> str:
    if not held:
        return ""
    return f"{held.get('holder')}, process {held.get('pid')} on {held.get('host')}"


@contextlib.contextmanager
def _leased(folder: str, what: str) -> Iterator[None]:
    if is_http(folder):
        raise StorageError(f"{folder} is on a web server", "a disk or an object store to write to")
    lease = _Lease(folder, what)
    lease.take()
    keeper = threading.Thread(target=lease.keep, name=f"lease of {folder}", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        lease.ended.set()
        keeper.join()
        # An error of the work itself is not to be hidden by one of the lease.
        with contextlib.suppress(StorageError):
            if lease.is_ours():
                whole.remove(lease.path)
    if lease.lost_to:
        raise _busy(folder, lease.lost_to, "run it again when that has ended: both have written")
