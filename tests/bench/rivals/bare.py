"""The limit: clipmill's decoder on bytes in memory, in as many processes or threads as cores.

No transport at all: clips are made and dropped.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from clipmill import video
from decode import CROP, SHORT_SIDE
from rivals.clips import WORKERS, Options, chance, random_place


@dataclass(frozen=True)
class Film:
    stored: bytes
    index: bytes

    def part(self, at: int, size: int) -> bytes:
        return self.stored[at : at + size]


def machine_cpu_seconds() -> float:
    """What all cores together have worked so far, whoever for."""
    times = psutil.cpu_times()._asdict()
    return sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))


def decode_until(films: list[Film], start_step: int, end: float) -> int:
    """Decode random clips up to a time; return how many."""
    rng, clips = chance(), 0
    while time.monotonic() < end:
        film = films[int(rng.integers(len(films)))]
        numbers, top, left = random_place(rng, start_step)
        index, box = video.unpacked(film.index), (top, left, CROP, CROP)
        video.decode_indexed(index, film.part, numbers, short_side=SHORT_SIDE, crop=box)
        clips += 1
    return clips


def rate(options: Options, seconds: float, kind: str) -> dict[str, float]:
    """Clips, wall seconds and the machine's CPU seconds."""
    paths = [Path(film) for film in options.films]
    films = [Film(path.read_bytes(), path.with_suffix(".idx").read_bytes()) for path in paths]
    decode_until(films, options.start_step, time.monotonic() + 0.5)
    spread = in_processes if kind == "processes" else in_threads
    before, began = machine_cpu_seconds(), time.monotonic()
    clips = spread(lambda: decode_until(films, options.start_step, began + seconds))
    taken = time.monotonic() - began
    cpu = machine_cpu_seconds() - before
    return {"clips": clips, "seconds": taken, "rate": clips / taken, "cpu_ms": 1e3 * cpu / clips}


def in_threads(work: Callable[[], int]) -> int:
    done: list[int] = []
    threads = [threading.Thread(target=lambda: done.append(work())) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def in_processes(work: Callable[[], int]) -> int:
    fork = multiprocessing.get_context("fork")  # the films are in memory already
    done = fork.SimpleQueue()
    processes = [fork.Process(target=lambda: done.put(work())) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    clips = sum(done.get() for _ in processes)
    for process in processes:
        process.join()
    return int(clips)
