"""What comes out of networks: told in words, and compared by name and value.

Knows no plugin and no check.
"""

from collections.abc import Mapping
from typing import Any

from clipmill.contract.case import Tensors
from clipmill.errors import PluginError

ROW_TOLERANCE = 1e-4  # kernels sum in another order for another batch size


def shapes(tensors: Mapping[str, Any]) -> str:
    """Names and shapes, for a person."""
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())


def same(got: Tensors, wanted: Tensors, tolerance: float, what: str) -> None:
    """Refuse outputs that are not the same by name and value."""
    if got.keys() != wanted.keys():
        raise PluginError(f"{what} gives {sorted(got)}", str(sorted(wanted)))
    for name, right in wanted.items():
        if got[name].shape != right.shape:
            raise PluginError(f"{what} gives {shapes({name: got[name]})}", f"{list(right.shape)}")
        far = (got[name].double() - right.double()).abs().max().item() if right.numel() else 0.0
        if not far <= tolerance:
            raise PluginError(f"{what} moves {name} by {far:.2g}", f"at most {tolerance:g}")
