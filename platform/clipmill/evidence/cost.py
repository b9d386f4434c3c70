"""What a network costs: its parameters, and the operations of one clip.

Counted on the meta device, where nothing is computed: the largest network takes a moment. A
multiplication and the addition after it count as two operations.
"""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipmill import infer
from clipmill.contract.case import Case
from clipmill.plugin import Plugin


@dataclass(frozen=True)
class Cost:
    """Of one network."""

    parameters: int
    flops: int | None  # of one clip at test; None where they cannot be counted


def counted(plugin: Plugin, classes: int) -> Cost:
    """Count a plugin's network for so many classes."""
    names = tuple(f"class {place}" for place in range(classes))
    with torch.device("meta"):
        module = infer.build(plugin, names, restored=True).eval()
    parameters = sum(weight.numel() for weight in module.parameters())
    try:
        return Cost(parameters, _flops(plugin, module, "meta"))
    except (RuntimeError, NotImplementedError):  # something of it needs numbers
        pass
    try:
        real = infer.build(plugin, names, restored=True).eval()
        return Cost(parameters, _flops(plugin, real, "cpu"))
    except RuntimeError:
        return Cost(parameters, None)


def _flops(plugin: Plugin, module: torch.nn.Module, device: str) -> int:
    case = Case(plugin)
    batch = {name: t.to(device) for name, t in case.batch(case.takes("test")[:1], "test").items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.predict(batch)  # type: ignore[operator]
    return int(counter.get_total_flops())
