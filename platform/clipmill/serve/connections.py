"""Connections to clients: how many there may be, and how long each waits for its client.

Whoever comes when there are too many takes the place of one that waits for its client; requests
under way keep theirs. Knows no models, no tokens and no address.
"""

import asyncio
import resource
import socket
from typing import Any, ClassVar

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipmill.serve.allowed import Allowed
from clipmill.serve.problems import problem

PROBES = frozenset({"/healthz", "/readyz"})  # answered to whoever asks, and however many do
RETRY_SECONDS = 1
UNSENT_BYTES = 64 << 10  # of an answer, in the kernel, or who reads slowly seems not to for long


def protocol(allowed: Allowed) -> type[H11Protocol]:
    """Make the protocol of one server."""

    class Connection(_Connection):
        crowd = _Crowd(allowed)

    return Connection


class _Crowd:
    """The connections of a server that wait for their clients, the longest waiting first."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed = allowed
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Half are left to uploads and decoders: where there is no file left, nobody can connect.
        self.most = min(allowed.connections, files // 2) if files > 0 else allowed.connections
        self.waiting: dict[_Connection, None] = {}

    def make_room(self) -> bool:
        """End a connection that idles, or else one whose client does not read."""
        idle = (each for each in self.waiting if not each.flow.write_paused)
        ended = next(idle, None) or next(iter(self.waiting), None)
        if ended is None:
            return False
        del self.waiting[ended]
        ended.transport.abort()
        return True


class _Connection(H11Protocol):
    """HTTP that waits so long, and no longer, for what a client owes and no app waits for.

    That is the head of a request, the rest of a body that was answered before its end (uvicorn
    forgets its own clock with the first byte that comes after the answer), and to read the answer.
    """

    crowd: ClassVar[_Crowd]
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        line = transport.get_extra_info("socket")
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        transport.set_write_buffer_limits(high=0)  # writing is paused until all was taken
        if len(self.connections) > self.crowd.most and not self.crowd.make_room():
            self.app: Any = _full(self.app, self.crowd.most)
        self._settle()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_unread()
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()
        self._settle()

    def _is_owed(self) -> bool:
        is_owed = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        return is_owed and not self.transport.is_closing()

    def _settle(self) -> None:
        """Note whether the client is waited for, and until when."""
        if self._is_owed() or self.flow.write_paused:
            self.crowd.waiting.setdefault(self)
        else:
            self.crowd.waiting.pop(self, None)
        if self._is_owed():
            seconds = self.crowd.allowed.head_seconds
            self._late = self._late or self.loop.call_later(seconds, self.transport.close)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def _watch_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        seconds = self.crowd.allowed.unread_seconds
        self._unread = self.loop.call_later(seconds, self._look_at_reading, left)

    def _look_at_reading(self, left: int) -> None:
        allowed = self.crowd.allowed
        taken = left - self.transport.get_write_buffer_size()
        if taken < allowed.least_bytes_a_second * allowed.unread_seconds:
            self.transport.abort()
        else:
            self._watch_reading()

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def _full(app: ASGIApp, most: int) -> ASGIApp:
    """An app that answers probes alone."""
    refusal = problem(
        503,
        f"got more than {most} connections with requests under way; wanted fewer; come again later",
        {"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
    )

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] in PROBES else refusal)(scope, receive, send)

    return answered
