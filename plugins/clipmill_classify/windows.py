"""A long clip window by window: the memory carried on, its past cut off, one window kept at a time.

Truncated back-propagation through time (Williams and Peng, 1990). Gradients stay within a window,
and what a window needs for its gradient is computed again in the backward pass: so memory is
bounded by one window, however long the clip. Knows nothing of what is computed.

Legend: B batch, T frames, D features.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Memory = Any  # a tensor, or tuples and lists of such; None before the first frame
Step = Callable[[torch.Tensor, Memory], tuple[torch.Tensor, Memory]]


def in_windows(
    step: Step, clip: torch.Tensor, axis: int, memory: Memory, window: int | None, owner: nn.Module
) -> tuple[torch.Tensor, Memory]:
    """What `step` makes of all frames [B, T, D], and its memory after the last.

    Frames lie along an axis of the clip. Buffers of `owner`, such as running statistics, count
    each window once.
    """
    if window is None or window >= clip.shape[axis]:
        return step(clip, memory)
    parts = []
    for x in torch.split(clip, window, axis):
        part, memory = _recomputed(step, x, detached(memory), owner)
        parts.append(part)
    return torch.cat(parts, 1), memory


def ends(frames: int, window: int | None) -> list[int]:
    """The last frame of each window."""
    step = min(window or frames, frames)
    return [min(first + step, frames) - 1 for first in range(0, frames, step)]


def detached(memory: Memory) -> Memory:
    """The same memory, of which no gradient reaches what it was made from."""
    if isinstance(memory, tuple | list):
        return tuple(detached(part) for part in memory)
    return None if memory is None else memory.detach()


def _recomputed(
    step: Step, x: torch.Tensor, memory: Memory, owner: nn.Module
) -> tuple[torch.Tensor, Memory]:
    if not torch.is_grad_enabled():
        return step(x, memory)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _buffers_stay(owner)

    made: tuple[torch.Tensor, Memory] = checkpoint(
        step, x, memory, use_reentrant=False, context_fn=contexts
    )
    return made


@contextlib.contextmanager
def _buffers_stay(owner: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.detach().clone()) for buffer in owner.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # unseen by autograd, which may have saved the buffer
