"""Ends a run between two steps: a signal leaves a word in its folder, every worker reads it.

All ranks end at the same step. Knows neither the loop nor what is kept of the run; a second
signal ends at once.
"""

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
import torch.distributed

from clipmill import storage

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = datetime.timedelta(seconds=120)


class Stopped(KeyboardInterrupt):
    """A run that was told to stop, and has kept what it learned; told as how to go on.

    `number` is of the signal that came; none did where something here has asked it to stop.
    """

    def __init__(self, told: str, number: int | None) -> None:
        super().__init__(told)
        self.by_signal = number is not None
        self.exit_code = 128 + (signal.SIGINT if number is None else number)


def _word(folder: str) -> str:
    return storage.join(folder, ".stop")


def ask(folder: str) -> None:
    """Ask the run of a folder to keep what it has and to stop."""
    Path(_word(folder)).touch()


def asked(folder: str) -> bool:
    """Tell whether the run of a folder is to stop."""
    return os.path.exists(_word(folder))


def forget(folder: str) -> None:
    """Take the word back, so that the run may go on."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(_word(folder))


class Agreement:
    """Asks once a step, and gives every rank the same answer at the same step.

    What the ranks saw at one step is summed beside the next, so that no step waits for it.
    """

    def __init__(self, folder: str, world: int) -> None:
        self.folder, self.seen = folder, torch.zeros(1)
        # Of its own: a sum on the CPU, whatever the gradients travel by.
        self.group: torch.distributed.ProcessGroup | None = None
        if world > 1:
            made = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
            assert not isinstance(made, int), "every rank is in it"
            self.group = made
        self.under_way: torch.distributed.Work | None = None

    def asked(self) -> bool:
        """Tell whether to stop after this step; every rank asks after every step."""
        if self.group is None:
            return asked(self.folder)
        stop = self._agreed()
        self.seen = torch.full((1,), float(asked(self.folder)))
        self.under_way = torch.distributed.all_reduce(self.seen, group=self.group, async_op=True)
        return stop

    def close(self) -> None:
        """Wait for the last answer, so that no rank leaves while another still asks."""
        self._agreed()

    def _agreed(self) -> bool:
        if self.under_way is None:
            return False
        self.under_way.wait()
        return bool(self.seen.item())


@contextlib.contextmanager
def on_signals(folder: str) -> Iterator[list[int]]:
    """While it lasts, Ctrl-C and SIGTERM ask the run to stop; give those that came.

    Only the main thread hears signals. One that is ignored, as under nohup, stays so.
    """
    came: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if came:  # whoever asks twice does not want to wait
            raise Stopped("", number)
        came.append(number)
        ask(folder)

    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                stack.enter_context(_handled(number, hear))
        yield came


@contextlib.contextmanager
def _handled(number: int, hear: "signal._HANDLER") -> Iterator[None]:
    before = signal.getsignal(number)
    if before is not signal.SIG_IGN:
        signal.signal(number, hear)
    try:
        yield
    finally:
        if before is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if before is None else before)
