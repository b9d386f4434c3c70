"""Opens the door: binds an address, lets an app answer on it, and closes without breaking off.

It refuses requests that some other site had a browser send, by the names that it is known by: on
loopback, or if it is told them. Prints nothing. Knows no models and no routes but those of probes.
"""

import asyncio
import contextlib
import errno
import ipaddress
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipmill.errors import BusyError, UsageError
from clipmill.serve.connections import PROBES, protocol
from clipmill.serve.problems import problem

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
STOP_SECONDS = 30  # that requests under way have to end


def new_token() -> str:
    """Make a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def bind(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes any free one."""
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}", "one from 0 to 65535")
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(
            f"the host {host!r}: {error.strerror}", "an address of this machine"
        ) from None
    try:
        # A port that a server has just left is free; one that a server holds is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
    except OSError as error:
        listener.close()
        raise _told(error, host, port) from None
    return listener


def _told(error: OSError, host: str, port: int) -> BusyError | UsageError:
    if error.errno == errno.EADDRINUSE:
        todo = "choose another --port, 0 takes any free one"
        return BusyError(f"port {port} on {host} is in use", "a free port", todo)
    if error.errno == errno.EACCES:
        return UsageError(f"port {port}: {error.strerror}", "a port above 1023")
    return UsageError(f"{host}, port {port}: {error.strerror}", "an address of this machine")


def address_of(listener: socket.socket, host: str) -> str:
    """The address to open in a browser."""
    place, port = listener.getsockname()[:2]
    name = socket.gethostname() if ipaddress.ip_address(place).is_unspecified else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def known_names(names: Iterable[str]) -> frozenset[str]:
    """Names by which others reach a server, as they are compared."""
    known = frozenset(name.lower() for name in names)
    if bad := sorted(name for name in known if not re.fullmatch(r"[a-z0-9._-]+", name)):
        raise UsageError(
            f"the name {bad[0]!r}", "a host name alone, such as clipmill.example.org",
            "leave out scheme, port and path",
        )  # fmt: skip
    return known


class SameHost:
    """Lets through only what was sent from this server's own page and by one of its names.

    A loopback server is still reached by every page that its user's browser shows: by a
    foreign name that resolves to it, or by a form of a foreign site. By what names others reach
    a server on a network it cannot know unless it is told: there, names may be None, and to
    probes, which come by any address, it is nameless.
    """

    def __init__(
        self, app: ASGIApp, names: frozenset[str] | None, nameless: frozenset[str] = frozenset()
    ) -> None:
        self.app, self.names, self.nameless = app, names, nameless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer foreign requests here, and hand on all others."""
        refusal = None
        if scope["type"] == "http":
            names = None if scope["path"] in self.nameless else self.names
            refusal = self._refusal(Headers(scope=scope), names)
        await (refusal or self.app)(scope, receive, send)

    @staticmethod
    def _refusal(headers: Headers, names: frozenset[str] | None) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        with contextlib.suppress(ValueError):
            if names and urlsplit(f"//{host}").hostname not in names:
                return problem(421, f"got the host {host!r}; wanted {' or '.join(sorted(names))}")
            if origin is None or urlsplit(origin).netloc == host:
                return None
        return problem(403, f"got a request from {origin}; wanted one from this server's own page")


class Parting:
    """Tells whom the end of the server cuts off, as it tells all else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say that nobody will."""
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except asyncio.CancelledError:  # nothing else cancels what is out here
            if has_begun or scope["type"] != "http":
                raise
            gone = problem(503, "the server has ended before it could answer")
            await gone(scope, receive, send)


class _Server(uvicorn.Server):
    """Tells when it listens, and when it is to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: Callable[[], None],
        leaving: Callable[[int], None] | None,
    ) -> None:
        super().__init__(config)
        self._listening, self._leaving = listening, leaving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._leaving and (count := len(self.server_state.tasks)):
            self._leaving(count)
        await super().shutdown(sockets)


def server_on(
    listener: socket.socket,
    app: FastAPI,
    *,
    host: str,
    token: str | None,
    names: Iterable[str] = (),
    ready: Callable[[str], None] | None = None,
    leaving: Callable[[int], None] | None = None,
) -> uvicorn.Server:
    """Make the server of an app for a taken address, or refuse to open one to strangers."""
    local = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    if token is None and not local:
        raise UsageError(f"no token on {host}", "a token wherever others can reach the server")
    address, known = address_of(listener, host), known_names(names)
    own = LOOPBACK_NAMES | {host.lower(), urlsplit(address).hostname or ""}
    config = uvicorn.Config(
        Parting(
            SameHost(app, own | known if local or known else None, frozenset() if local else PROBES)
        ),
        http=protocol(app.state.service.allowed),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return _Server(config, lambda: ready(address) if ready else None, leaving)


def run(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None,
    names: Iterable[str] = (),
    ready: Callable[[str], None] | None = None,
    leaving: Callable[[int], None] | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Answer until SIGTERM or Ctrl-C, then end what is under way and return.

    `token` is the app's own: without one only loopback is served. `names` are those by which
    others reach it; by any other it is not reached then. `leaving` hears how many requests are under
    way when it is to end; told so again, it cuts them off. Pass a `listener` from `bind` to hold the
    port while models are loaded.
    """
    with listener or bind(host, port) as door:
        server = server_on(
            door, app, host=host, token=token, names=names, ready=ready, leaving=leaving
        )
        with _stopped_by_signals(server):
            server.run(sockets=[door])


@contextlib.contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Stop is a good end: uvicorn raises the signal again, and this takes it.

    It also catches one that comes before uvicorn listens to signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
