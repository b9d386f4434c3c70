"""Tensors in host memory, laid out as a safetensors file.

The memory is used again for the next snapshot, and written and hashed as it is, without another
copy and without holding up the threads of the loop. Knows no files by name.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import torch

from clipmill.errors import RunError

Tensors = Mapping[str, torch.Tensor]

NAMES = {  # of types, in safetensors
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
ALIGNMENT = 8  # of the data behind the header


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the data, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int
    last: int  # exclusive


class Image:
    """Memory that holds the tensors of one file."""

    def __init__(self) -> None:
        self.room = torch.empty(0, dtype=torch.uint8)
        self.places: dict[str, Place] = {}

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return max((place.last for place in self.places.values()), default=0)

    def lay_out(self, tensors: Tensors) -> None:
        """Make room for tensors; what was held is gone."""
        self.places = laid_out(tensors)
        if self.nbytes > len(self.room):
            pinned = any(tensor.is_cuda for tensor in tensors.values())
            self.room = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=pinned)

    def take(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy tensors, already whole, to their places, and wait until they are there."""
        device = None
        for name, tensor in tensors:
            self.view(name).copy_(tensor.detach(), non_blocking=True)
            device = tensor.device if tensor.is_cuda else device
        if device is not None:
            torch.cuda.current_stream(device).synchronize()

    def view(self, name: str) -> torch.Tensor:
        """One tensor, on this memory."""
        place = self.places[name]
        return self.room[place.first : place.last].view(place.dtype).view(place.shape)

    def write(self, file: IO[bytes]) -> None:
        """Write all as a safetensors file."""
        file.write(header(self.places))
        file.write(self.room[: self.nbytes].numpy().data)

    def sha256(self) -> str:
        """Hash it as weights."""
        return weights_sha256({name: self.view(name) for name in self.places})


def laid_out(tensors: Tensors) -> dict[str, Place]:
    """Give each tensor its place, the widest numbers first, so that each lies aligned."""
    places, first = dict[str, Place](), 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        if tensor.dtype not in NAMES:
            raise RunError(f"{name} is {tensor.dtype}", "numbers that safetensors can hold")
        last = first + tensor.numel() * tensor.element_size()
        places[name] = Place(tensor.dtype, tuple(tensor.shape), first, last)
        first = last
    return places


def header(places: Mapping[str, Place]) -> bytes:
    """The head of a safetensors file: its length, then what lies where."""
    told = {
        name: {
            "dtype": NAMES[place.dtype],
            "shape": place.shape,
            "data_offsets": (place.first, place.last),
        }
        for name, place in places.items()
    }
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def is_in_parts(tensor: Any) -> bool:
    """Whether each worker holds a part of it."""
    # Nobody made one where nobody loaded them, which takes long.
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered from all workers if each holds a part; then all must ask for it."""
    gathers: Any = tensor
    return gathers.full_tensor() if is_in_parts(tensor) else tensor


def gathered(tensors: Tensors) -> dict[str, torch.Tensor]:
    """All tensors whole."""
    return {name: whole(tensor.detach()) for name, tensor in tensors.items()}


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy all weights and buffers, so that training may go on."""
    return {name: whole(t.detach()).cpu().clone() for name, t in model.state_dict().items()}


def weights_sha256(weights: Tensors) -> str:
    """Hash the sorted (name, dtype, shape, bytes) of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
