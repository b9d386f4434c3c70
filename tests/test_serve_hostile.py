"""Serving those who mean harm: hostile uploads, slow clients, crowds; nobody else notices."""

import contextlib
import io
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import psutil
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings

from clipmill import infer, jail
from clipmill.serve import decoding
from hostile import REFUSED, Bait, Corpus, bait, bitmap, corpus, lures, pictures
from serving import (
    ALLOWED,
    BEARER,
    FIELDS,
    PREDICT,
    TOKEN,
    app_of,
    client_of,
    model_of,
    numbers_in,
    told_problem,
    visitor,
    walk,
)
from test_serve import KIND, answer_on, connected, head_of, process_of

START = b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
NEVER = 60.0
BATCH = "/v1/models/still/batch"


@pytest.fixture(scope="module")
def models() -> dict[str, infer.Model]:
    return {name: model_of(name) for name in FIELDS}


@pytest.fixture(scope="module")
def clips() -> list[bytes]:
    return [walk(), walk(30, seed=1), walk(12, (64, 48), 12, seed=2)]


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    with bait(tmp_path_factory.mktemp("bait")) as made:
        yield made


@pytest.fixture(scope="module")
def hostile(clips: list[bytes], laid: Bait) -> Corpus:
    return corpus(clips[0], laid)


@pytest.fixture(scope="module")
def client(models: dict[str, infer.Model]) -> Iterator[httpx.Client]:
    with client_of(app_of(models)) as opened:
        yield opened


def refuses_each(client: httpx.Client, field: str, hostile: Corpus) -> None:
    for name, (data, statuses) in hostile.items():
        response = client.post(PREDICT, files={field: ("v.mp4", data)})
        assert response.status_code in statuses, f"{name}: {response.text}"
        if response.status_code != 200:
            detail = told_problem(response, response.status_code)
            assert "\n" not in detail and not re.search("0x[0-9a-f]{6}|Traceback|/tmp", detail), (
                name
            )
            assert "root:" not in detail, name  # of /etc/passwd


def test_each_hostile_upload_is_refused_in_one_line(
    client: httpx.Client, hostile: Corpus, laid: Bait
) -> None:
    refuses_each(client, "video", hostile)
    assert laid.came == []  # nobody looked whether there is something


def test_each_hostile_picture_is_refused_in_one_line(
    client: httpx.Client, clips: list[bytes], laid: Bait
) -> None:
    refuses_each(client, "frames", pictures(clips[0], laid))
    assert laid.came == []
    each_will_do = [("frames", ("v.png", bitmap(8_000)))] * 10
    assert client.post(PREDICT, files=each_will_do[:1]).status_code == 200
    assert client.post(PREDICT, files=each_will_do).status_code in REFUSED
    assert client.post(PREDICT, files={"video": clips[0]}).status_code == 200


def test_a_decoder_that_heeds_no_rule_would_follow_the_lures(tmp_path: Path) -> None:
    rules = {"protocol_whitelist": "file,http,tcp,crypto", "safe": "0"}
    with bait(tmp_path) as laid:
        for name, data in lures(laid).items():
            before, kind = len(laid.came), "concat" if "join" in name else "hls"
            with (
                contextlib.suppress(av.FFmpegError),  # what is no key, and no playlist
                av.open(io.BytesIO(data), format=kind, options=rules) as film,
            ):
                assert len(list(film.decode(video=0))) >= 50, name
            is_file = "file" in name or "path" in name
            assert is_file or len(laid.came) > before, name


