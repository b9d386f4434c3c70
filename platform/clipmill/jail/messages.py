"""Messages between a child and its parent: plain data as JSON, and bytes; never pickles."""

import io
import json
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipmill import errors

Plain = dict[str, Any]

MAX_BLOBS = 1 << 12
MAX_PLAIN_BYTES = 1 << 26

_HEAD = struct.Struct(">II")  # bytes of plain data, number of blobs; then 8 bytes a blob


class NoMessage(Exception):
    """What a child sent is no message."""


@dataclass(frozen=True)
class Limits:
    """What a child may use."""

    memory_bytes: int = 2 << 30  # private memory of the process, its libraries' included
    seconds: float = 60.0  # of a call, unless the call says otherwise
    file_bytes: int = 4 << 30  # of one file
    open_files: int = 64
    answer_bytes: int = 1 << 30


def deadline_of(seconds: float) -> float:
    """When so many seconds will have passed."""
    return time.monotonic() + seconds


def _wait_until(channel: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)


def send(
    channel: socket.socket, plain: Plain, blobs: Sequence[bytes], deadline: float | None
) -> None:
    """Give a message."""
    text = json.dumps(plain).encode()
    if len(text) > MAX_PLAIN_BYTES or len(blobs) > MAX_BLOBS:
        told = f"{len(text)} bytes of plain data and {len(blobs)} blobs"
        raise errors.UsageError(told, f"at most {MAX_PLAIN_BYTES} and {MAX_BLOBS}")
    sizes = struct.pack(f">{len(blobs)}Q", *map(len, blobs))
    for piece in (_HEAD.pack(len(text), len(blobs)) + sizes + text, *blobs):
        _wait_until(channel, deadline)
        channel.sendall(piece)


def receive(
    channel: socket.socket, limits: Limits | None, deadline: float | None
) -> tuple[Plain, list[bytes]]:
    """Take a message; with limits, whoever sent it is not believed."""
    length, count = _HEAD.unpack(_take(channel, _HEAD.size, deadline))
    if limits and (length > MAX_PLAIN_BYTES or count > MAX_BLOBS):
        raise NoMessage("what is no message")
    sizes = struct.unpack(f">{count}Q", _take(channel, 8 * count, deadline))
    if limits and length + sum(sizes) > limits.answer_bytes:
        raise NoMessage(f"with more than {limits.answer_bytes} bytes")
    text = _take(channel, length, deadline)
    blobs = [_take(channel, size, deadline) for size in sizes]
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise NoMessage("what is no message")
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
