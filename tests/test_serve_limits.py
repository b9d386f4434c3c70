"""What a server holds at most: frames, uploads, work that nobody waits for; and when to come again."""

import asyncio
import contextlib
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import Request

from clipmill import infer, jail
from clipmill.errors import TooLongError, VideoError
from clipmill.serve import decoding
from clipmill.serve.allowed import Allowed
from clipmill.serve.batching import Computer
from clipmill.serve.decoding import Decoders
from clipmill.serve.desk import Pace
from clipmill.serve.shelf import Served
from clipmill.serve.upload import MEMORY_BYTES, Upload, received
from serving import ALLOWED, PREDICT, model_of, told_problem, walk
from test_serve import KIND, answer_on, connected, head_of
from test_serve_hostile import START, held, server_of, until

LENGTH = 290_000  # of a body that never comes whole


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


def decoded(client: httpx.Client) -> int:
    told = client.get("/metrics").text
    (count,) = re.findall(r"^clipmill_decode_seconds_count (\S+)", told, re.M)
    return int(float(count))


# --- work that nobody waits for


def frames_of(asked: infer.Asked) -> list[weakref.ref[Any]]:
    return [weakref.ref(column) for batch in asked.batches for column in batch.values()]


def test_work_that_nobody_waits_for_lets_its_frames_go_and_is_not_computed(clip: bytes) -> None:
    model, takes, began = model_of("still"), [], threading.Event()
    with held(model) as let_go:
        patient = model.module.predict
        model.module.predict = lambda *given: (began.set(), patient(*given))[1]
        computer = Computer(lambda _, count: takes.append(count))
        first = computer.submit(model, infer.prepared(model, clip))
        assert began.wait(60)
        left = infer.prepared(model, clip)
        frames, forgotten = frames_of(left), computer.submit(model, left)
        last = computer.submit(model, infer.prepared(model, clip))
        del left
        assert forgotten.cancel()
        assert frames and not any(each() is not None for each in frames)
        let_go()
        assert len(first.result(60)) == len(last.result(60)) == 2
        computer.close()
    assert takes == [2, 2]


def test_a_request_that_is_left_gives_back_what_was_decoded_for_it(clip: bytes) -> None:
    model, body = model_of("still"), START + clip + b"\r\n--b--\r\n"
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1) as (client, app),
        ThreadPoolExecutor(1) as pool,
    ):
        desk = app.state.service.desk
        stays = pool.submit(client.post, PREDICT, files={"video": clip})
        until(lambda: decoded(client) == 1)
        one = desk.decoders.held_bytes
        with connected(client) as line:
            line.sendall(head_of(client, KIND, f"Content-Length: {len(body)}") + body)
            until(lambda: decoded(client) == 2)
            assert desk.decoders.held_bytes == 2 * one > 0
        until(lambda: desk.decoders.held_bytes == one)
        let_go()
        assert stays.result().status_code == 200
        until(lambda: desk.decoders.held_bytes == desk.upload_bytes == 0)
        assert "clipmill_takes_total 2.0" in client.get("/metrics").text


