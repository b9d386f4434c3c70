"""Files of any store: what is there, and what is in them.

Every fault of a disk, store or network is one StorageError that names the path.
"""

import contextlib
import io
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import fs

from clipmill.errors import ClipmillError, StorageError
from clipmill.storage.places import (
    absolute,
    inside,
    is_http,
    is_remote,
    name_of,
    opened_store,
    store_of,
    web,
)

READ_AHEAD = 64 << 10  # one request brings a tar header with the small members beside it
COPY_BYTES = 8 << 20


def exists(path: str) -> bool:
    """Tell whether a file or folder is there."""
    if not is_remote(path):
        return os.path.exists(absolute(path))
    if is_http(path):
        return _web_info(path) is not None
    with _reading(path):
        store, inner = store_of(path)
        return bool(store.get_file_info(inner).type != fs.FileType.NotFound)


def stamp(path: str) -> tuple[int, int]:
    """Return size and time of the last change in nanoseconds; -1 and 0 where a server hides them.

    Object stores and web servers count whole seconds.
    """
    with _reading(path):
        if not is_remote(path):
            told = os.stat(absolute(path))
            return told.st_size, told.st_mtime_ns
        if is_http(path):
            return _web_stamp(path)
        store, inner = store_of(path)
        info = store.get_file_info(inner)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(path)
        return _stamp_of(info)


def is_folder(path: str) -> bool:
    """Tell whether a path is a folder; a web server has none."""
    if not is_remote(path):
        return os.path.isdir(absolute(path))
    if is_http(path):
        return False
    with _reading(path):
        store, inner = store_of(path)
        return bool(store.get_file_info(inner).type == fs.FileType.Directory)


def stamps(path: str) -> dict[str, tuple[int, int]]:
    """Return the stamp of a file, or of all files below a folder, by path; a store lists once."""
    if not is_folder(path):
        return {path: stamp(path)}
    if not is_remote(path):
        return {each: stamp(each) for each in list_files(path)}
    return {each: _stamp_of(info) for each, info in sorted(_listed(path).items())}


def _stamp_of(info: fs.FileInfo) -> tuple[int, int]:
    return info.size if info.size is not None else -1, info.mtime_ns or 0


def _web_stamp(path: str) -> tuple[int, int]:
    info = _web_info(path)
    if info is None:
        raise FileNotFoundError(path)
    changed = info.get("Last-Modified")
    seconds = parsedate_to_datetime(changed).timestamp() if changed else 0
    size = info.get("size")
    return -1 if size is None else int(size), int(seconds) * 10**9


def _web_info(path: str) -> dict[str, Any] | None:
    with _reading(path):
        try:
            found: dict[str, Any] = web(os.getpid()).info(path)
        except FileNotFoundError as error:
            # The library says so of every failure, and keeps the true one behind it.
            cause = error.__cause__
            if cause is None or getattr(cause, "status", None) in (404, 410):
                return None
            raise OSError(words_of(cause)) from error
        return found


def list_files(folder: str) -> list[str]:
    """List all files below a folder, sorted, without following links to folders."""
    if not is_remote(folder):
        walk = os.walk(absolute(folder), onerror=_cannot_list)
        return sorted(os.path.join(at, name) for at, _, names in walk for name in names)
    return sorted(_listed(folder))


def _listed(folder: str) -> dict[str, fs.FileInfo]:
    """What a store tells of all files below a folder, by path."""
    if is_http(folder):
        raise StorageError(
            f"{folder} is on a web server, which cannot be asked what it holds",
            "a folder of a disk or an object store",
            "name its files in a table",
        )
    with _reading(folder):
        store, inner = store_of(folder)
        infos = store.get_file_info(fs.FileSelector(inner, recursive=True))
    root = opened_store(folder)[1]
    return {inside(folder, info, root): info for info in infos if info.is_file}


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
            return _plain(path).read_bytes()
        if is_http(path):
            return bytes(web(os.getpid()).cat_file(path))
        store, inner = store_of(path)
        with store.open_input_file(inner) as file:
            return bytes(file.read())