def mixed(
    client: httpx.Client,
    hostile: Corpus,
    good: Mapping[tuple[str, bytes], Any],
    count: int,
    *,
    seed: int = 0,
) -> Counter[int]:
    """Send good and hostile requests from several clients at once; every good one is answered rightly."""
    chance, seen = random.Random(seed), Counter[int]()
    wanted, harm = list(good), list(hostile)
    orders = [
        chance.choice(wanted) if chance.random() < 0.6 else chance.choice(harm)
        for _ in range(count)
    ]

    def ask(order: tuple[str, bytes] | str) -> None:
        name, data = (
            (order[0], order[1]) if isinstance(order, tuple) else ("still", hostile[order][0])
        )
        response = client.post(f"/v1/models/{name}/predict", files={"video": ("v", data)})
        seen[response.status_code] += 1
        if isinstance(order, tuple):
            assert response.status_code == 200, response.text
            assert numbers_in(response.json()["classes"]) == pytest.approx(good[order], abs=1e-5)
        else:
            assert response.status_code in hostile[order][1], (order, response.text)

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(ask, orders):
            pass
    return seen


def right(models: Mapping[str, infer.Model], clips: list[bytes]) -> dict[tuple[str, bytes], Any]:
    return {
        (name, clip): numbers_in(infer.answer(model, clip)["classes"])
        for name, model in models.items()
        for clip in clips
    }


def test_among_the_hostile_every_good_video_is_answered_rightly(
    client: httpx.Client, models: dict[str, infer.Model], clips: list[bytes], hostile: Corpus
) -> None:
    seen = mixed(client, hostile, right(models, clips), 160)
    assert seen[200] >= 80 and seen.keys() <= {200, 400, 413}


@pytest.mark.slow
def test_ten_thousand_mixed_requests_leave_no_trace(
    models: dict[str, infer.Model], clips: list[bytes], hostile: Corpus, tmp_path: Path
) -> None:
    good = right({"still": models["still"]}, clips)
    with process_of(tmp_path, models["still"]) as (address, _), visitor(address) as client:
        told = []
        for turn in range(20):
            mixed(client, hostile, good, 500, seed=turn)
            told.append((resident_bytes(client), decoding_bytes()))
    for name, held in zip(("server", "decoders"), zip(*told, strict=True), strict=True):
        before, after = max(held[:4]), max(held[4:])
        print(f"{name}: {before / 1e6:.0f} MB at most in 2,000, {after / 1e6:.0f} MB in 8,000 more")
        assert after <= 1.1 * before, name


def resident_bytes(client: httpx.Client) -> float:
    (told,) = re.findall(r"^process_resident_memory_bytes (\S+)", client.get("/metrics").text, re.M)
    return float(told)


def decoding_bytes() -> int:
    """What all decoders hold; one that was just ended holds nothing."""
    held = 0
    for each in decoders():
        with contextlib.suppress(psutil.NoSuchProcess):
            held += each.memory_info().rss
    return held


def decoders() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended in between
            if "clipmill import jail" in " ".join(each.cmdline()):
                found.append(each)
    return found


def test_a_decoder_that_is_killed_comes_again(client: httpx.Client, clips: list[bytes]) -> None:
    assert client.post(PREDICT, files={"video": clips[0]}).status_code == 200
    killed = decoders()
    assert killed
    for each in killed:
        each.kill()
    assert client.post(PREDICT, files={"video": clips[0]}).status_code == 200


def test_a_decoder_that_lies_is_ended_and_another_comes(
    models: dict[str, infer.Model], clips: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "TARGET", "misbehaving:lie")
    with server_of(models, decoders=1) as (client, app):
        app.state.service.warm()
        before = {each.pid for each in decoders()}
        refused = client.post(PREDICT, files={"video": clips[0]})
        assert "came to no good end" in told_problem(refused, 400)
        until(lambda: app.state.service.desk.decoders.busy == 0)
        after = {each.pid for each in decoders()}
        assert len(before - after) == len(after - before) == 1
        assert "clipmill_decoder_failures_total 1.0" in client.get("/metrics").text


