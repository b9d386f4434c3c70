"""From a checkpoint back to a model and an optimizer, whole or held in parts.

A checkpoint of another model is refused by the names of what does not fit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from clipmill import storage
from clipmill.checkpoint.image import is_in_parts
from clipmill.checkpoint.keeper import State, read_state
from clipmill.checkpoint.plain import put_together
from clipmill.errors import RunError

Tensors = Mapping[str, torch.Tensor]
NAMED = 3  # tensors that an error names


def read_weights(folder: str) -> dict[str, torch.Tensor]:
    """Read the weights that answer of a checkpoint or a model folder: the average if there is one."""
    averaged = storage.exists(storage.join(folder, "average.safetensors"))
    return read_tensors(folder, "average" if averaged else "weights")


def read_tensors(folder: str, file: str) -> dict[str, torch.Tensor]:
    """Read one file of a checkpoint."""
    return load_tensors(storage.read(storage.join(folder, f"{file}.safetensors")))


def restore(
    folder: str,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Tensors | None = None,
) -> State:
    """Load weights, optimizer and average, and tell where to go on."""
    put_weights(folder, read_tensors(folder, "weights"), model)
    if average is not None:
        averaged = read_tensors(folder, "average")
        for name, tensor in average.items():
            tensor.copy_(placed(averaged[name], tensor))
    put_optimizer(folder, optimizer)
    return read_state(folder)


def put_weights(folder: str, weights: Tensors, model: torch.nn.Module) -> None:
    """Give a model the weights of a folder, which must be of such a model."""
    state = model.state_dict()
    check_same(folder, weights, state)
    model.load_state_dict({name: placed(weights[name], like) for name, like in state.items()})


def check_same(folder: str, weights: Tensors, state: Tensors) -> None:
    """Refuse weights of another model, and name what does not fit."""
    missing, strange = state.keys() - weights.keys(), weights.keys() - state.keys()
    odd = [n for n in state.keys() & weights.keys() if state[n].shape != weights[n].shape]
    shapes = {f"{n} as {list(weights[n].shape)}, not {list(state[n].shape)}" for n in odd}
    faults = [
        f"{told} {_some(names)}"
        for told, names in (("it lacks", missing), ("it has", strange), ("it has", shapes))
        if names
    ]
    if faults:
        raise RunError(
            f"{folder} is of another model: {'; '.join(faults)}",
            "the model that the run began with",
            "take its recipe, or set run.name=...",
        )


def _some(names: set[str]) -> str:
    told = ", ".join(sorted(names)[:NAMED])
    return told if len(names) <= NAMED else f"{told} and {len(names) - NAMED} more"


def put_optimizer(folder: str, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer its state back, in parts where the weights are held in parts."""
    plain = storage.read_json(storage.join(folder, "optimizer.json"))["state"]
    state = put_together(plain, read_tensors(folder, "optimizer"))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, values in state["state"].items():
        if number < len(weights):
            state["state"][number] = _placed_beside(values, weights[number])
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise RunError(
            f"the optimizer in {folder} is another one: {error}", "the one that the run began with"
        ) from error


def _placed_beside(values: Any, weight: torch.Tensor) -> Any:
    if not is_in_parts(weight) or not isinstance(values, dict):
        return values
    return {
        name: placed(value, weight) if _is_of(value, weight) else value
        for name, value in values.items()
    }


def _is_of(value: Any, weight: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == weight.shape


def placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, or this worker's part of it where `like` is held in parts."""
    if not is_in_parts(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    here = tensor.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