def read_json(path: str) -> dict[str, object]:
    """Read a JSON object."""
    try:
        value = json.loads(read(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is not JSON: {error}", "a JSON object") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} holds a {type(value).__name__}", "a JSON object")
    return value


def read_range(path: str, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes from `offset`."""
    with _reading(path):
        if is_remote(path):
            with _remote_file(path) as file:
                file.seek(offset)
                data = bytes(file.read(length))
        else:
            with open(path, "rb", buffering=0) as local:
                data = os.pread(local.fileno(), length, offset)
    _check_length(path, offset, length, len(data))
    return data


def _check_length(path: str, offset: int, wanted: int, got: int) -> None:
    if got != wanted:
        raise StorageError(
            f"{path} gave {got} bytes at {offset}",
            f"{wanted} bytes",
            "the file was cut or replaced: run `clipmill verify` on its dataset",
        )


def _remote_file(path: str) -> Any:
    if is_http(path):  # by way of pyarrow each opening would ask for the whole file first
        return web(os.getpid()).open(path, "rb")
    store, inner = store_of(path)
    return store.open_input_file(inner)


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file to read here and there in it, small things ahead of being asked for."""
    with _reading(path):
        if is_remote(path):
            with _remote_file(path) as raw:
                yield io.BufferedReader(raw, READ_AHEAD)
        else:
            with _plain(path).open("rb", READ_AHEAD) as file:
                yield file


def copy_range(path: str, out: IO[bytes], offset: int = 0, length: int | None = None) -> None:
    """Copy bytes of a file into an open one, a few megabytes at a time; to its end by default."""
    if offset == 0 and length is None and is_http(path):
        with _reading(path):
            web(os.getpid()).get_file(path, out)  # not every web server gives ranges
        return
    copied = 0
    with opened(path) as file:
        file.seek(offset)
        while chunk := file.read(
            COPY_BYTES if length is None else min(COPY_BYTES, length - copied)
        ):
            out.write(chunk)
            copied += len(chunk)
    if length is not None:
        _check_length(path, offset, length, copied)


@contextlib.contextmanager
def local(path: str, offset: int | None = None, length: int | None = None) -> Iterator[str]:
    """Give a local path that holds the file's bytes: itself, or a copy that goes away after."""
    if not is_remote(path) and offset is None and length is None:
        with _reading(path):
            _plain(path)
        yield absolute(path)
        return
    with tempfile.NamedTemporaryFile(prefix="clipmill-", suffix=_suffix(path)) as spool:
        copy_range(path, spool, offset or 0, length)
        spool.flush()
        yield spool.name


def _suffix(path: str) -> str:
    found = os.path.splitext(name_of(path))[1]
    return found if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", found) else ""


def _plain(path: str) -> Path:
    # A pipe or a device by the name of a video would be waited for, or read, without end.
    if not stat.S_ISREG(os.stat(here := Path(absolute(path))).st_mode):
        raise StorageError(f"{path} is no plain file", "a plain file that can be read")
    return here


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except ClipmillError:
        raise
    except FileNotFoundError as error:
        if is_http(path) and (info := _web_info(path)) is not None:
            raise StorageError(f"{path} is there ({info['size']} bytes) and not given") from error
        raise StorageError(f"{path} is not there", "a file that can be read") from error
    except _troubles(path) as error:
        raise StorageError(
            f"{path} cannot be read: {words_of(error)}", "a file that can be read"
        ) from error


def _troubles(path: str) -> tuple[type[BaseException], ...]:
    if not is_http(path):
        return (OSError, pa.ArrowException)
    client = sys.modules.get("aiohttp")  # loaded with the first web address
    return (OSError, ValueError, *([client.ClientError] if client else []))


def words_of(error: BaseException) -> str:
    """An error, without what differs each time."""
    if (status := getattr(error, "status", None)) is not None:
        return f"the server answered {status} {getattr(error, 'message', '')}".strip()
    text = re.sub(r" *\(Request ID: [^)]*\)", "", str(error))
    return text or type(error).__name__
