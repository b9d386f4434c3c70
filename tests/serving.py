"""Small real models behind real HTTP, for the tests of serving."""

import contextlib
import io
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import torch
from fastapi import FastAPI
from numpy.typing import NDArray

from clipmill import infer, recipe, serve, video
from clipmill.serve.listen import server_on

TOKEN = "a-token-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MAX_BYTES = 300_000
CLASSES = ("down", "left", "right", "up")
PREDICT = "/v1/models/still/predict"
PROBLEM = "application/problem+json"
ALLOWED = serve.Allowed(max_bytes=MAX_BYTES, max_batch_bytes=2 * MAX_BYTES)
VERSIONS = {"still": "3"}

FIELDS: dict[str, dict[str, Any]] = {
    "still": {"plugin": "single_frame", "width": 0.125, "size": 32, "resize": 32, "test_clips": 2},
    "moving": {"plugin": "c3d", "width": 0.125, "size": 32, "resize": 36, "frames": 8},
}


def model_of(name: str, seed: int = 0) -> infer.Model:
    """A network that has learnt nothing, always the same of a seed."""
    return made(name, FIELDS[name], seed)


def made(name: str, fields: Mapping[str, Any], seed: int = 0) -> infer.Model:
    """The same of any plugin."""
    told = {"run": {"name": name}, "data": {"path": "data/none"}, "model": dict(fields)}
    own = recipe.parse(told)
    torch.manual_seed(seed)
    network = infer.build(own.plugin(), CLASSES)
    figures = {"metrics": {"accuracy": 0.25}}
    return infer.Model(network, own, CLASSES, video.Profile("training"), figures)


def app_of(
    models: Mapping[str, infer.Model],
    token: str | None = TOKEN,
    allowed: serve.Allowed = ALLOWED,
) -> FastAPI:
    """The service of some models."""
    sources = [serve.fixed(name, model, VERSIONS.get(name)) for name, model in models.items()]
    return serve.make_app(sources, token=token, allowed=allowed)


def visitor(address: str, headers: Mapping[str, str] = BEARER) -> httpx.Client:
    """A client of a server."""
    return httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False)


@contextlib.contextmanager
def client_of(app: FastAPI, headers: Mapping[str, str] = BEARER) -> Iterator[httpx.Client]:
    """Serve an app on a free port by a thread of this process, and open a client to it."""
    listening: queue.Queue[str] = queue.Queue()
    with serve.bind("127.0.0.1", 0) as door:
        server = server_on(door, app, host="127.0.0.1", token=TOKEN, ready=listening.put)
        thread = threading.Thread(target=server.run, args=([door],))
        thread.start()
        try:
            with visitor(listening.get(timeout=60), headers) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
            app.state.service.close()


def walk(
    frames: int = 50, size: tuple[int, int] = (48, 64), fps: float = 25, seed: int = 0
) -> bytes:
    """A bright square that walks over noise; two seconds of it."""
    return video_of(pictures(frames, size, seed), fps)


def pictures(
    frames: int = 50, size: tuple[int, int] = (48, 64), seed: int = 0
) -> NDArray[np.uint8]:
    """The frames of a walk."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 60, (frames, *size, 3), dtype=np.uint8)
    for place, frame in enumerate(made):
        frame[16:32, place % 50 : place % 50 + 14] = 230
    return made


def video_of(frames: NDArray[np.uint8], fps: float = 25) -> bytes:
    """These frames as a file."""
    out = io.BytesIO()
    video.encode(out, frames, fps=fps)
    return out.getvalue()


def told_problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem, after a look at the rest of it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body.keys() == {"type", "title", "status", "detail"}
    assert body["status"] == status
    return str(body["detail"])


def numbers_in(value: Any) -> list[float]:
    """All numbers of an answer, in its order."""
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers_in(inner)]
    if isinstance(value, list):
        return [n for inner in value for n in numbers_in(inner)]
    return [float(value)] if isinstance(value, int | float) else []


def texts_in(value: Any) -> list[str]:
    """All texts of an answer, in its order: names of classes, labels, masks that are packed."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_in(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts_in(inner)]
    return [value] if isinstance(value, str) else []
