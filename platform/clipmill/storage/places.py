"""Paths as text, and the store behind each: local, http(s), or an object store of pyarrow.

A URI is taken literally, as object stores name things: `%20` is three characters of a name.
Options of a store stand at its end (`s3://bucket/a?endpoint_override=HOST:PORT&scheme=http`) and
stay there through every function. Opens no file.
"""

import functools
import os
import posixpath
import re
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from clipmill.errors import StorageError

URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)", re.DOTALL)
OPTION = (
    "region|scheme|endpoint_override|allow_bucket_creation|allow_bucket_deletion|"
    "check_directory_existence_before_creation|tls_verify_certificates|smart_defaults|"
    "retry_limit_seconds|access_key|secret_key|session_token"
)
# Only what a store takes as an option is one: any other question mark belongs to a name.
OPTIONS = re.compile(rf"\?(?:{OPTION})=[^&?]*(?:&(?:{OPTION})=[^&?]*)*$", re.DOTALL)
SECRET = re.compile(r"[?&](access_key|secret_key|session_token)=")


@dataclass(frozen=True)
class _Address:
    scheme: str
    authority: str
    inner: str  # begins with a slash, or is empty
    options: str  # begins with a question mark, or is empty

    @property
    def text(self) -> str:
        return f"{self.scheme}://{self.authority}{self.inner}{self.options}"

    def at(self, inner: str) -> str:
        return f"{self.scheme}://{self.authority}/{inner.lstrip('/')}{self.options}"


def _address(path: str) -> _Address:
    found = URI.fullmatch(path)
    assert found is not None, path
    scheme, authority, rest = found.groups()
    options = "" if is_http(path) else "".join(OPTIONS.findall(rest))
    if SECRET.search(options) or ":" in authority.partition("@")[0] * ("@" in authority):
        raise StorageError(
            f"an address at {scheme}://{authority.rpartition('@')[2]} that holds a password or key",
            "addresses that may be written into catalogs and logs",
            "give credentials by environment variables such as AWS_ACCESS_KEY_ID",
        )
    return _Address(scheme.lower(), authority, rest[: len(rest) - len(options)], options)


def is_remote(path: str) -> bool:
    """Tell whether the path is a URI of an object store."""
    return URI.match(path) is not None and not path.startswith("file://")


def is_http(path: str) -> bool:
    """Tell whether the path is on a web server: files can be read there, and no more."""
    return path[:8].lower().startswith(("http://", "https://"))


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the path as every process and node of this run can use it."""
    text = os.fspath(path)
    if not is_remote(text):
        return os.path.abspath(text.removeprefix("file://"))
    there = _address(text)
    return f"{there.scheme}://{there.authority}{there.inner.rstrip('/')}{there.options}"


def join(folder: str, *parts: str) -> str:
    """Put parts below a folder."""
    if not is_remote(folder):
        return "/".join([folder.rstrip("/"), *parts])
    there = _address(folder)
    return there.at("/".join([there.inner.rstrip("/"), *parts]))


def parent(path: str) -> str:
    """Return the folder that holds the path."""
    if not is_remote(path):
        return os.path.dirname(absolute(path))
    there = _address(path)
    inner = there.inner.partition("?")[0] if is_http(path) else there.inner
    return absolute(there.at(posixpath.dirname(inner.rstrip("/"))))


def name_of(path: str) -> str:
    """Return the last part of a path, without the options of its store."""
    if not is_remote(path):
        return os.path.basename(path)
    inner = _address(path).inner
    return posixpath.basename((inner.partition("?")[0] if is_http(path) else inner).rstrip("/"))


def below(path: str, folder: str) -> str:
    """Return how a path that is below a folder is called from there."""
    if not is_remote(path):
        return os.path.relpath(path, folder)
    inner, base = _address(path).inner, _address(folder).inner.rstrip("/")
    assert inner.startswith(base + "/"), (path, folder)
    return inner[len(base) + 1 :]


def store_of(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system that holds the path, and the path as it calls it."""
    store, root = opened_store(path)
    if not is_remote(path):
        return store, absolute(path)
    if is_http(path):
        return store, path
    inner = _address(path).inner.strip("/")
    return store, f"{root.rstrip('/')}/{inner}" if inner else root


def opened_store(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system that holds the path, and what it calls the store's root."""
    if not is_remote(path):
        return fs.LocalFileSystem(), "/"
    there = _address(path)
    if not there.authority and there.scheme != "hdfs":
        raise StorageError(f"the address {path!r}", "a bucket or host after ://")
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    try:
        if is_http(path):
            return fs.PyFileSystem(fs.FSSpecHandler(web(os.getpid()))), ""
        where = f"{there.scheme}://{there.authority}/{there.options}"
        return _opened(os.getpid(), where, settings)
    except (ValueError, OSError, NotImplementedError) as error:
        raise StorageError(
            f"cannot open the store of {path}: {error}",
            "a local path or a URI such as s3://bucket/folder",
            "check the address and the credentials",
        ) from error


# Opening a store costs a request or more, so each process keeps those it opened: by its number,
# because connections and threads do not live through a fork.
@functools.lru_cache(maxsize=64)
def _opened(
    process: int, where: str, settings: tuple[tuple[str, str], ...]
) -> tuple[fs.FileSystem, str]:
    store, root = fs.FileSystem.from_uri(where)
    return store, root


@functools.lru_cache(maxsize=4)
def web(process: int) -> Any:
    """Return this process's reader of web servers."""
    import aiohttp
    import fsspec

    patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    client = {"trust_env": True, "timeout": patience}  # proxies are taken from the environment
    # Without a cache of its own a range is one request of just that range.
    return fsspec.filesystem("https", cache_type="none", client_kwargs=client)


def inside(path: str, info: fs.FileInfo, root: str) -> str:
    """Return the URI of what a listing of a store named."""
    return _address(path).at(info.path[len(root) :])
