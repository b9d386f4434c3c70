"""Decoded blocks on a node's disk, for takes that come again: test plans and probes.

A block is known by all that decides its bytes, so that a resumed or another run finds its own.
What came first stays: under a plan that goes round and round, throwing out the oldest would
throw out just what is needed next.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from clipmill.errors import StorageError
from clipmill.feed.block import Block, Request
from clipmill.feed.block import make as made
from clipmill.plugin import Plugin

LOOK_SECONDS = 5.0  # between looks at how full a folder is
STALE_SECONDS = 3600.0
PLACE = ("folder", "shard", "members")  # of a row: where it lies, not what it is


def own_folder() -> Path:
    """Where blocks of this user are kept, if no folder is named."""
    return Path(tempfile.gettempdir()) / f"clipmill-cache-{os.getuid()}"


@dataclass(frozen=True)
class Cache:
    """A budget of bytes in a folder; None is a temporary one of this user."""

    megabytes: int = 0
    folder: str | None = None

    def make(self, request: Request) -> Block:
        """Make a block, or take it from the cache; training, which repeats nothing, passes by."""
        if not self.megabytes or request.lot.stage == "train":
            return made(request)
        path = self._place() / f"{_name(request)}.npz"
        if (found := _read(path, request)) is not None:
            return found
        block = made(request)
        if block.columns:
            self._keep(path, block)
        return block

    def _place(self) -> Path:
        place = Path(self.folder) if self.folder else own_folder()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.stat().st_uid != os.getuid():
            raise StorageError(
                f"{place} is someone else's", "a folder of your own", "set feed.cache_folder"
            )
        return place

    def _keep(self, path: Path, block: Block) -> None:
        file = io.BytesIO()
        np.savez(file, **block.columns)  # type: ignore[arg-type]
        data = file.getbuffer()
        if _FILLED.room(path.parent, self.megabytes << 20) < len(data):
            return
        new = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.new")
        try:
            new.write_bytes(data)
            new.replace(path)
            _FILLED.add(path.parent, len(data))
        except OSError:  # a full disk costs the cache, not the run
            new.unlink(missing_ok=True)


class _Filled:
    """How full cache folders are; others write to them too, so that it is looked up now and then."""

    def __init__(self) -> None:
        self.known: dict[Path, tuple[float, int]] = {}

    def room(self, folder: Path, budget: int) -> int:
        """Bytes that still may be put into a folder."""
        looked, size = self.known.get(folder, (-LOOK_SECONDS, 0))
        if time.monotonic() - looked >= LOOK_SECONDS:
            looked, size = time.monotonic(), sum(map(_size_of, os.scandir(folder)))
            self.known[folder] = looked, size
        return budget - size

    def add(self, folder: Path, size: int) -> None:
        """Count what was put there."""
        looked, before = self.known[folder]
        self.known[folder] = looked, before + size


def _size_of(entry: "os.DirEntry[str]") -> int:
    """The size of a file; one that a killed process left half-written goes after a while."""
    with contextlib.suppress(OSError):  # it may just be given its name
        told = entry.stat()
        if entry.name.endswith(".new") and time.time() - told.st_mtime > STALE_SECONDS:
            os.unlink(entry.path)
            return 0
        return told.st_size
    return 0


_FILLED = _Filled()


def _name(request: Request) -> str:
    """Hash of all that decides the bytes of a block."""
    lot, plugin = request.lot, request.plugin
    digests = [digest.hex() for digest in lot.digests()]
    rows = [{name: row[name] for name in sorted(row) if name not in PLACE} for row in lot.rows]
    told = [
        version("clipmill"), type(plugin).name, _code(type(plugin)), plugin.model_dump_json(),
        lot.stage, digests, rows, request.data_digest,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()


@functools.cache
def _code(plugin: type[Plugin]) -> str:
    """Hash of the modules of the plugin and its bases: another `sample` makes other blocks."""
    modules = [sys.modules[each.__module__] for each in plugin.__mro__ if each is not object]
    files = [getattr(module, "__file__", None) for module in modules]
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in files if f)).hexdigest()


def _read(path: Path, request: Request) -> Block | None:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except Exception:  # damage makes zip raise what it likes
        path.unlink(missing_ok=True)
        return None
    columns["position"] = np.array(request.positions)
    return Block(request.positions, columns=columns, cached=True)
