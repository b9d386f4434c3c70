"""Answers over HTTP against the bare decode and forward of the same file in a process.

A film of 10 s at 720p, and C3D as its paper has it. The server is a process of its own; so is the
bare loop. The clients are threads here, and their CPU seconds are taken off the wall under load.
`python tests/bench/serve.py --rounds 1` is a quick look.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import httpx
import numpy as np

import decode
from row import Row

TOKEN = "of-the-benchmark"
CORES = os.cpu_count() or 1
CLIENTS = 8 * CORES
ROOM = CLIENTS  # how many may wait for a decoder
FRAMES = 300  # 10 s
FIELDS: dict[str, Any] = {"plugin": "c3d"}
CLASSES = tuple(f"class {number}" for number in range(101))
PREDICT = "/v1/models/paper/predict"
FEWEST = 5  # requests one at a time


def measure(rounds: int) -> list[Row]:
    """Return what HTTP, uploads and processes cost, alone and under load."""
    film = decode.ordinary_h264(
        itertools.islice(itertools.chain(decode.film(0), decode.film(1)), FRAMES)
    )
    requests = max(FEWEST, rounds)
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        _save(folder)
        bare = _bare(folder, film, requests)
        with _server(folder) as address:
            _ask(address, film)
            alone = [_ask(address, film)[1] for _ in range(requests)]
            loaded = _under_load(address, film, CLIENTS * max(1, rounds // 2))
            refused = _beyond_the_limit(address, film)
    return [
        Row(
            "serve, one at a time: bare decode and forward as a share of its p50",
            median(bare["seconds"]) / median(alone),
            "x",
            f"infer.answer in a process, {median(bare['seconds']) * 1000:.0f} ms",
            round(1 / 1.15, 3),
            {"ms p50": median(alone) * 1000, "ms p99": _percentile(alone, 99) * 1000},
        ),
        Row(
            f"serve, {CLIENTS} clients: share of the bare loop's videos a second",
            loaded["rate"] / bare["rate"],
            "x",
            f"the faster of one loop and one a core, {bare['rate']:.2f} videos/s; the clients' CPU taken off",
            0.9,
            {"s p99": loaded["p99"], "failed": loaded["failed"], "429 above the limit": refused},
        ),
    ]


def _percentile(seconds: list[float], share: float) -> float:
    return float(np.percentile(seconds, share))


# --- other processes


def _save(folder: str) -> None:
    import torch

    from clipmill import infer, recipe, video

    told = {"run": {"name": "paper"}, "data": {"path": "none"}, "model": FIELDS}
    own = recipe.parse(told)
    torch.manual_seed(0)
    network = infer.build(own.plugin(), CLASSES)
    infer.save(folder, infer.Model(network, own, CLASSES, video.Profile("training")))


def _serve(folder: str, tell: Connection) -> None:
    from clipmill import infer, serve

    source = serve.fixed("paper", infer.load(folder).to(infer.device()))
    app = serve.make_app([source], token=TOKEN, allowed=serve.Allowed(waiting=ROOM))
    app.state.service.warm()
    serve.run(app, port=0, token=TOKEN, ready=tell.send)


@contextlib.contextmanager
def _server(folder: str) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(folder, told))
    process.start()
    try:
        yield heard.recv()
    finally:
        process.terminate()
        process.join()


def _loop(folder: str, film: bytes, requests: int, tell: Connection) -> None:
    """The bare loop: once one after the other, once one a core."""
    from clipmill import infer

    model = infer.load(folder).to(infer.device())
    infer.answer(model, film)
    seconds = []
    for _ in range(requests):
        began = time.perf_counter()
        infer.answer(model, film)
        seconds.append(time.perf_counter() - began)
    rates = [1 / median(seconds)]
    with ThreadPoolExecutor(CORES) as pool:
        began, count = time.perf_counter(), max(requests, 2 * CORES)
        list(pool.map(lambda _: infer.answer(model, film), range(count)))
        rates.append(count / (time.perf_counter() - began))
    tell.send({"seconds": seconds, "rate": max(rates)})


def _bare(folder: str, film: bytes, requests: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=_loop, args=(folder, film, requests, told))
    process.start()
    answer: dict[str, Any] = heard.recv()
    process.join()
    return answer


# --- clients


_kept = threading.local()


def _client(address: str) -> httpx.Client:
    """One connection a thread."""
    if getattr(_kept, "address", None) != address:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        _kept.client = httpx.Client(base_url=address, headers=headers, timeout=600, trust_env=False)
        _kept.address = address
    client: httpx.Client = _kept.client
    return client


def _ask(address: str, film: bytes) -> tuple[int, float]:
    began = time.perf_counter()
    response = _client(address).post(PREDICT, files={"video": ("film.mp4", film)})
    return response.status_code, time.perf_counter() - began


def _under_load(address: str, film: bytes, count: int) -> dict[str, float]:
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(CLIENTS) as pool:
        told = list(pool.map(lambda _: _ask(address, film), range(count)))
    wall = time.perf_counter() - began - (time.process_time() - used) / CORES
    failed = sum(status != 200 for status, _ in told)
    if failed:
        raise RuntimeError(f"{failed} of {count} requests below the limit failed")
    p99 = _percentile([seconds for _, seconds in told], 99)
    return {"rate": count / wall, "p99": p99, "failed": failed}


def _beyond_the_limit(address: str, film: bytes) -> int:
    """How many are told to come again when more come than it lets in; no other answer will do."""
    from clipmill.serve import Allowed

    count = Allowed().decoders + ROOM + CLIENTS
    with ThreadPoolExecutor(count) as pool:
        told = Counter(
            status for status, _ in pool.map(lambda _: _ask(address, film), range(count))
        )
    if strange := set(told) - {200, 429}:
        raise RuntimeError(f"answered {sorted(strange)}")
    if not told[429]:
        raise RuntimeError(f"none of {count} at once was told to come again")
    return told[429]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure serving.")
    parser.add_argument("--rounds", type=int, default=5)
    for row in measure(parser.parse_args().rounds):
        print(row)


if __name__ == "__main__":
    main()
