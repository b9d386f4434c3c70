"""Files that appear whole or not at all, and that go; folders and half-written parts, too."""

import contextlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clipmill.errors import StorageError
from clipmill.storage.files import exists, words_of
from clipmill.storage.places import absolute, is_http, is_remote, store_of


@contextlib.contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears whole under its name, or not at all."""
    with (
        making(path),
        _remote_writing(path) if is_remote(path) else _local_writing(path) as file,
    ):
        yield file


@contextlib.contextmanager
def making(path: str) -> Iterator[None]:
    """Tell what hinders writing there."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or words_of(error)}",
            "a place with room that can be written to",
            "choose another place, or make room",
        ) from error


@contextlib.contextmanager
def _local_writing(path: str) -> Iterator[IO[bytes]]:
    folder, name = os.path.split(absolute(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _remote_writing(path: str) -> Iterator[IO[bytes]]:
    if is_http(path):
        raise StorageError(f"{path} is on a web server", "a disk or an object store to write to")
    # Closing a store's own stream publishes whatever it holds, after an error too: spool first,
    # and then give it all in one call, which nothing of ours can interrupt half-way.
    with tempfile.TemporaryFile() as spool:
        yield spool
        spool.flush()
        store, inner = store_of(path)
        with store.open_output_stream(inner, compression=None) as out:
            if os.fstat(spool.fileno()).st_size:
                with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                    out.write(whole)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(path: str, data: bytes) -> None:
    """Write a whole file that is visible whole or not at all."""
    with writing(path) as file:
        file.write(data)


def put_json(path: str, value: object) -> None:
    """Write a value as readable JSON."""
    put(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def remove_parts(folder: str) -> None:
    """Remove what interrupted writers left; only for the one who holds the folder.

    Object stores show nothing of an upload that was broken off.
    """
    for path in Path(folder).rglob(".*.part") if not is_remote(folder) else ():
        path.unlink(missing_ok=True)


def remove(path: str) -> None:
    """Remove a file."""
    with _removing(path):
        if is_remote(path):
            store, inner = store_of(path)
            store.delete_file(inner)
        else:
            os.unlink(path)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif exists(path):
        with _removing(path):
            store, inner = store_of(path)
            store.delete_dir(inner)


@contextlib.contextmanager
def _removing(path: str) -> Iterator[None]:
    if is_http(path):
        raise StorageError(f"{path} is on a web server", "a disk or an object store")
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{path} is not there", "a file to remove") from error
    except OSError as error:
        raise StorageError(
            f"{path} cannot be removed: {error.strerror or words_of(error)}",
            "a place that we may change",
        ) from error
