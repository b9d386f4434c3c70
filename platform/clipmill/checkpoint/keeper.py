"""The checkpoints of one run's folder: written one at a time, the last and the best kept.

Knows neither how a run goes on from one nor when it should be made.
"""

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from clipmill import storage
from clipmill.checkpoint.image import Image, is_in_parts, whole
from clipmill.checkpoint.plain import taken_apart
from clipmill.errors import BusyError, RunError
from clipmill.folder import CHECKPOINTS, MARKER, committed, uncommitted

Files = dict[str, dict[str, torch.Tensor]]  # tensors by name, by the file they go to


@dataclass(frozen=True)
class State:
    """Where a run stands; beside it lie weights and optimizer."""

    step: int
    position: int  # takes trained over all epochs
    takes_sha256: str  # running digest of all takes trained on, in order
    catalog_digest: str
    recipe_identity: str
    weights_sha256: str  # of the weights that answer: the average where there is one
    plan_digest: str = ""  # of all that decides the takes; none in checkpoints before there was one
    score: float | None = None  # of these weights on validation, the higher the better
    ended: bool = False  # before its last step: enough is enough
    told: Mapping[str, Any] = field(default_factory=dict)  # what guards and stops remember


@dataclass(frozen=True)
class Saved:
    """What a checkpoint is of, as it lives."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: Mapping[str, torch.Tensor] | None = None  # a whole state of the model, averaged

    def taken_apart(self) -> tuple[Files, Any]:
        """The tensors by file, and the rest of the optimizer's state."""
        state: dict[str, torch.Tensor] = {}
        plain = taken_apart(self.optimizer.state_dict(), state)
        files: Files = {"weights": self.model.state_dict(), "optimizer": state}
        if self.average is not None:
            files["average"] = dict(self.average)
        return files, plain

    def at_rest(self, files: Files) -> Files:
        """What nothing changes before the optimizer's next update, and is held in one piece."""
        named = self.model.named_parameters(remove_duplicate=False)
        trainable = {name for name, weight in named if weight.requires_grad}
        moving = self.model.state_dict().keys() - trainable
        return {
            file: {
                name: tensor
                for name, tensor in tensors.items()
                if not is_in_parts(tensor) and (file == "optimizer" or name not in moving)
            }
            for file, tensors in files.items()
        }


class Keeper:
    """Writes the checkpoints of one run's folder, one at a time, and finds the last.

    The last `keep` stay, and beside them the one with the best score. One that cannot be written
    leaves nothing behind and stops the run at the next `check`; the earlier ones stay. So does one
    that `before_commit` refuses, as it may when another writes this folder.
    """

    def __init__(
        self, folder: str, *, keep: int = 2, before_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.run, self.folder = folder, storage.join(folder, CHECKPOINTS)
        self.keep, self.before_commit = keep, before_commit
        self._images: dict[str, Image] = {}
        self._writer: threading.Thread | None = None
        self._taken = threading.Event()
        self._taken.set()
        self._fault: BaseException | None = None

    def save(self, state: State, saved: Saved, *, writes: bool = True) -> None:
        """Begin a checkpoint of now; waits for the one before.

        What only the optimizer changes is copied beside the next step: call `taken` before its
        update. A worker that does not write helps to gather what is held in parts.
        """
        self.wait()
        files, plain = saved.taken_apart()
        later = saved.at_rest(files)
        for file, tensors in files.items():
            image = self._images.setdefault(file, Image())
            now = ((name, whole(t)) for name, t in tensors.items() if name not in later[file])
            if writes:
                image.lay_out(tensors)
                image.take(now)
            else:
                list(now)
        if writes:
            self._start(state, later, plain)

    def _start(self, state: State, later: Files, plain: Any) -> None:
        self._taken.clear()
        self._writer = threading.Thread(
            target=self._write, args=(state, later, plain), name="clipmill-checkpoint"
        )
        self._writer.start()

    def taken(self) -> None:
        """Wait until the snapshot is taken, so that what it is of may change."""
        self._taken.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is committed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def check(self) -> None:
        """Stop if a checkpoint could not be written; waits for nothing."""
        if self._fault is not None:
            fault, self._fault = self._fault, None
            if isinstance(fault, BusyError):
                raise fault
            raise RunError(
                f"a checkpoint could not be written: {fault}",
                f"room and rights in {self.folder}",
                f"the last good one is {self.last() or 'none'}; mend it and run the same again",
            )

    def _write(self, state: State, later: Files, plain: Any) -> None:
        name = f"step-{state.step:08d}-{os.urandom(3).hex()}"  # attempts never share a folder
        folder = storage.join(self.folder, name)
        try:
            for file, tensors in later.items():
                self._images[file].take(tensors.items())
            self._taken.set()
            self._commit(folder, state, plain, list(later))
            self._prune()
        except BaseException as error:  # told by the next check()
            self._fault = error
            if not os.path.exists(storage.join(folder, MARKER)):
                shutil.rmtree(folder, ignore_errors=True)  # gives back the room it took
        finally:
            self._taken.set()

    def _commit(self, folder: str, state: State, plain: Any, files: list[str]) -> None:
        for file in files:
            with storage.writing(storage.join(folder, f"{file}.safetensors")) as out:
                self._images[file].write(out)
        answering = self._images["average" if "average" in files else "weights"]
        told = {**vars(state), "weights_sha256": answering.sha256()}
        storage.put_json(storage.join(folder, "optimizer.json"), {"state": plain})
        storage.put_json(storage.join(folder, "state.json"), told)
        self.before_commit()
        storage.put(storage.join(folder, MARKER), b"")

    def _prune(self) -> None:
        best = self.best()
        for old in committed(self.run)[: -self.keep]:
            if str(old) != best:
                (old / MARKER).unlink()
                shutil.rmtree(old)

    def last(self) -> str | None:
        """The folder of the last committed checkpoint."""
        found = committed(self.run)
        return str(found[-1]) if found else None

    def best(self) -> str | None:
        """The folder of the committed checkpoint with the best score, the earliest of equals."""
        states = [(folder, read_state(str(folder))) for folder in committed(self.run)]
        scored = [
            (state.score, -state.step, str(at)) for at, state in states if state.score is not None
        ]
        return max(scored)[2] if scored else None

    def clean(self) -> None:
        """Remove what was never committed; only for the one who holds the run."""
        for folder in uncommitted(self.run):
            shutil.rmtree(folder)


def read_state(folder: str) -> State:
    """Read where a checkpoint stands."""
    return State(**storage.read_json(storage.join(folder, "state.json")))  # type: ignore[arg-type]