def test_a_decoder_has_no_token_and_none_of_the_settings_of_its_server(
    client: httpx.Client, clips: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPMILL_TOKEN", TOKEN)
    for each in decoders():
        each.kill()
    assert client.post(PREDICT, files={"video": clips[0]}).status_code == 200
    told = [{**each.environ(), "": " ".join(each.cmdline())} for each in decoders()]
    assert told and not any(TOKEN in value for each in told for value in each.values())


# --- limits


@contextlib.contextmanager
def server_of(
    models: Mapping[str, infer.Model], **limits: Any
) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = app_of(models, allowed=replace(ALLOWED, **limits))
    with client_of(app) as client:
        yield client, app


@contextlib.contextmanager
def held(model: infer.Model) -> Iterator[Callable[[], None]]:
    """A network that waits until it is let go."""
    go, predict = threading.Event(), model.module.predict

    def patient(*given: Any) -> Any:
        assert go.wait(NEVER)
        return predict(*given)

    model.module.predict = patient
    try:
        yield go.set
    finally:
        go.set()
        model.module.predict = predict


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(6000):
        if is_so():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never came to pass")


def test_who_comes_when_all_is_busy_is_told_when_to_come_again(clips: list[bytes]) -> None:
    """Two wait, and the third is sent away, before its body; one that leaves makes room."""
    model = model_of("still")
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1, waiting=1) as (client, app),
        ThreadPoolExecutor(1) as pool,
    ):
        desk = app.state.service.desk
        waiting = pool.submit(client.post, PREDICT, files={"video": clips[0]})
        until(lambda: desk.waiting == 1)
        body = START + clips[1] + b"\r\n--b--\r\n"
        with connected(client) as line:
            line.sendall(head_of(client, KIND, f"Content-Length: {len(body)}") + body)
            until(lambda: desk.waiting == 2)
            refused = client.post(PREDICT, files={"video": clips[2]})
            assert "2 videos that wait; wanted fewer than 2" in told_problem(refused, 429)
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert client.get("/healthz").status_code == 200
        until(lambda: desk.waiting == 1)  # the line was cut
        let_go()
        assert waiting.result().status_code == 200
        until(lambda: desk.waiting == desk.receiving == 0)
        assert client.post(PREDICT, files={"video": clips[2]}).status_code == 200
        assert 'status="499"' in client.get("/metrics").text


def test_each_video_of_a_batch_waits_until_it_is_answered(clips: list[bytes]) -> None:
    model = model_of("still")
    three = [("video", ("v", clip)) for clip in clips]
    with (
        held(model) as let_go,
        server_of({"still": model}, decoders=1, waiting=3) as (client, app),
        ThreadPoolExecutor(2) as pool,
    ):
        desk = app.state.service.desk
        first = pool.submit(client.post, BATCH, files=[("video", ("v", b"no video")), *three])
        until(lambda: desk.waiting == 3)  # of four: what is no video has its answer
        assert desk.receiving == 0  # they are read
        told = told_problem(client.post(BATCH, files=three[:2]), 429)
        assert "3 videos that wait; wanted fewer than 3" in told
        last = pool.submit(client.post, PREDICT, files=three[:1])
        until(lambda: desk.waiting == 4)
        told_problem(client.post(PREDICT, files=three[:1]), 429)
        let_go()
        assert first.result().status_code == last.result().status_code == 200
        until(lambda: desk.waiting == 0)


def test_a_batch_beyond_all_room_is_answered_when_nothing_waits(
    models: dict[str, infer.Model], clips: list[bytes]
) -> None:
    three = [("video", ("v", clip)) for clip in clips]
    with server_of(models, decoders=1, waiting=1) as (client, _):
        answered = client.post(BATCH, files=three)
        assert [each["label"] for each in answered.json()["answers"]]


def test_more_uploads_than_there_is_room_for_are_sent_away(
    models: dict[str, infer.Model], clips: list[bytes]
) -> None:
    with server_of(models, receiving=0) as (client, _):
        refused = client.post(PREDICT, files={"video": clips[0]})
        assert "0 requests under way; wanted fewer than 0" in told_problem(refused, 429)
        assert refused.headers["retry-after"] == "1"


def test_a_video_that_takes_too_long_is_refused_and_its_decoder_ended(
    models: dict[str, infer.Model], clips: list[bytes]
) -> None:
    with server_of(models, decoders=1, cell=jail.Limits(seconds=0.001)) as (client, _):
        refused = client.post(PREDICT, files={"video": clips[0]})
        assert "took more than 0.001 s" in told_problem(refused, 413)
        assert "clipmill_decoder_failures_total 1.0" in client.get("/metrics").text