class Slow:
    """A file whose reading takes as long as one wants."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def read(self) -> bytes:
        self.began.set()
        assert self.go.wait(60)
        return b"not much"


def patient_decoders(
    monkeypatch: pytest.MonkeyPatch, seconds: float, died: Callable[[], None] = lambda: None
) -> Decoders:
    """One process that works till it is ended."""
    monkeypatch.setattr(decoding, "TARGET", "misbehaving:tarry")
    limits = jail.Limits(seconds=seconds)
    return Decoders(replace(ALLOWED, decoders=1, cell=limits), died)


def test_decoders_close_though_a_call_begins_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders, file = patient_decoders(monkeypatch, seconds=20), Slow()

    async def interrupted() -> None:
        asking = asyncio.create_task(ask(decoders, file))
        await asyncio.to_thread(file.began.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(decoders.close))
        await asyncio.sleep(3 * decoding.CLOSING_SECONDS)
        file.go.set()
        await closing
        with pytest.raises(VideoError) as told:
            await asking
        assert type(told.value) is not TooLongError  # ended, before its time was over

    asyncio.run(interrupted())


def test_a_decoder_is_ended_that_was_left_before_its_call_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "LEFT_SECONDS", 0.05)
    file, ended = Slow(), threading.Event()
    decoders = patient_decoders(monkeypatch, 500, died=ended.set)

    async def left() -> None:
        asking = asyncio.create_task(ask(decoders, file))
        await asyncio.to_thread(file.began.wait, 60)
        asking.cancel()
        await asyncio.sleep(4 * decoding.LEFT_SECONDS)
        assert decoders.busy == 1
        file.go.set()
        assert await asyncio.to_thread(ended.wait, 60)

    with contextlib.closing(decoders):
        asyncio.run(left())


async def ask(decoders: Decoders, file: Slow) -> None:
    looks = Served(model_of("still")).looks
    async with decoders.decoded(looks, "video", [file]):
        pass


# --- what lies decoded


def test_a_slow_network_does_not_let_decoded_videos_pile_up(clip: bytes) -> None:
    """More than a byte is too much here: the decoder idles behind the first video that waits."""
    model, count = model_of("still"), 4
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1, ahead_bytes=1) as (client, app),
        ThreadPoolExecutor(count) as pool,
    ):
        desk = app.state.service.desk
        asked = [pool.submit(client.post, PREDICT, files={"video": clip}) for _ in range(count)]
        until(lambda: desk.waiting == count and decoded(client) == 1)
        threading.Event().wait(0.3)  # in which a free decoder would take the next
        assert decoded(client) == 1 and desk.decoders.busy == 0
        let_go()
        assert [each.result().status_code for each in asked] == [200] * count
        assert desk.decoders.held_bytes == 0


def test_whoever_waits_for_room_and_leaves_gives_its_turn_back(clip: bytes) -> None:
    model, body = model_of("still"), START + clip + b"\r\n--b--\r\n"
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1, ahead_bytes=1) as (client, app),
        ThreadPoolExecutor(1) as pool,
    ):
        desk = app.state.service.desk
        first = pool.submit(client.post, PREDICT, files={"video": clip})
        until(lambda: decoded(client) == 1)
        with connected(client) as line:
            line.sendall(head_of(client, KIND, f"Content-Length: {len(body)}") + body)
            until(lambda: desk.waiting == 2)
        until(lambda: desk.waiting == 1)
        let_go()
        assert first.result().status_code == 200
        assert client.post(PREDICT, files={"video": clip}).status_code == 200


# --- uploads


def test_uploads_that_are_too_much_together_are_refused_while_they_are_read(clip: bytes) -> None:
    model = model_of("still")
    with server_of({"still": model}, upload_bytes=400_000) as (client, app):
        desk, head = app.state.service.desk, head_of(client, KIND, f"Content-Length: {LENGTH}")
        with connected(client) as first, connected(client) as second:
            first.sendall(head + START + bytes(250_000))
            until(lambda: desk.upload_bytes > 250_000)
            second.sendall(head + START + bytes(200_000))  # and never the rest
            status, told = answer_on(second)
            assert status == 429 and "bytes of all requests; wanted fewer than 400001" in told
            assert "come again in 1 s" in told and desk.receiving == 1
        until(lambda: desk.upload_bytes == 0)
        assert client.post(PREDICT, files={"video": clip}).status_code == 200


def test_an_upload_counts_until_it_is_answered(clip: bytes) -> None:
    model = model_of("still")
    with (
        held(model) as let_go,
        server_of({"still": model}, upload_bytes=len(clip)) as (client, app),
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, PREDICT, files={"video": clip})  # it is alone, and may
        until(lambda: decoded(client) == 1)
        assert app.state.service.desk.upload_bytes > len(clip)
        refused = client.post(PREDICT, files={"video": clip})
        assert "bytes of all requests" in told_problem(refused, 429)
        assert refused.headers["retry-after"]
        let_go()
        assert first.result().status_code == 200
        until(lambda: app.state.service.desk.upload_bytes == 0)


def request_of(body: bytes) -> Request:
    """A request as the server hands it on."""
    pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", KIND.partition(": ")[2].encode())]
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


@pytest.mark.parametrize("size", [20_000, 30_000, 100_000, 1_000_000])
def test_of_a_request_a_megabyte_lies_in_memory_and_the_rest_on_disk(size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    body = (START + content + b"\r\n") * 32 + b"--b--\r\n"

    async def kept() -> tuple[Upload, int]:
        async with received(request_of(body), Allowed(), lambda _: None, batch=True) as upload:
            assert all(file.read() == content for file in upload.files)
            return upload, sum(file.size for file in upload.files if file._given._in_memory)

    upload, in_memory = asyncio.run(kept())
    assert len(upload.files) == 32 and in_memory <= MEMORY_BYTES


def test_texts_are_no_way_around_that(clip: bytes) -> None:
    with server_of({"still": model_of("still")}) as (client, _):
        sent = {"files": {"video": clip}, "data": {"note": "x" * 100_000}}
        assert "exceeded maximum size" in told_problem(client.post(PREDICT, **sent), 400)


# --- when to come again


def pace_by(now: list[float]) -> Callable[[float], Pace]:
    def moved(seconds: float) -> Pace:
        now[0] += seconds
        return pace

    pace = Pace(lambda: now[0])
    return moved


def test_the_wait_is_told_by_how_fast_answers_leave() -> None:
    after = pace_by([0.0])
    after(100).begin()  # nothing waited in those
    for _ in range(20):
        after(4).left()
    assert after(0).seconds(5) == pytest.approx(20)
    assert after(0).seconds(0) == 0
    for _ in range(80):
        after(0.1).left()
    assert after(0).seconds(5) == pytest.approx(0.5, rel=0.2)


def test_an_answer_that_does_not_come_counts_already() -> None:
    after = pace_by([0.0])
    assert after(30).seconds(1) == 30
    assert after(5).seconds(0) == 0


def test_a_slow_network_is_told_in_retry_after(clip: bytes) -> None:
    model, now = model_of("still"), [0.0]
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1, waiting=0) as (client, app),
        ThreadPoolExecutor(1) as pool,
    ):
        desk = app.state.service.desk
        desk.pace = Pace(lambda: now[0])
        now[0] += 100  # in which nothing waits
        waits = pool.submit(client.post, PREDICT, files={"video": clip})
        until(lambda: desk.waiting == 1)
        now[0] += 20
        refused = client.post(PREDICT, files={"video": clip})
        assert "come again in 20 s" in told_problem(refused, 429)
        assert refused.headers["retry-after"] == "20"
        let_go()
        assert waits.result().status_code == 200
        assert desk.pace.seconds(3) == 60
