"""Paths on local disks and object stores: list, read a range, put what becomes visible whole.

A path is a plain string: a local path or a URI such as `s3://bucket/folder`. This module knows
nothing of videos, tars or tables.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyarrow import fs

from clipmill.errors import BusyError, StorageError


def is_remote(path: str) -> bool:
    """Tell whether the path is a URI of an object store."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the path as every process and node of this run can use it."""
    text = os.fspath(path)
    return text.rstrip("/") if is_remote(text) else os.path.abspath(text.removeprefix("file://"))


def join(folder: str, *parts: str) -> str:
    """Put parts below a folder."""
    return "/".join([folder.rstrip("/"), *parts])


def store_of(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system that holds the path, and the path as it calls it."""
    if not is_remote(path):
        return fs.LocalFileSystem(), absolute(path)
    try:
        return fs.FileSystem.from_uri(path)  # type: ignore[no-any-return]
    except (ValueError, OSError) as error:
        raise StorageError(
            f"cannot open the store of {path}: {error}",
            "a local path or a URI such as s3://bucket/folder",
            "check the address and the credentials",
        ) from error


def exists(path: str) -> bool:
    """Tell whether a file or folder is there."""
    store, inner = store_of(path)
    return bool(store.get_file_info(inner).type != fs.FileType.NotFound)


def list_files(folder: str) -> list[str]:
    """List all files below a folder, sorted, without following links to folders."""
    if not is_remote(folder):
        walk = os.walk(folder, onerror=_cannot_list)
        return sorted(os.path.join(at, name) for at, _, names in walk for name in names)
    store, inner = store_of(folder)
    scheme = folder.split("://", 1)[0]
    infos = store.get_file_info(fs.FileSelector(inner, recursive=True))
    return sorted(f"{scheme}://{info.path}" for info in infos if info.is_file)


def _cannot_list(error: OSError) -> None:
    # Left to itself the walk would pass over a folder that cannot be opened.
    raise StorageError(
        f"{error.filename} cannot be listed: {error.strerror}",
        "folders that can be read",
        "mend its permissions, or move it away",
    ) from error


def read(path: str) -> bytes:
    """Read a whole file."""
    with _reading(path):
        if not is_remote(path):
            return Path(path).read_bytes()
        store, inner = store_of(path)
        with store.open_input_file(inner) as file:
            return bytes(file.read())


def read_range(path: str, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes from `offset`."""
    with _reading(path):
        if is_remote(path):
            store, inner = store_of(path)
            with store.open_input_file(inner) as file:
                file.seek(offset)
                data = bytes(file.read(length))
        else:
            with open(path, "rb", buffering=0) as local:
                data = os.pread(local.fileno(), length, offset)
    if len(data) != length:
        raise StorageError(
            f"{path} gave {len(data)} bytes at {offset}",
            f"{length} bytes",
            "the file was cut or replaced: run `clipmill verify` on its dataset",
        )
    return data


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{path} is not there", "a file that can be read") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}", "a file that can be read") from error


@contextlib.contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears whole under its name, or not at all."""
    with (
        _making(path),
        _remote_writing(path) if is_remote(path) else _local_writing(path) as file,
    ):
        yield file


@contextlib.contextmanager
def _making(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}",
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
    # Closing a store's own stream publishes whatever it holds, after an error too: spool first.
    with tempfile.TemporaryFile() as spool:
        yield spool
        spool.seek(0)
        store, inner = store_of(path)
        with store.open_output_stream(inner) as out:
            shutil.copyfileobj(spool, out)


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


def read_json(path: str) -> dict[str, object]:
    """Read a JSON object."""
    try:
        value = json.loads(read(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not JSON: {error}", "a JSON object") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} holds a {type(value).__name__}", "a JSON object")
    return value


def remove_parts(folder: str) -> None:
    """Remove what interrupted writers left; only for the one who holds the folder."""
    for path in Path(folder).rglob(".*.part") if not is_remote(folder) else ():
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def holding(folder: str, what: str) -> Iterator[None]:
    """Hold a folder against all others for a while; the kernel lets go if the holder dies."""
    if is_remote(folder):  # object stores have no locks that die with their holder
        yield
        return
    with _making(folder):
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, ".held"), "a+")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(
                f"{folder} is in use by {holder}", "a free folder", "wait for it or end it"
            ) from None
        file.truncate(0)
        file.write(f"{what}, process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def remove(path: str) -> None:
    """Remove a file."""
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
        store, inner = store_of(path)
        store.delete_dir(inner)
