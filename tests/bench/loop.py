"""What the platform costs a step: its loop against a bare one, a checkpoint against torch.save.

The network is a narrow C3D, on one thread, on tensors that lie in memory: nothing is decoded and
nothing prepared; but for a whole worker, which decodes, logs and commits beside it and is set against
the bare loop by the clock. `python tests/bench/loop.py` shows the figures alone.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from clipmill import launch, recipe, train
from clipmill.checkpoint import Keeper, Saved, State
from clipmill.takes import View
from clipmill.train import Loop
from clipmill_classify.c3d_network import C3DNetwork
from row import Row, cpu_seconds_in_turns, ratio
from start import dataset

FRAMES, SIZE, CLASSES = 8, 56, 8
VIEW = View(frames=FRAMES, size=SIZE, resize=SIZE)
STEPS = 8  # of a turn
WIDTH, TAKES = 0.125, 16
LEAST_BYTES = 100e6  # of weights and optimizer that a checkpoint holds
MOST_ROUNDS = 7

Batch = dict[str, NDArray[np.generic]]


class OnTensors(C3DNetwork):
    """The network on clips that are floats already, under a name that is prepared no more."""

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss of a batch."""
        return super().forward({"rgb": batch["clip"], "target": batch["target"]})


@dataclass(frozen=True)
class Work:
    """A network, its optimizer and one batch for it."""

    model: C3DNetwork
    optimizer: torch.optim.Optimizer
    batch: Batch
    channels_last: bool = False

    @property
    def loop(self) -> Loop:
        takes = len(self.batch["target"])
        return Loop(VIEW, batch=takes, steps=STEPS, seed=0, channels_last=self.channels_last)


def work(width: float, takes: int, *, channels_last: bool = False) -> Work:
    """Make a network of some width and a batch of some takes."""
    torch.manual_seed(0)
    model = OnTensors(
        classes=CLASSES, clip=(FRAMES, SIZE, SIZE), width=width, dropout=0.1, batch_norm=True
    )
    rng = np.random.default_rng(0)
    batch: Batch = {
        "clip": rng.normal(size=(takes, 3, FRAMES, SIZE, SIZE)).astype(np.float32),
        "target": rng.integers(0, CLASSES, takes),
        "position": np.arange(takes),
        "seed": np.arange(takes, dtype=np.uint64),
        "digest": np.zeros((takes, 32), np.uint8),
    }
    train.arranged(model, channels_last=channels_last, remat=False, compiled=False)
    return Work(model, torch.optim.AdamW(model.parameters(), lr=1e-3), batch, channels_last)


def ours(given: Work) -> None:
    """Some steps of the platform's loop."""
    batches = itertools.repeat(given.batch, STEPS)
    for step in train.steps(given.model, given.optimizer, batches, given.loop):
        float(step.metrics["loss"])


def bare(given: Work) -> None:
    """The same steps as a page of PyTorch has them."""
    names = ("clip", "target")
    tensors = {name: torch.from_numpy(given.batch[name]) for name in names}
    given.model.train()
    for _ in range(STEPS):
        given.optimizer.zero_grad(set_to_none=True)
        loss = given.model(tensors)["loss"]
        loss.backward()
        given.optimizer.step()
        loss.item()