def test_a_slow_client_holds_nothing_and_is_told_so(
    models: dict[str, infer.Model], clips: list[bytes]
) -> None:
    with (
        server_of(models, decoders=1, waiting=0, idle_seconds=1.0, head_seconds=0.2) as (
            client,
            app,
        ),
        connected(client) as line,
        connected(client) as mute,
    ):
        line.sendall(head_of(client, KIND, "Content-Length: 9000") + START)
        mute.sendall(b"POST ")
        until(lambda: app.state.service.desk.receiving == 1)
        # The only decoder is free for others.
        assert client.post(PREDICT, files={"video": clips[0]}).status_code == 200
        status, body = answer_on(line)
        assert status == 408 and "nothing for 1 s" in body
        assert mute.recv(100) == b""  # closed: its head never came


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
def test_who_goes_on_after_the_answer_is_cut_off(
    models: dict[str, infer.Model], token: str
) -> None:
    """A body that nobody reads any more, a byte now and then, would hold its connection for ever."""
    with server_of(models, head_seconds=0.2) as (client, _), connected(client) as line:
        head = head_of(client, "Content-Type: text/plain", "Content-Length: 9000")
        line.sendall(head.replace(TOKEN.encode(), token.encode()))
        assert answer_on(line)[0] == (415 if token == TOKEN else 401)
        line.sendall(b"x")
        line.settimeout(10)
        assert line.recv(100) == b""


def test_a_trickle_is_refused(models: dict[str, infer.Model]) -> None:
    """Never idle, and still too slow."""
    limits = {"idle_seconds": 5.0, "grace_seconds": 0.1, "least_bytes_a_second": 1 << 20}
    with server_of(models, **limits) as (client, _), connected(client) as line:
        line.sendall(head_of(client, KIND, "Content-Length: 90000") + START)
        with contextlib.suppress(OSError):
            for _ in range(200):
                line.sendall(b"x" * 10)
                threading.Event().wait(0.01)
        status, body = answer_on(line)
    assert status == 408 and "bytes in" in body


# --- the schema

KEPT = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
    "ignored_auth",
)  # fmt: skip


def test_the_api_keeps_to_its_schema(models: dict[str, infer.Model]) -> None:
    """With the token, without one and with a wrong one; as the schema allows, and as it does not."""
    from schemathesis import GenerationMode, checks, openapi  # here, as it takes long to load

    checks.load_all_checks()
    kept = [checks.CHECKS.get_one(name) for name in KEPT]
    strangers: tuple[dict[str, str], ...] = ({}, {"Authorization": "Bearer wrong"})
    seen = Counter[tuple[str, int]]()
    with client_of(app_of(models)) as client:
        schema = openapi.from_dict(client.get("/openapi.json").json())
        schema.config.base_url = str(client.base_url)

        def keeps(case: Any) -> None:
            response = case.call(headers=BEARER)
            case.validate_response(response, checks=kept, headers=BEARER)
            is_closed = bool(case.operation.definition.raw.get("security"))
            told = case.call(headers=strangers[seen.total() % 2]).status_code
            assert (told == 401) == is_closed, (case.operation.label, told)
            seen[case.operation.label, response.status_code] += 1

        for found in schema.get_all_operations():
            operation = found.ok()
            strategy = operation.as_strategy()
            if operation.body:  # behind the name of a model that there is
                there = {"path_parameters": {"name": "still"}}
                bad = operation.as_strategy(GenerationMode.NEGATIVE, **there)
                strategy |= operation.as_strategy(**there) | bad
            settings(
                max_examples=20, deadline=None, database=None, derandomize=True,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )(given(case=strategy)(keeps))()  # fmt: skip
        assert client.get("/healthz").status_code == 200
    assert seen.total() > 60
    assert {status for name, status in seen if name.endswith("predict")} >= {400, 404}
