"""Checkpoints of a run: a snapshot in memory, written beside the loop, committed by a marker.

A folder counts only with its COMMITTED marker, which is written last. Weights are safetensors;
the optimizer's state is loaded with `weights_only`. Knows neither Ray nor MLflow.
"""

import hashlib
import io
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from clipmill import storage
from clipmill.errors import RunError

MARKER = "COMMITTED"


@dataclass(frozen=True)
class State:
    """Where a run stands; beside it lie weights and optimizer."""

    step: int
    position: int  # takes trained over all epochs
    takes_sha256: str  # running digest of all takes trained on, in order
    catalog_digest: str
    recipe_identity: str
    weights_sha256: str


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Hash the sorted (name, dtype, shape, bytes) of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy all weights and buffers, so that training may go on."""
    return {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}


class Keeper:
    """Writes the checkpoints of one run's folder, one at a time, and finds the last."""

    def __init__(self, folder: str, *, keep: int = 2) -> None:
        self.folder = storage.join(folder, "checkpoints")
        self.keep = keep
        self._writer: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(self, state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take a snapshot now and write it beside the loop; waits for the one before."""
        self.wait()
        weights = snapshot(model)
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        self._writer = threading.Thread(
            target=self._write, args=(state, weights, buffer.getvalue()), name="clipmill-checkpoint"
        )
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is committed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise RunError(
                f"a checkpoint could not be written: {fault}",
                f"room and rights in {self.folder}",
                f"the last good one is {self.last() or 'none'}; mend it and run the same again",
            )

    def _write(self, state: State, weights: dict[str, torch.Tensor], optimizer: bytes) -> None:
        try:
            name = f"step-{state.step:08d}-{os.urandom(3).hex()}"  # attempts never share a folder
            folder = storage.join(self.folder, name)
            data = save_tensors(weights)
            told = {**vars(state), "weights_sha256": weights_sha256(weights)}
            storage.put(storage.join(folder, "weights.safetensors"), data)
            storage.put(storage.join(folder, "optimizer.pt"), optimizer)
            storage.put_json(storage.join(folder, "state.json"), told)
            storage.put(storage.join(folder, MARKER), b"")
            self._prune()
        except BaseException as error:  # told by the next wait()
            self._fault = error

    def _committed(self) -> list[Path]:
        return sorted(path.parent for path in Path(self.folder).glob(f"step-*/{MARKER}"))

    def _prune(self) -> None:
        for old in self._committed()[: -self.keep]:
            (old / MARKER).unlink()
            shutil.rmtree(old)

    def last(self) -> str | None:
        """The folder of the last committed checkpoint."""
        committed = self._committed()
        return str(committed[-1]) if committed else None

    def clean(self) -> None:
        """Remove what was never committed; only for the one who holds the run."""
        for folder in Path(self.folder).glob("step-*"):
            if not (folder / MARKER).exists():
                shutil.rmtree(folder)


def read_state(folder: str) -> State:
    """Read where a checkpoint stands."""
    return State(**storage.read_json(storage.join(folder, "state.json")))  # type: ignore[arg-type]


def read_weights(folder: str) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint or a model folder."""
    return load_tensors(storage.read(storage.join(folder, "weights.safetensors")))


def restore(folder: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Load weights and optimizer, and tell where to go on."""
    model.load_state_dict(read_weights(folder))
    data = io.BytesIO(storage.read(storage.join(folder, "optimizer.pt")))
    optimizer.load_state_dict(torch.load(data, weights_only=True))
    return read_state(folder)