def seconds_of(what: Callable[[], object]) -> float:
    """Wall time."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


class Pauses:
    """Steps with a checkpoint in their middle, and how long the loop stood still for it."""

    def __init__(self, given: Work, folder: str) -> None:
        self.given, self.keeper = given, Keeper(folder, keep=1)
        self.seconds = 0.0

    def _before_update(self) -> None:
        self.seconds += seconds_of(self.keeper.taken)

    def measured(self) -> float:
        """Take a step, begin a checkpoint, take another, and wait for the commit."""
        self.seconds, given = 0.0, self.given
        saved = Saved(given.model, given.optimizer)
        steps: Iterator[train.Step] = train.steps(
            given.model, given.optimizer, itertools.repeat(given.batch, 2), given.loop,
            before_update=self._before_update,
        )  # fmt: skip
        next(steps)
        state = State(1, 0, "", "", "", "")
        self.seconds = seconds_of(lambda: self.keeper.save(state, saved))
        next(steps)
        self.keeper.wait()
        return self.seconds


def saved_plainly(given: Work, folder: str) -> float:
    """Write the same state as torch.save does it, with the loop standing still."""
    state = {"model": given.model.state_dict(), "optimizer": given.optimizer.state_dict()}
    return seconds_of(lambda: torch.save(state, Path(folder) / "plain.pt"))


def checkpoints(rounds: int) -> tuple[float, float, float]:
    """Seconds of a plain save, seconds of our pause, and the median of their ratios."""
    given = work(width=0.42, takes=4)
    with tempfile.TemporaryDirectory() as folder:
        pauses = Pauses(given, folder)
        pauses.measured()  # memory for the first snapshot is new
        held = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        assert held >= LEAST_BYTES, f"only {held} bytes"
        saved_plainly(given, folder)
        pairs = [(saved_plainly(given, folder), pauses.measured()) for _ in range(rounds)]
    plain, ours_ = ([pair[at] for pair in pairs] for at in (0, 1))
    return median(plain), median(ours_), ratio(plain, ours_)


def worked(data: str) -> float:
    """Seconds of a step of a whole worker: fed by threads, each step logged, some committed."""
    with tempfile.TemporaryDirectory(prefix="clipmill-bench-") as folder:
        asked = {
            "run": {"name": "run", "folder": folder},
            "data": {"path": data, "validate": "none"},
            "model": {
                "plugin": "c3d", "width": WIDTH, "frames": FRAMES, "size": SIZE, "resize": SIZE,
                "dropout": 0.1, "batch_norm": True,
            },
            "train": {"steps": 2 * STEPS, "batch": TAKES, "workers": 0, "log_every": 1, "checkpoint_every": 3},
        }  # fmt: skip
        plain = recipe.load(asked, []).plain()
        launch.work({"recipe": plain, "folder": folder, "transport": "thread"})
        times = [row["time"] for row in launch.read_metrics(launch.Folder(folder).metrics)]
    return (times[-1] - times[STEPS - 1]) / STEPS  # the first half fills the feed


def by_the_clock(given: Work, rounds: int) -> tuple[float, float]:
    """Seconds of a bare step, and the median of what part of a worker's step it is."""
    data = dataset()
    worked(data)
    bare(given)
    pairs = [(seconds_of(lambda: bare(given)) / STEPS, worked(data)) for _ in range(rounds)]
    plain, whole = ([pair[at] for pair in pairs] for at in (0, 1))
    return median(plain), ratio(plain, whole)


def measure(rounds: int) -> list[Row]:
    """Return the figures of the loop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        given = work(WIDTH, TAKES)
        last = work(WIDTH, TAKES, channels_last=True)
        seconds = cpu_seconds_in_turns(
            {
                "bare": lambda: bare(given),
                "ours": lambda: ours(given),
                "channels last": lambda: ours(last),
            },
            rounds,
        )
        clock, share = by_the_clock(given, min(rounds, MOST_ROUNDS))
        plain, pause, times = checkpoints(min(rounds, MOST_ROUNDS))
    finally:
        torch.set_num_threads(threads)
    rate = STEPS / median(seconds["bare"])
    return [
        Row(
            "loop/steps over a bare PyTorch loop",
            ratio(seconds["bare"], seconds["ours"]),
            "of the bare loop's rate, in CPU seconds",
            against=f"the same network on the same tensors, {rate:.3g} steps a second",
            at_least=0.97,
        ),
        Row(
            "loop/steps of a whole worker over a bare PyTorch loop, by the clock",
            share,
            "of the bare loop's rate",
            against=f"the same network on tensors in memory, {1 / clock:.3g} steps a second; "
            "the worker decodes its clips on the other core, logs each step, commits each third",
        ),
        Row(
            "loop/channels_last of C3D",
            ratio(seconds["ours"], seconds["channels last"]),
            "times the steps of a CPU second",
            against="the same network and loop with train.channels_last=false",
        ),
        Row(
            "loop/torch.save over checkpoint pause",
            times,
            "times",
            against=f"torch.save of the same state, {1000 * plain:.3g} ms; "
            f"the pause is {1000 * pause:.3g} ms",
            at_least=10.0,
        ),
    ]


if __name__ == "__main__":
    for row in measure(MOST_ROUNDS):
        print(f"{row.name}: {row.value:.3g} {row.unit}, against {row.against}")
