"""One model on several workers: each holds all of it (DDP), or each a part (FSDP2).

Knows nothing of who started the workers; they are a process group by now.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from clipmill.errors import RunError
from clipmill.train.computing import blocks

Kind = Literal["ddp", "fsdp2"]


def spread(module: torch.nn.Module, kind: Kind, world: int, device: str) -> torch.nn.Module:
    """What the loop calls in place of the module, which itself is changed by FSDP2.

    Optimizer and average must be made afterwards, of the module.
    """
    if kind == "fsdp2":
        return _in_parts(module, world, device)
    if world == 1:
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def _in_parts(module: torch.nn.Module, world: int, device: str) -> torch.nn.Module:
    if not torch.distributed.is_initialized():
        return module  # one process holds it all anyway
    # Here, as they take long to load.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device, (world,))
    with contextlib.suppress(RunError):  # without blocks it is gathered as a whole
        for block in blocks(module):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    if hasattr(module, "predict"):
        register_fsdp_forward_method(module, "predict")
    return module


@contextlib.contextmanager
def held_back(model: torch.nn.Module, asked: bool) -> Iterator[None]:
    """While it lasts, gradients stay with their worker: the last part of a batch sums them."""
    if asked and isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif asked and callable(parted := getattr(model, "set_requires_gradient_sync", None)):
        parted(False)
        try:
            yield
        finally:
            parted(True)
    else:
        yield
