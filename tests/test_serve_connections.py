"""Connections to a real server: crowds that say nothing, and clients that do not read."""

import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI, Response

from clipmill import infer
from clipmill.serve import Allowed
from clipmill.serve.connections import protocol
from serving import PREDICT, model_of, told_problem, visitor, walk
from test_serve import connected
from test_serve_hostile import NEVER, held, server_of, until

LARGE = 30 << 20
ASK = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def models() -> dict[str, infer.Model]:
    return {"still": model_of("still")}


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


@contextlib.contextmanager
def large_of(
    models: Mapping[str, infer.Model], **limits: Any
) -> Iterator[tuple[httpx.Client, FastAPI]]:
    """A server that has a large answer, too."""
    with server_of(models, **limits) as (client, app):
        app.get("/large")(lambda: Response(bytes(LARGE)))
        yield client, app


def fresh(client: httpx.Client, path: str) -> httpx.Response:
    """The answer on a new connection."""
    with visitor(str(client.base_url)) as another:
        return another.get(path)


def is_open(line: socket.socket) -> bool:
    """Whether a server that has said nothing has not hung up either."""
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True


def is_kept(client: httpx.Client, line: socket.socket) -> bool:
    """Whether the server, in this process, holds its end of a connection."""
    pair = client.base_url.port, line.getsockname()[1]
    ends = psutil.Process().net_connections("tcp")
    return any((end.laddr.port, end.raddr and end.raddr.port) == pair for end in ends)


def who_reads_nothing(client: httpx.Client) -> socket.socket:
    """A client that asks for much and leaves it there."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((client.base_url.host, client.base_url.port))
    line.sendall(ASK)
    return line


def all_of(line: socket.socket, pause: Callable[[], None] = lambda: None) -> int:
    """How many bytes come until the end."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while got := line.recv(1 << 16):
            count += len(got)
            pause()
    return count


def test_health_answers_in_a_crowd_of_silent_sockets(
    models: dict[str, infer.Model], clip: bytes
) -> None:
    """Who has said nothing for longest makes room; a request under way is not touched."""
    with (
        held(models["still"]) as let_go,
        server_of(models, connections=6, head_seconds=NEVER) as (client, app),
        ThreadPoolExecutor(1) as pool,
        contextlib.ExitStack() as stack,
    ):
        asked = pool.submit(client.post, PREDICT, files={"video": clip})
        until(lambda: app.state.service.desk.waiting == 1)
        silent = [stack.enter_context(connected(client)) for _ in range(40)]
        assert [fresh(client, path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        until(lambda: sum(map(is_open, silent)) < 6)
        assert is_open(silent[-1]) and not any(map(is_open, silent[:34]))
        let_go()
        assert asked.result().status_code == 200


def test_when_all_connections_are_busy_others_are_told_to_come_again(
    models: dict[str, infer.Model], clip: bytes
) -> None:
    with (
        held(models["still"]) as let_go,
        server_of(models, connections=2) as (client, app),
        ThreadPoolExecutor(2) as pool,
    ):
        asked = [pool.submit(client.post, PREDICT, files={"video": clip}) for _ in range(2)]
        until(lambda: app.state.service.desk.waiting == 2)
        refused = fresh(client, "/v1/models")
        assert "more than 2 connections" in told_problem(refused, 503)
        assert refused.headers["retry-after"] == "1"
        assert [fresh(client, path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        let_go()
        assert [each.result().status_code for each in asked] == [200, 200]
        assert fresh(client, "/v1/models").status_code == 200


def test_who_does_not_read_the_answer_is_cut_off(models: dict[str, infer.Model]) -> None:
    with (
        large_of(models, unread_seconds=0.3) as (client, _),
        who_reads_nothing(client) as line,
    ):
        until(lambda: is_kept(client, line))
        until(lambda: not is_kept(client, line))
        assert 0 < all_of(line) < LARGE


def test_who_reads_slowly_gets_all(models: dict[str, infer.Model]) -> None:
    """The kernel may not hold so much that nothing seems to be read in between."""
    limits = {"unread_seconds": 1.5, "least_bytes_a_second": 1000}
    with large_of(models, **limits) as (client, _), connected(client) as line:
        line.sendall(ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        turns = iter(range(60))

        def slowly() -> None:
            if next(turns, None) is not None:
                threading.Event().wait(0.1)

        assert all_of(line, slowly) > LARGE


def test_a_crowd_that_does_not_read_makes_room(models: dict[str, infer.Model]) -> None:
    with (
        large_of(models, connections=3, unread_seconds=NEVER) as (client, _),
        contextlib.ExitStack() as stack,
    ):
        lines = [stack.enter_context(who_reads_nothing(client)) for _ in range(8)]
        assert fresh(client, "/v1/models").status_code == 200
        until(lambda: sum(is_kept(client, line) for line in lines) < 3)


def test_connections_leave_files_for_the_rest() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    try:
        most = [protocol(Allowed(connections=count)).crowd.most for count in (100, 1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most == [100, 300]
