"""The learning rate at a step: a pure function of the step, so nothing of it need be kept."""

import math

import torch

WARM_SHARE = 0.25  # of one-cycle, where no number of steps is asked for
LOW, END = 0.04, 0.001  # shares of the rate where one-cycle begins, and where schedules end


def factor(schedule: str, done: int, total: int, warmup_steps: int = 0) -> float:
    """The share of the learning rate after `done` steps of `total`."""
    warm = warmup_steps or (WARM_SHARE * total if schedule == "one-cycle" else 0)
    if done < warm:
        if schedule == "one-cycle":
            return LOW + (1 - LOW) * _rising(done / warm)
        return (done + 1) / warm
    if schedule == "constant":
        return 1.0
    return END + (1 - END) * (1 - _rising((done - warm) / max(1, total - warm)))


def _rising(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give each group its share of the rate that it began with; return that of the first."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
    return float(optimizer.param_groups[0]["lr"])
