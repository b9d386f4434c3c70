"""Serving: a real small network behind real HTTP, in this process and in one of its own."""

import asyncio
import base64
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from clipmill import api, cores, infer, serve
from clipmill.cli import app as cli_app
from clipmill.errors import BusyError, UsageError
from clipmill.serve.app import _as_json
from clipmill.serve.listen import SameHost, address_of, server_on
from clipmill.serve.page import PAGE
from serving import (
    CLASSES,
    FIELDS,
    MAX_BYTES,
    PREDICT,
    PROBLEM,
    TOKEN,
    app_of,
    client_of,
    model_of,
    numbers_in,
    told_problem,
    visitor,
    walk,
)

KIND = "Content-Type: multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def models() -> dict[str, infer.Model]:
    return {name: model_of(name) for name in FIELDS}


@pytest.fixture(scope="module")
def clip() -> bytes:
    return walk()


@pytest.fixture(scope="module")
def client(models: dict[str, infer.Model]) -> Iterator[httpx.Client]:
    with client_of(app_of(models)) as made:
        yield made


@pytest.fixture(scope="module")
def open_client(models: dict[str, infer.Model]) -> Iterator[httpx.Client]:
    with client_of(app_of(models, token=None), {}) as made:
        yield made


# --- answers


@pytest.mark.parametrize("name", FIELDS)
def test_an_answer_is_that_of_infer(
    client: httpx.Client, models: dict[str, infer.Model], clip: bytes, name: str
) -> None:
    response = client.post(f"/v1/models/{name}/predict", files={"video": ("walk.mp4", clip)})
    assert response.status_code == 200
    told = response.json()
    assert (told.pop("model"), told.pop("version")) == (name, "3" if name == "still" else None)
    direct = infer.answer(models[name], clip)
    assert told.keys() == direct.keys()
    assert [each["name"] for each in told["classes"]] == [
        each["name"] for each in direct["classes"]
    ]
    assert numbers_in(told) == pytest.approx(numbers_in(direct), abs=1e-5)
    assert sum(each["probability"] for each in told["classes"]) == pytest.approx(1, abs=1e-5)
    assert told["input"]["frames"] == 50


def test_the_file_name_and_its_kind_do_not_matter(client: httpx.Client, clip: bytes) -> None:
    one = client.post(PREDICT, files={"video": ("walk.mp4", clip, "video/mp4")})
    other = client.post(PREDICT, files={"video": ("../x.txt", clip, "text/plain")})
    assert one.status_code == 200
    assert one.json() == other.json()


def test_requests_at_once_get_their_own_answers(client: httpx.Client, clip: bytes) -> None:
    names = [*FIELDS] * 4
    answers: dict[int, Any] = {}

    def ask(place: int) -> None:
        path = f"/v1/models/{names[place]}/predict"
        answers[place] = client.post(path, files={"video": ("v", clip)}).json()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[place]["model"] for place in range(len(names))] == names
    for place, answer in answers.items():
        assert numbers_in(answer) == pytest.approx(numbers_in(answers[place % 2]), abs=1e-5)


def test_the_event_loop_turns_while_a_network_works(clip: bytes) -> None:
    """The network waits until the health of the server was asked."""
    asked, model = threading.Event(), model_of("still")
    waited: list[bool] = []
    predict = model.module.predict

    def patient(*given: Any) -> Any:
        waited.append(asked.wait(60))
        return predict(*given)

    model.module.predict = patient
    with client_of(app_of({"still": model})) as client:
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(client.post(PREDICT, files={"video": ("v", clip)}))
        )
        thread.start()
        assert client.get("/healthz").status_code == 200
        asked.set()
        thread.join()
    assert answers[0].status_code == 200
    assert waited
    assert all(waited)


def test_the_event_loop_turns_while_a_large_answer_is_written() -> None:
    answer = {"moments": np.linspace(0, 1, 600_000).reshape(-1, 100).tolist()}

    async def turns() -> tuple[int, bytes]:
        writing, count = asyncio.create_task(_as_json(answer)), 0
        while not writing.done():
            await asyncio.sleep(0.001)
            count += 1
        return count, bytes(writing.result().body)

    count, body = asyncio.run(turns())
    assert count > 10
    assert json.loads(body) == answer


