"""The training loop: takes a model, an optimizer and batches; gives one `Step` after another.

Knows neither Ray nor MLflow, neither files nor the plan. Whoever iterates decides what to log
and when to write a checkpoint.
"""

import functools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from clipmill import augment, device
from clipmill.errors import RunError
from clipmill.plugin import Sample
from clipmill.takes import Draw, View


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
    clip_norm: float | None = None


@dataclass(frozen=True)
class Step:
    """What one step did; metrics are tensors on the device until someone asks."""

    number: int  # steps done, this one included
    metrics: dict[str, torch.Tensor]
    digests: list[bytes]
    learning_rate: float
    wait_seconds: float  # for the next batch
    copy_seconds: float  # to the device, and preparing it there; beside the step where it can be
    compute_seconds: float


def steps(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Sample],
    loop: Loop,
    *,
    done: int = 0,
) -> Iterator[Step]:
    """Train on each batch in turn, the first being step `done` + 1."""
    model.train()
    prepare = functools.partial(augment.prepared, view=loop.view, training=True)
    times = device.Times()
    before, asked = device.Times(), time.perf_counter()
    for number, ready in enumerate(
        device.to_device(batches, loop.device, prepare, times=times), done + 1
    ):
        came = time.perf_counter()
        rate = _set_learning_rate(optimizer, factor(loop.schedule, number - 1, loop.steps))
        _reseed(loop, number)
        metrics = _step(model, optimizer, ready.tensors, loop)
        digests = [bytes(row) for row in np.ascontiguousarray(ready.batch["digest"])]
        waited = min(came - asked, times.wait_seconds - before.wait_seconds)
        copied = times.copy_seconds + times.prepare_seconds
        copied -= before.copy_seconds + before.prepare_seconds
        before, over = replace(times), time.perf_counter()
        yield Step(number, metrics, digests, rate, waited, copied, over - came)
        asked = time.perf_counter()


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    loop: Loop,
) -> dict[str, torch.Tensor]:
    # A rank with fewer takes than its share counts less: the gradient is that of the whole batch.
    weight = len(tensors["position"]) * loop.world / loop.batch
    metrics: dict[str, torch.Tensor] = {}

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _precision(loop):
            outputs = model(tensors)
        loss: torch.Tensor = outputs["loss"]
        (loss * weight).backward()  # type: ignore[no-untyped-call]
        metrics.update({name: value.detach().float().mean() for name, value in outputs.items()})
        metrics["gradient_norm"] = _clipped(model, loop.clip_norm)
        return loss.detach()

    optimizer.step(closure)  # type: ignore[arg-type]
    return metrics


def _clipped(model: torch.nn.Module, norm: float | None) -> torch.Tensor:
    limit = math.inf if norm is None else norm
    return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)


def _precision(loop: Loop) -> AbstractContextManager[object]:
    if loop.precision == "bf16":
        return torch.autocast(loop.device, dtype=torch.bfloat16)
    return nullcontext()


def resolved_precision(asked: str, device: str) -> str:
    """`auto` is bf16 where the device computes in it, fp32 on CPUs."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def _reseed(loop: Loop, number: int) -> None:
    # Dropout and the like depend on the step alone, so that a resumed step is the same step.
    place = np.array([number * 4096 + loop.rank])
    torch.manual_seed(int(Draw(loop.seed).bits("step", place)[0] >> np.uint64(1)))


def factor(schedule: str, done: int, total: int) -> float:
    """The share of the learning rate at a step: a pure function of the step."""
    if schedule == "constant":
        return 1.0
    share = done / max(1, total)
    warm = 0.25
    if share < warm:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / warm)) / 2
    return 0.001 + 0.999 * (1 + math.cos(math.pi * (share - warm) / (1 - warm))) / 2


def _set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
    return float(optimizer.param_groups[0]["lr"])


def check_finite(step: Step) -> None:
    """Stop on a loss or a gradient that is no number any more, before it is committed."""
    loss, norm = float(step.metrics["loss"]), float(step.metrics["gradient_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunError(
            f"the loss of step {step.number} is {loss}, the norm of its gradient {norm}",
            "finite numbers",
            "lower model.learning_rate or set train.clip_norm; the last checkpoint is good",
        )
