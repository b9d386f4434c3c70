"""Nested values of an optimizer's state, taken apart into tensors and JSON, and put together.

JSON knows neither tuples nor numbers as keys, so every container says what it is.
"""

from collections.abc import Mapping
from typing import Any

import torch

from clipmill.errors import RunError


def taken_apart(value: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Give a value as JSON; its tensors go into `tensors`, by their paths."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[k, taken_apart(v, tensors, f"{path}/{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        parts = [taken_apart(part, tensors, f"{path}/{at}") for at, part in enumerate(value)]
        return {type(value).__name__: parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(
        f"the optimizer keeps a {type(value).__name__} in {path}",
        "tensors, numbers, words, and lists of these",
    )


def put_together(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The value that was taken apart."""
    if not isinstance(plain, dict):
        return plain
    ((kind, parts),) = plain.items()
    match kind:
        case "tensor":
            return tensors[parts]
        case "dict":
            return {key: put_together(part, tensors) for key, part in parts}
        case _:
            made = [put_together(part, tensors) for part in parts]
            return tuple(made) if kind == "tuple" else made