# --- what is told of the models


def test_the_models_are_listed(client: httpx.Client) -> None:
    told = client.get("/v1/models").json()
    assert told["max_bytes"] == MAX_BYTES
    assert [card["name"] for card in told["models"]] == ["moving", "still"]
    card = told["models"][1]
    assert card["version"] == "3"
    assert card["plugin"] == "single_frame"
    assert card["classes"] == list(CLASSES)
    assert card["protocol"]["clips"] == 2
    assert card["figures"] == {"metrics": {"accuracy": 0.25}}
    assert card["predict"] == PREDICT
    assert card["takes_pictures"] and not told["models"][0]["takes_pictures"]
    assert (card["state"], card["fault"]) == ("ready", "")


def test_health_and_readiness_need_no_token(models: dict[str, infer.Model]) -> None:
    with client_of(app_of(models), {}) as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        for path in ("/", "/healthz", "/readyz"):  # as some load balancers ask
            asked = client.head(path)
            assert (asked.status_code, asked.content) == (200, b"")
        told = client.get("/readyz").json()
    assert told == {"status": "ready", "models": {"moving": "ready", "still": "ready"}}


def test_the_schema_tells_what_is_answered(client: httpx.Client, clip: bytes) -> None:
    schema = client.get("/openapi.json").json()
    post = schema["paths"]["/v1/models/{name}/predict"]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"].keys() == {"video", "frames"}
    assert post["security"]
    told = {"200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503"}
    assert told == post["responses"].keys()
    assert post["responses"]["413"]["content"].keys() == {PROBLEM}
    example = schema["components"]["schemas"]["Answer"]["example"]
    answer = client.post(PREDICT, files={"video": ("v", clip)}).json()
    assert example.keys() == answer.keys()
    assert example["input"].keys() == answer["input"].keys()
    assert example["spans"][0].keys() == answer["spans"][0].keys()
    assert example["classes"][0].keys() == answer["classes"][0].keys()


# --- what is refused


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"just some words, and no video at all\n" * 50, "video"),
        (b"", "an empty file"),
        (b"\0" * 5000, "video"),
    ],
)
def test_what_is_no_video_is_refused(client: httpx.Client, content: bytes, told: str) -> None:
    response = client.post(PREDICT, files={"video": ("words.mp4", content)})
    detail = told_problem(response, 400)
    assert told in detail
    assert "\n" not in detail


def test_a_video_cut_off_is_answered_or_refused(client: httpx.Client, clip: bytes) -> None:
    response = client.post(PREDICT, files={"video": ("cut.mp4", clip[: len(clip) // 2])})
    assert response.status_code in (200, 400)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"files": {"film": ("v", b"x")}}, "'film'"),
        ({"files": [("video", ("a", b"x")), ("video", ("b", b"x"))]}, "2 files in 'video'"),
        ({"files": {"video": ("v", b"x")}, "data": {"topk": "5"}}, "'topk'"),
        ({"files": {"other": (None, "1")}}, "'other'"),
        ({"files": {"video": (None, "text")}}, "text in the field 'video'"),
    ],
)
def test_a_wrong_form_is_refused(client: httpx.Client, sent: dict[str, Any], told: str) -> None:
    detail = told_problem(client.post(PREDICT, **sent), 400)
    assert told in detail
    assert "'video'" in detail


