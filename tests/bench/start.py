"""How long a run takes to its first step beyond what it stands on, and what a second worker brings.

In process there are two grounds: the imports of the libraries, and those with a local Ray, which a
run in process does not start; on Ray workers it is a TorchTrainer with an empty loop. Every figure is
of a process of its own, in turns. Knows nothing of the feed's own figures. `python tests/bench/start.py --rounds 1` is a quick look.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import yaml

from row import Row, ratio

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "bench" / "start"
MOST_ROUNDS = 3
ALLOWED_SECONDS = 2.5
LIBRARIES = "torch torchvision mlflow ray av cv2 numpy pyarrow pyarrow.dataset pydantic yaml rich safetensors.torch psutil typer"  # fmt: skip

IMPORTS = f"import {', '.join(LIBRARIES.split())}, time; print(time.time())"
# As every verb that needs a local Ray starts it.
INIT = f"""
from clipmill import cluster
with cluster.session():
    import {", ".join(LIBRARIES.split())}, time
    print(time.time())
"""
# As the launcher starts it, with the same quiet settings and the dashboard that Ray Train asks for
# the state of its actors, so that only the work differs.
BARE = """
import os, sys, time
from clipmill import cluster
def loop(config):
    with open(config["out"], "a") as file:
        file.write(f"{time.time()}\\n")
with cluster.session(dashboard=True):
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    TorchTrainer(
        loop, train_loop_config={"out": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0, "memory": 1}),
        run_config=RunConfig(name="bare", storage_path=sys.argv[1] + ".ray",
                             logging_config=LoggingConfig(log_level="ERROR")),
    ).fit()
print(open(sys.argv[1]).read().split()[0])
"""
TRAIN = "from clipmill.cli import main; main()"


def measure(rounds: int) -> list[Row]:
    """Return what starting costs, in process and on workers, and what two workers give."""
    data = dataset()
    seconds = in_turns(
        {
            "imports": lambda: started(IMPORTS),
            "imports and Ray": lambda: started(INIT),
            "in process": lambda: first_step(data, 0),
            "bare trainer": bare_trainer,
            "a worker": lambda: first_step(data, 1),
        },
        min(rounds, MOST_ROUNDS),
    )
    middle = {name: median(times) for name, times in seconds.items()}
    left = {
        ground: ALLOWED_SECONDS - median(over(seconds["in process"], seconds[ground]))
        for ground in ("imports", "imports and Ray")
    }
    speeds = in_turns(
        {str(count): (lambda count=count: steps_a_second(data, count)) for count in (1, 2)},  # type: ignore[misc]
        min(rounds, MOST_ROUNDS),
    )
    return [
        Row(
            "start in process: seconds left of 2.5 over bare imports",
            left["imports"],
            "s",
            f"imports alone in {middle['imports']:.2f} s",
            0.0,
            {"s to the first step": middle["in process"]},
        ),
        Row(
            "start in process: seconds left of 2.5 over bare imports and ray.init",
            left["imports and Ray"],
            "s",
            f"imports and a local Ray in {middle['imports and Ray']:.2f} s",
            0.0,
            {"s to the first step": middle["in process"]},
        ),
        Row(
            "start on a Ray worker: share of it that is Ray's own",
            ratio(seconds["bare trainer"], seconds["a worker"]),
            "x",
            f"a TorchTrainer with an empty loop, dashboard and all, {middle['bare trainer']:.2f} s",
            None,
            {"s to the first step": middle["a worker"]},
        ),
        Row(
            "two workers on two cores: share of twice the steps of one, same global batch",
            ratio(speeds["2"], speeds["1"]) / 2,
            "x",
            f"one worker, {median(speeds['1']):.2f} steps/s",
            None,
            {"steps/s of two": median(speeds["2"])},
        ),
    ]


def over(own: list[float], ground: list[float]) -> list[float]:
    """What each round took beyond the ground of the same round."""
    return [one - bare for one, bare in zip(own, ground, strict=True)]


def in_turns(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every variant once a round, every second round backwards."""
    told: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds):
        order = list(variants) if turn % 2 else list(reversed(list(variants)))
        for name in order:
            told[name].append(variants[name]())
            print(f"{name}: {told[name][-1]:.2f}", file=sys.stderr)
    return told


def dataset() -> str:
    """A small dataset, made once."""
    data = FOLDER / "data"
    if not (data / "dataset.json").exists():
        from clipmill import api

        videos = str(FOLDER / "videos")
        api.worlds_make("order", videos, videos=120, size=64)
        api.ingest(videos, str(data))
    return str(data)


def started(code: str, *words: str) -> float:
    """Seconds from the start of a process to the time that it prints."""
    began = time.time()
    told = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    return float(told.stdout.split()[-1]) - began


def bare_trainer() -> float:
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        return started(BARE, os.path.join(folder, "out"))


def run(folder: str, data: str, workers: int, steps: int, batch: int, size: int) -> list[float]:
    """Train in a process of its own; when each of its steps was over."""
    recipe = {
        "run": {"name": "run", "folder": folder},
        "data": {"path": data, "validate": "none"},
        "model": {"plugin": "single_frame", "width": 0.25, "size": size, "resize": size + 16},
        "train": {"steps": steps, "batch": batch, "workers": workers, "log_every": 1, "checkpoint_every": 1000},
    }  # fmt: skip
    path = Path(folder) / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-c", TRAIN, "train", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["time"] for line in lines]


def first_step(data: str, workers: int) -> float:
    """Seconds from the start of the command to the end of its first step."""
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        began = time.time()
        return run(folder, data, workers, 1, 2, 32)[0] - began


def steps_a_second(data: str, workers: int) -> float:
    """Steps a second once under way, where the network is the work."""
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        times = run(folder, data, workers, 50, 32, 96)
    return (len(times) - 10) / (times[-1] - times[9])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the start of a run.")
    parser.add_argument("--rounds", type=int, default=MOST_ROUNDS)
    for row in measure(parser.parse_args().rounds):
        print(row)


if __name__ == "__main__":
    main()
