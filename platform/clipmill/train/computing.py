"""How a network is computed: precision, memory format, recomputing, compiling, determinism.

All of it is done to the module in place, so that names of weights and methods stay. Knows
nothing of batches and steps.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from clipmill.errors import RunError

POOLS = (torch.nn.MaxPool2d, torch.nn.MaxPool3d, torch.nn.AvgPool2d, torch.nn.AvgPool3d)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def resolved_precision(asked: str, device: str) -> str:
    """`auto` is bf16 where the device computes in it, fp32 on CPUs."""
    if asked != "auto":
        return asked
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """What a forward pass runs under."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def arranged(
    module: torch.nn.Module, *, channels_last: bool, remat: bool, compiled: bool
) -> torch.nn.Module:
    """The same module, computed as asked."""
    if channels_last:
        for weight in [*module.parameters(), *module.buffers()]:
            if weight.ndim in FORMATS:
                weight.data = weight.data.contiguous(memory_format=FORMATS[weight.ndim])
    if remat:  # and compiled one by one: what is recomputed must stay apart
        _recompute(module, compiled)
    elif compiled:
        module.compile()
    return module


def _recompute(module: torch.nn.Module, compiled: bool) -> None:
    """Let each block be computed again in the backward pass; without blocks the stages of sequences."""
    flat = [] if _found_blocks(module) else _flat_sequences(module)
    if not flat:
        for block in blocks(module):
            block.forward = _recomputed(block, compiled)
    for sequence in flat:
        first, *rest = _stages(sequence)
        # Made of the same layers, which keep their names; what comes before the first layer with
        # weights may change its input in place, and is not done twice.
        again = [_recomputed(torch.nn.Sequential(*stage), compiled) for stage in rest]
        sequence.forward = functools.partial(  # type: ignore[method-assign]
            _in_turn, [*first, *again]
        )


def _in_turn(steps: Sequence[Callable[..., Any]], x: Any) -> Any:
    for step in steps:
        x = step(x)
    return x


def _stages(sequence: torch.nn.Sequential) -> list[list[torch.nn.Module]]:
    """What comes before its first layer that mixes channels, then some such layers at a time.

    A stage begins with one, and ends where pictures get smaller or at the root of their number:
    what stages hand on and what one of them holds are then both little (Chen et al., 2016).
    """
    most = math.ceil(math.sqrt(sum(map(_mixes, sequence))))
    stages: list[list[torch.nn.Module]] = [[]]
    room = 0  # for more of them in the stage at hand
    for layer in sequence:
        if _mixes(layer):
            if not room:
                stages.append([])
                room = most
            room -= 1
        stages[-1].append(layer)
        if isinstance(layer, POOLS):
            room = 0
    return stages


def _mixes(layer: torch.nn.Module) -> bool:
    return any(weight.ndim > 1 for weight in layer.parameters(recurse=False))


def _flat_sequences(module: torch.nn.Module) -> list[torch.nn.Sequential]:
    """The outermost sequences of single layers, as plain convolutional networks have them."""
    sequences = [each for each in _sequences(module) if isinstance(each, torch.nn.Sequential)]
    return [each for each in sequences if sum(map(_mixes, each)) > 1]


def _recomputed(block: torch.nn.Module, compiled: bool) -> Callable[..., Any]:
    """The block's forward, computed again in the backward pass, where its buffers stay."""
    forward = torch.compile(block.forward) if compiled else block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _buffers_stay(block)

    return functools.partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _buffers_stay(block: torch.nn.Module) -> Iterator[None]:
    # Running statistics would count a batch twice.
    kept = [(buffer, buffer.detach().clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.data.copy_(value)  # unseen by autograd, which may have saved the buffer


def blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts of a network that are recomputed, or held in parts, one by one.

    What the module names in an attribute `blocks`; else what stands in its outermost lists and
    sequences and has at least two layers itself: the blocks of a ResNet or a transformer.
    """
    found = _found_blocks(module)
    if not found:
        raise RunError(
            f"{type(module).__name__} has no blocks",
            "lists of blocks, or their names in an attribute `blocks`",
            "set train.remat=false",
        )
    return found


def _found_blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    named = getattr(module, "blocks", None)
    if isinstance(named, tuple | list) and all(isinstance(name, str) for name in named):
        return [module.get_submodule(name) for name in named]
    return [block for each in _sequences(module) for block in each if _layers(block) > 1]


def _sequences(module: torch.nn.Module) -> Iterator[torch.nn.Sequential | torch.nn.ModuleList]:
    """The outermost lists and sequences."""
    for child in module.children():
        if isinstance(child, torch.nn.Sequential | torch.nn.ModuleList):
            yield child
        else:
            yield from _sequences(child)


def _layers(module: torch.nn.Module) -> int:
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def in_format(tensors: dict[str, torch.Tensor], channels_last: bool) -> dict[str, torch.Tensor]:
    """Clips and pictures with their channels last in memory, if asked."""
    if not channels_last:
        return tensors
    return {
        name: x.contiguous(memory_format=FORMATS[x.ndim])
        if x.ndim in FORMATS and x.is_floating_point()
        else x
        for name, x in tensors.items()
    }


@contextlib.contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """While it lasts, only algorithms that give the same bits each time, if asked."""
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise RunError(
            str(error).partition(".")[0], "an algorithm for it", "set train.deterministic=false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