@pytest.mark.parametrize("content", [b"", b"nonsense", b"--b\r\nX: y\r\n\r\n", b"--b--\r\n"])
def test_a_broken_form_is_refused(client: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    told_problem(client.post(PREDICT, content=content, headers=headers), 400)


def test_another_kind_of_body_is_refused(client: httpx.Client) -> None:
    assert "application/json" in told_problem(client.post(PREDICT, json={"video": 1}), 415)
    assert "nothing" in told_problem(client.post(PREDICT), 415)


def test_an_unknown_model_is_refused_with_the_known_ones(client: httpx.Client) -> None:
    response = client.post("/v1/models/styll/predict", files={"video": ("v", b"x")})
    assert told_problem(response, 404) == "no model 'styll'; wanted one of moving, still"


def test_an_unknown_path_and_method_are_problems_too(client: httpx.Client) -> None:
    assert "/nowhere" in told_problem(client.get("/nowhere"), 404)
    response = client.get(PREDICT)
    told_problem(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, "no token"),
        ({"Authorization": "Bearer wrong"}, "a wrong token"),
        ({"Authorization": f"Bearer {TOKEN}x"}, "a wrong token"),
        ({"Authorization": "Bearer"}, "no token"),
        ({"Authorization": f"Basic {TOKEN}"}, "no token"),
        ({"Authorization": "Bearer pässword".encode()}, "a wrong token"),
    ],
)
def test_who_brings_no_token_is_refused(
    models: dict[str, infer.Model], clip: bytes, headers: dict[str, Any], told: str
) -> None:
    with client_of(app_of(models), {}) as client:
        for response in (
            client.get("/v1/models", headers=headers),
            client.post(PREDICT, files={"video": ("v", clip)}, headers=headers),
            client.post("/v1/models/unknown/predict", headers=headers),
        ):
            assert told in told_problem(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in response.text


def test_without_a_token_the_server_is_open(open_client: httpx.Client) -> None:
    assert open_client.get("/v1/models").status_code == 200


def test_the_limit_is_that_of_the_video_and_not_of_the_form(client: httpx.Client) -> None:
    just = client.post(PREDICT, files={"video": ("v", b"x" * MAX_BYTES)})
    assert "video" in told_problem(just, 400)  # read whole: it is none
    over = client.post(PREDICT, files={"video": ("v", b"x" * (MAX_BYTES + 1))})
    assert f"more than {MAX_BYTES} bytes" in told_problem(over, 413)
    far = client.post(PREDICT, files={"video": ("v", b"x" * (MAX_BYTES * 4))})
    told_problem(far, 413)


def test_a_failure_of_the_server_is_logged_and_tells_strangers_nothing(
    clip: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    model = model_of("still")

    def broken(*given: Any) -> Any:
        raise RuntimeError("a secret of the house")

    model.module.predict = broken
    with client_of(app_of({"still": model})) as client:
        response = client.post(PREDICT, files={"video": ("v", clip)})
        assert "secret" not in told_problem(response, 500)
        assert client.get("/healthz").status_code == 200
    assert "a secret of the house" in capfd.readouterr().err


def test_an_answer_that_is_no_number_is_told_in_its_place(clip: bytes) -> None:
    model = model_of("still")
    predict = model.module.predict

    def diverged(*given: Any) -> Any:
        result, state = predict(*given)
        return {name: values * float("nan") for name, values in result.items()}, state

    model.module.predict = diverged
    with client_of(app_of({"still": model_of("still"), "ill": model})) as client:
        response = client.post("/v1/models/ill/predict", files={"video": ("v", clip)})
        assert "is no number in its probabilities" in told_problem(response, 500)
        several = client.post("/v1/models/ill/batch", files=[("video", ("v", clip))] * 2)
        assert [each["problem"]["status"] for each in several.json()["answers"]] == [500, 500]
        assert client.post(PREDICT, files={"video": ("v", clip)}).status_code == 200


def test_an_app_needs_models_and_a_token_that_is_one() -> None:
    with pytest.raises(UsageError, match="no models"):
        serve.make_app([], token=TOKEN)
    with pytest.raises(UsageError, match="an empty token"):
        app_of({"still": model_of("still")}, token="")


def limits_of(monkeypatch: pytest.MonkeyPatch, **options: Any) -> serve.Allowed:
    """The limits of the server that these options open."""
    told: list[serve.Allowed] = []

    def make_app(*_: Any, allowed: serve.Allowed, **__: Any) -> None:
        told.append(allowed)
        raise UsageError("told enough")

    monkeypatch.setattr(serve, "make_app", make_app)
    monkeypatch.setattr(
        "clipmill.api.serving._sources", lambda *_: [serve.fixed("still", model_of("still"))]
    )
    with pytest.raises(UsageError, match="told enough"):
        api.serve(["still"], port=0, **options)
    return told[0]


def test_there_are_as_many_decoders_as_asked_for_or_cores_to_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, few = limits_of(monkeypatch), limits_of(monkeypatch, decoders=3)
    assert usual.decoders == cores.usable() and usual.waiting == 16 * usual.decoders
    assert (few.decoders, few.waiting) == (3, 48)


def test_a_decoder_may_hold_the_largest_video_beside_all_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, large = limits_of(monkeypatch), limits_of(monkeypatch, max_mb=600)
    more = large.max_bytes - usual.max_bytes
    assert large.cell.memory_bytes == usual.cell.memory_bytes + more and more == 400 << 20
    assert limits_of(monkeypatch, max_mb=1).cell == usual.cell


def test_an_empty_token_is_refused_and_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "clipmill.api.serving._sources", lambda *_: [serve.fixed("still", model_of("still"))]
    )
    with pytest.raises(UsageError, match="an empty token"):
        api.serve(["still"], port=0, token="")


def test_tokens_are_long_and_differ() -> None:
    tokens = {serve.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32,}", token) for token in tokens)


# --- the page


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    response = client.get("/", headers={"Authorization": ""})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    used = re.findall(r"""(?:src|href|action)=["']([^"']+)|url\(([^)]+)\)|@import""", response.text)
    assert all(address.startswith("data:") for address, _ in used)
    assert set(re.findall(r"https?://[^\s'\"]+", response.text)) == {"http://www.w3.org/2000/svg"}


def test_the_page_may_run_its_own_script_and_no_other(client: httpx.Client) -> None:
    response = client.get("/")
    rules = dict(
        rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; ")
    )
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    html = PAGE.read_text()
    assert not re.search(r"<[^>]+\s(?:on\w+|style)=", html)  # the rules would stop those


def test_the_page_names_its_controls() -> None:
    html = PAGE.read_text()
    assert '<html lang="en">' in html
    controls = re.findall(r"<(?:input|select)\b[^>]*\bid=\"(\w+)\"", html)
    assert set(controls) == {"model", "token", "file", "masked", "least"}
    for control in controls:
        assert f'for="{control}"' in html
    # Every element that the script reaches for is there.
    ids = set(re.findall(r'\bid="([\w-]+)"', html))
    assert set(re.findall(r"\bat\('([\w-]+)'\)", html)) - ids == {"now"}  # made by the script


# --- listening


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield int(holder.getsockname()[1])


def test_a_port_in_use_is_told(models: dict[str, infer.Model]) -> None:
    with held_port() as port:
        told = rf"port {port} on 127.0.0.1 is in use; wanted a free port; .*--port, 0"
        with pytest.raises(BusyError, match=told):
            serve.run(app_of(models), port=port, token=TOKEN)
        with pytest.raises(BusyError, match=told):
            serve.bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 70_000, "port 70000; wanted one from 0 to 65535"),
        ("192.0.2.1", 0, "an address of this machine"),
        ("no such host", 0, "an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_is_told(host: str, port: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        serve.bind(host, port)


def test_an_open_server_is_kept_on_loopback(models: dict[str, infer.Model]) -> None:
    with pytest.raises(UsageError, match=r"no token on 0\.0\.0\.0"):
        serve.run(app_of(models, token=None), host="0.0.0.0", port=0, token=None)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("0.0.0.0", socket.gethostname()),
    ],
)
def test_an_address_can_be_opened_as_it_is_told(host: str, told: str) -> None:
    with serve.bind(host, 0) as listener:
        assert address_of(listener, host) == f"http://{told}:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example:8000"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Host": "localhost:8000", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
    ],
)
def test_loopback_answers_only_to_its_own_names_and_page(
    open_client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    response = open_client.get("/v1/models", headers=headers)
    assert response.status_code == status
    if status != 200:
        told_problem(response, status)


def test_a_name_of_loopback_may_be_written_in_capitals(models: dict[str, infer.Model]) -> None:
    app = app_of(models)
    with serve.bind("LOCALHOST", 0) as door:
        config = server_on(door, app, host="MyMachine", token=TOKEN).config

    async def status() -> int:
        transport = httpx.ASGITransport(config.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://MyMachine") as client:
            return (await client.get("/healthz")).status_code

    assert anyio.run(status) == 200
    app.state.service.close()


def test_on_a_network_it_answers_to_the_names_that_it_was_told(
    models: dict[str, infer.Model],
) -> None:
    """Probes come by address, and are answered by whatever name they call it."""
    app, own = app_of(models), socket.gethostname()
    with serve.bind("0.0.0.0", 0) as door:
        told = server_on(door, app, host="0.0.0.0", token=TOKEN, names=["Mill.example"]).config
        untold = server_on(door, app, host="0.0.0.0", token=TOKEN).config
    hosts = ("mill.example", "MILL.example:8000", own, "localhost:8000", "10.0.0.5", "evil.example")

    async def statuses(config: Any, path: str) -> list[int]:
        transport = httpx.ASGITransport(config.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return [(await client.get(path, headers={"Host": h})).status_code for h in hosts]

    assert anyio.run(statuses, told, "/openapi.json") == [200] * 4 + [421] * 2
    for path in ("/healthz", "/readyz"):
        assert anyio.run(statuses, told, path) == [200] * 6
    assert anyio.run(statuses, untold, "/openapi.json") == [200] * 6
    app.state.service.close()


def test_the_command_line_tells_a_server_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(serve, "run", lambda app, **options: told.append(options["names"]))
    monkeypatch.setattr(
        "clipmill.api.serving._sources", lambda *_: [serve.fixed("still", model_of("still"))]
    )
    words = ["serve", "still", "--port", "0", "--name"]
    ran = CliRunner().invoke(cli_app, [*words, "a.example", "--name", "B.example"])
    assert ran.exit_code == 0, ran.output
    assert told == [{"a.example", "b.example"}]
    for bad in ("https://a.example", "a.example:80", ""):
        ran = CliRunner().invoke(cli_app, [*words, bad])
        assert ran.exit_code != 0 and "a host name alone" in f"{ran.exception} {ran.output}"


def test_on_a_network_pages_of_others_are_refused_too(models: dict[str, infer.Model]) -> None:
    """By which names others reach the server it cannot know; where a request comes from it can."""
    app = app_of(models)

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(SameHost(app, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://mill.example") as client:
            origins = ({}, {"Origin": "http://mill.example"}, {"Origin": "https://evil.example"})
            return [(await client.get("/healthz", headers=each)).status_code for each in origins]

    assert anyio.run(statuses) == [200, 200, 403]
    app.state.service.close()


# --- a process of its own


def serve_until_stopped(folder: str, tell: Connection) -> None:
    """Load a model folder and serve it: what the child process runs."""
    app = app_of({"still": infer.load(folder)})
    left: list[int] = []
    serve.run(app, port=0, token=TOKEN, ready=tell.send, leaving=left.append)
    app.state.service.close()
    tell.send(("stopped", left))


Stop = Callable[..., int | None]


@contextlib.contextmanager
def process_of(folder: Path, model: infer.Model) -> Iterator[tuple[str, Stop]]:
    infer.save(str(folder), model)
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=serve_until_stopped, args=(str(folder), told))
    process.start()
    told.close()

    def stop(which: int, left: int = 0, then: Callable[[int], object] | None = None) -> int | None:
        assert process.pid is not None
        os.kill(process.pid, which)
        if then:
            then(process.pid)
        assert heard.poll(60)
        assert heard.recv() == ("stopped", [left] if left else [])
        process.join(60)
        return process.exitcode

    try:
        assert heard.poll(120)
        yield heard.recv(), stop
    finally:
        process.kill()
        process.join()
        process.close()
        heard.close()


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60)


def head_of(client: httpx.Client, *lines: str) -> bytes:
    host = client.base_url.netloc.decode()
    fixed = [f"POST {PREDICT} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {TOKEN}"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def answer_on(line: socket.socket) -> tuple[int, str]:
    with line.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        headers = dict(iter(lambda: header_of(reader.readline()), ("", "")))
        return status, reader.read(int(headers["content-length"])).decode()


def header_of(line: bytes) -> tuple[str, str]:
    name, _, value = line.decode().strip().partition(": ")
    return name.lower(), value


def test_too_much_is_refused_while_it_is_read(client: httpx.Client) -> None:
    """Send chunks that never end: the refusal has to come all the same."""
    start = b'--b\r\nContent-Disposition: form-data; name="video"; filename="endless.mp4"\r\n\r\n'
    with connected(client) as line:
        line.sendall(head_of(client, KIND, "Transfer-Encoding: chunked"))
        line.sendall(b"%x\r\n%s\r\n" % (len(start), start))
        for _ in range(MAX_BYTES // 4096 + 17):
            line.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        status, body = answer_on(line)
    assert status == 413
    assert "at most" in json.loads(body)["detail"]


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
def test_a_large_length_or_a_wrong_token_is_refused_before_the_body(
    client: httpx.Client, token: str
) -> None:
    head = head_of(client, KIND, f"Content-Length: {MAX_BYTES * 1000}", "Expect: 100-continue")
    with connected(client) as line:
        line.sendall(head.replace(TOKEN.encode(), token.encode()))
        assert answer_on(line)[0] == (413 if token == TOKEN else 401)  # and no 100 before it


def test_a_client_that_goes_away_is_forgotten(
    models: dict[str, infer.Model], clip: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with client_of(app_of(models)) as client:
        with connected(client) as line:
            line.sendall(head_of(client, KIND, "Content-Length: 200000") + b"--b\r\n")
        assert client.post(PREDICT, files={"video": clip}).status_code == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "which", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_server_after_its_answers(
    models: dict[str, infer.Model], clip: bytes, tmp_path: Path, which: int
) -> None:
    start = b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
    body = start + clip + b"\r\n--b--\r\n"
    with (
        process_of(tmp_path, models["still"]) as (address, stop),
        visitor(address) as client,
        connected(client) as line,
    ):
        line.sendall(head_of(client, KIND, f"Content-Length: {len(body)}") + body[:1000])
        assert client.get("/healthz").status_code == 200  # so the server has the first part
        with futures.ThreadPoolExecutor(1) as pool:
            ending = pool.submit(stop, which, 1)
            wait_until_refused(client)
            line.sendall(body[1000:])
            status, answer = answer_on(line)
            assert ending.result() == 0
    assert status == 200
    direct = infer.answer(models["still"], clip)
    assert numbers_in(json.loads(answer)["classes"]) == pytest.approx(
        numbers_in(direct["classes"]), abs=1e-5
    )


def test_a_second_ctrl_c_cuts_off_and_says_so(
    models: dict[str, infer.Model], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        process_of(tmp_path, models["still"]) as (address, stop),
        visitor(address) as client,
        connected(client) as line,
    ):
        line.sendall(head_of(client, KIND, "Content-Length: 200000") + b"--b\r\n")
        assert client.get("/healthz").status_code == 200  # so the server has the first part

        def again(process: int) -> None:
            wait_until_refused(client)
            os.kill(process, signal.SIGINT)

        assert stop(signal.SIGINT, 1, again) == 0
        status, body = answer_on(line)
    assert status == 503
    assert "the server has ended" in json.loads(body)["detail"]
    assert "Traceback" not in capfd.readouterr().err


def wait_until_refused(client: httpx.Client) -> None:
    for _ in range(6000):
        try:
            connected(client).close()
        except ConnectionRefusedError:
            return
        threading.Event().wait(0.01)
    pytest.fail("the server still listens")
