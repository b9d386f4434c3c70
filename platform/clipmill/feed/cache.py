"""Decoded blocks on a node's disk, for takes that come again: test plans and probes.

A block is known by all that decides its bytes, so that a resumed or another run finds its own.
What came first stays: under a plan that goes round and round, throwing out the oldest would
throw out just what is needed next.
"""

import functools
import hashlib
import io
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from clipmill.errors import StorageError
from clipmill.feed.block import Block, Request
from clipmill.feed.block import make as made
from clipmill.plugin import Plugin


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
        own = Path(tempfile.gettempdir()) / f"clipmill-cache-{os.getuid()}"
        place = Path(self.folder) if self.folder else own
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
        there = sum(each.stat().st_size for each in os.scandir(path.parent))
        if there + len(data) > self.megabytes << 20:
            return
        new = path.with_suffix(f".{os.getpid()}.new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except OSError:  # a full disk costs the cache, not the run
            new.unlink(missing_ok=True)


def _name(request: Request) -> str:
    """Hash of all that decides the bytes of a block."""
    lot, plugin = request.lot, request.plugin
    digests = [digest.hex() for digest in lot.digests()]
    told = [
        version("clipmill"), type(plugin).name, _code(type(plugin)), plugin.model_dump_json(),
        lot.stage, digests, request.data_digest,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@functools.cache
def _code(plugin: type[Plugin]) -> str:
    """Hash of the plugin's module: another `sample` makes other blocks."""
    file = getattr(sys.modules[plugin.__module__], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _read(path: Path, request: Request) -> Block | None:
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged
        return None
    columns["position"] = np.array(request.positions)
    return Block(request.positions, columns=columns, cached=True)
