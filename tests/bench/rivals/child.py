"""One measurement in a process of its own: `python -m rivals.child JSON`, which names the job.

The answer goes into a file, as systems print what they like.
"""

import contextlib
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from clipmill import cluster
from decode import CLIP_FRAMES, CROP
from rivals import bare
from rivals.clips import Options, faster_seek_mode

Asked = dict[str, Any]
Answer = dict[str, Any]
FIRST_TRIES = 5
LEAST_EPOCHS = 11


def batches(asked: Asked, options: Options) -> Iterator[Any]:
    """Start a system; ours begins with the plan in hand, as a run does."""
    system, _, transport = str(asked["system"]).partition(":")
    if system == "clipmill_feed":
        from rivals import clipmill_feed  # here, so that a rival's process holds none of it

        if transport == "data":
            return clipmill_feed.batches_by_ray_data(asked["data"], options.batch)
        return clipmill_feed.batches(clipmill_feed.plan_of(asked["data"], options.batch), transport)  # type: ignore[arg-type]
    module = importlib.import_module(f"rivals.{system}")
    made: Iterator[Any] = module.batches(Path(asked["folder"]), options)
    return made


@contextlib.contextmanager
def warm(asked: Asked) -> Iterator[None]:
    """Have what a system needs only once a process: Ray's workers up, the libraries imported."""
    system, _, transport = str(asked["system"]).partition(":")
    if transport != "thread":
        import torch  # noqa: F401  # every rival hands over its tensors, or is used beside it
    with cluster.session() if transport in ("ray", "data") else contextlib.nullcontext():
        if system == "clipmill_feed":
            take(batches(asked, Options(**asked["options"])), 8)
        yield


def take(made: Iterator[Any], count: int) -> None:
    """Take some batches and leave the rest."""
    for _ in itertools.islice(made, count):
        pass
    made.close()  # type: ignore[attr-defined]


def refuse_wrong(batch: Any, wanted: int) -> None:
    """Stop where a system hands over something else than was asked: its speed is nothing."""
    array = np.asarray(batch)
    told = (wanted, CLIP_FRAMES, CROP, CROP, 3)
    if array.shape != told or array.dtype != np.uint8 or array.std(axis=(1, 2, 3, 4)).min() < 2:
        raise SystemExit(f"a batch of {array.dtype} {array.shape}, wanted pictures, uint8 {told}")


# --- the jobs


def prepare(asked: Asked) -> Answer:
    """Write the films as a system wants them."""
    module = importlib.import_module(f"rivals.{asked['system']}")
    folder = Path(asked["folder"])
    folder.mkdir(parents=True)
    module.prepare([Path(film) for film in asked["options"]["films"]], folder)
    return {}


def settings(asked: Asked) -> Answer:
    """Find what holds for all systems of this storage."""
    from rivals import clipmill_feed

    step = clipmill_feed.start_step(asked["data"]) if asked["ladder"] else 1
    return {"start_step": step, "seek_mode": faster_seek_mode(asked["options"]["films"], step)}


def bare_rate(asked: Asked) -> Answer:
    """The limit."""
    return bare.rate(Options(**asked["options"]), asked["seconds"], asked["system"])


def rate(asked: Asked) -> Answer:
    """Clips a second from asking for the first batch on, and from its arrival on."""
    options = Options(**asked["options"])
    with warm(asked):
        before, began = bare.machine_cpu_seconds(), time.perf_counter()
        made = batches(asked, options)
        refuse_wrong(next(made), options.batch)
        first = time.perf_counter()
        for count in itertools.count(1):  # noqa: B007
            if (now := time.perf_counter()) >= first + asked["seconds"]:
                break
            next(made)
        cpu = bare.machine_cpu_seconds() - before
        made.close()
    clips = count * options.batch
    return {
        "rate": clips / (now - began),
        "later_rate": (clips - options.batch) / (now - first),
        "first_seconds": first - began,
        "cpu_ms": 1e3 * cpu / clips,
    }


def waiting(asked: Asked) -> Answer:
    """The share of the time that a pretended step waits for its batch, after the first."""
    with warm(asked):
        made = batches(asked, Options(**asked["options"]))
        next(made)
        began, waited, steps = time.perf_counter(), 0.0, 0
        while (asked_at := time.perf_counter()) < began + asked["seconds"]:
            next(made)
            waited += time.perf_counter() - asked_at
            time.sleep(asked["step_seconds"])
            steps += 1
        share = waited / (time.perf_counter() - began)
        made.close()
    return {"share": share, "steps": steps}


def first_batch(asked: Asked) -> Answer:
    """Seconds to the first batch of a feed, Ray being up and not for the first time."""
    seconds, options = [], Options(**asked["options"])
    with warm(asked):
        for _ in range(FIRST_TRIES):
            began = time.perf_counter()
            made = batches(asked, options)
            next(made)
            seconds.append(time.perf_counter() - began)
            take(made, 4)
    return {"seconds": median(seconds)}


def memory(asked: Asked) -> Answer:
    """How memory grows by the epoch, in this process and in all that it started."""
    from rivals import clipmill_feed

    options, me = Options(**asked["options"]), psutil.Process()
    plan = clipmill_feed.plan_of(asked["data"], options.batch)
    told: list[tuple[float, float]] = []
    with warm(asked):
        made, began = batches(asked, options), time.perf_counter()
        while len(told) < LEAST_EPOCHS or time.perf_counter() < began + asked["seconds"]:
            for _ in itertools.islice(made, plan.takes_per_epoch // options.batch):
                pass
            told.append((me.memory_info().rss / 1e6, private_megabytes(me)))
        made.close()
    own, all_of_it = np.polyfit(np.arange(len(told) - 1), np.array(told[1:]), 1)[0].tolist()
    return {"own": own, "all": all_of_it, "epochs": len(told) - 1, "megabytes": told[-1][0]}


def private_megabytes(me: psutil.Process) -> float:
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().uss
    return total / 1e6


JOBS: dict[str, Callable[[Asked], Answer]] = {
    "prepare": prepare,
    "settings": settings,
    "bare": bare_rate,
    "rate": rate,
    "waiting": waiting,
    "first batch": first_batch,
    "memory": memory,
}


def main() -> None:
    asked: Asked = json.loads(sys.argv[1])
    answer = JOBS[asked["job"]](asked)
    Path(asked["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
