"""Step after step: a batch, its gradient in one or several parts, an update or none.

Knows neither files nor the plan; what is computed and where has been settled before.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed

from clipmill import augment, checkpoint, device
from clipmill.errors import PluginError, RunError
from clipmill.plugin import Sample
from clipmill.takes import Draw, View
from clipmill.train.average import Average
from clipmill.train.computing import autocast, in_format
from clipmill.train.guard import Guard
from clipmill.train.parallel import held_back
from clipmill.train.schedule import factor, set_learning_rate

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Loop:
    """The settings of a loop."""

    view: View
    batch: int  # takes of a global batch
    steps: int
    seed: int
    rank: int = 0
    world: int = 1
    device: str = "cpu"
    precision: str = "fp32"
    schedule: str = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    accumulate: int = 1  # parts of a rank's batch, one after another
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.accumulate > self.batch // self.world:
            raise RunError(
                f"a batch of {self.batch} on {self.world} workers in {self.accumulate} parts",
                "at least one take in each",
                "lower train.accumulate",
            )


@dataclass(frozen=True)
class Step:
    """What one step did; metrics are tensors on the device until someone asks."""

    number: int  # steps done, this one included
    metrics: Tensors
    digests: list[bytes]
    learning_rate: float
    wait_seconds: float  # for the next batch
    copy_seconds: float  # to the device, and preparing it there; beside the step where it can be
    compute_seconds: float
    seconds: float  # all of it, from asking for the batch on


@dataclass(frozen=True)
class Engine:
    """What takes the steps: a model that is called, and what changes its weights."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loop: Loop
    average: Average | None
    guard: Guard
    before_update: Callable[[], None]


def steps(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Sample],
    loop: Loop,
    *,
    done: int = 0,
    average: Average | None = None,
    guard: Guard | None = None,
    before_update: Callable[[], None] = lambda: None,
) -> Iterator[Step]:
    """Train on each batch in turn, the first being step `done` + 1.

    `before_update` is called when a step has its gradient and before any weight changes.
    """
    model.train()
    engine = Engine(model, optimizer, loop, average, guard or Guard(), before_update)
    prepare = functools.partial(augment.prepared, view=loop.view, training=True)
    times = device.Times()
    before, asked = device.Times(), time.perf_counter()
    ready_ones = device.to_device(batches, loop.device, prepare, times=times)
    for number, ready in enumerate(ready_ones, done + 1):
        came = time.perf_counter()
        rate, metrics = _step(engine, number, ready.tensors)
        digests = [bytes(row) for row in np.ascontiguousarray(ready.batch["digest"])]
        waited = min(came - asked, times.wait_seconds - before.wait_seconds)
        copied = times.copy_seconds + times.prepare_seconds
        copied -= before.copy_seconds + before.prepare_seconds
        before, over = replace(times), time.perf_counter()
        yield Step(number, metrics, digests, rate, waited, copied, over - came, over - asked)
        asked = time.perf_counter()


def _step(engine: Engine, number: int, tensors: Tensors) -> tuple[float, Tensors]:
    loop, guard = engine.loop, engine.guard
    share = factor(loop.schedule, number - 1, loop.steps, loop.warmup_steps)
    rate = set_learning_rate(engine.optimizer, share)
    _reseed(loop, number)
    parts = parted(in_format(tensors, loop.channels_last), loop.accumulate)
    metrics: Tensors = {}
    kept = _buffers(engine.model) if guard.is_asked else {}

    def closure() -> torch.Tensor:
        engine.optimizer.zero_grad(set_to_none=True)
        metrics.update(_gradient(engine, parts))
        norm = metrics["gradient_norm"] = _clipped(engine.model, loop.clip_norm)
        if guard.is_asked and guard.refuses(float(norm)):
            # Without a gradient an optimizer changes nothing, not even what it remembers.
            engine.optimizer.zero_grad(set_to_none=True)
        engine.before_update()
        return metrics["loss"]

    engine.optimizer.step(closure)  # type: ignore[arg-type]
    if guard.is_asked and guard.refused:
        _put_back(engine.model, kept)
    elif engine.average is not None:
        engine.average.update(number)
    return rate, metrics


def _gradient(engine: Engine, parts: list[Tensors]) -> Tensors:
    """Add up the gradient of a rank's batch, part by part, and give its metrics."""
    loop, takes = engine.loop, [len(part["position"]) for part in parts]
    metrics: Tensors = {}
    for at, (part, count) in enumerate(zip(parts, takes, strict=True)):
        with held_back(engine.model, at + 1 < len(parts)):
            with autocast(loop.precision, loop.device):
                outputs = engine.model(part)
            # A rank with fewer takes than its share, or a part of a batch, counts less: the
            # gradient is that of the whole batch.
            (outputs["loss"] * (count * loop.world / loop.batch)).backward()
        for name, value in outputs.items():
            mean = value.detach().float().mean() * (count / sum(takes))
            metrics[name] = metrics[name] + mean if name in metrics else mean
    return metrics


def parted(tensors: Tensors, count: int) -> list[Tensors]:
    """Cut a batch into parts of some takes each, as equal as can be."""
    if count == 1:
        return [tensors]
    takes = len(tensors["position"])
    odd = [name for name, x in tensors.items() if not x.ndim or len(x) != takes]
    if odd:
        raise PluginError(
            f"{odd[0]} of {list(tensors[odd[0]].shape)} in a batch of {takes} takes",
            "a row for each take, to be trained on in parts",
            "set train.accumulate=1",
        )
    edges = [takes * at // count for at in range(count + 1)]
    bounds = [(low, high) for low, high in itertools.pairwise(edges) if high > low]
    return [{name: x[low:high] for name, x in tensors.items()} for low, high in bounds]


def _clipped(model: torch.nn.Module, norm: float | None) -> torch.Tensor:
    limit = math.inf if norm is None else norm
    return checkpoint.whole(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))


def _buffers(model: torch.nn.Module) -> Tensors:
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def _put_back(model: torch.nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    # Running statistics have already seen what was refused.
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])


def _reseed(loop: Loop, number: int) -> None:
    # Dropout and the like depend on the step alone, so that a resumed step is the same step.
    place = np.array([number * 4096 + loop.rank])
    seed = int(Draw(loop.seed).bits("step", place)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(seed)  # torch.manual_seed costs more than a small network
    if loop.device == "cuda":
        torch.cuda.manual_seed(seed)


def over_all_ranks(metrics: Mapping[str, torch.Tensor], takes: int, loop: Loop) -> dict[str, float]:
    """The metrics of the whole batch, of which this rank saw some takes; all ranks must ask."""
    names = sorted(metrics)
    told = torch.stack([metrics[name].detach().float() for name in names])
    if loop.world > 1:
        norm = told[names.index("gradient_norm")].clone()  # it is of the whole batch already
        told = told * (takes / loop.batch)
        torch.distributed.all_reduce(told)
        told[names.index("gradient_norm")] = norm
    return dict(zip(names, told.tolist(), strict=True))
