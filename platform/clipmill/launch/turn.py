"""Whose turn it is to write into a run's folder: that of the try which began last.

A host that was given up may live on, with a worker that trains. What it writes after the next try
has begun would stand beside what that one writes. Knows nothing of what is written.
"""

import os
import time
from dataclasses import dataclass

from clipmill.errors import BusyError
from clipmill.folder import Folder, add_lines, committed_step


@dataclass(frozen=True)
class Turn:
    """The turn of one try, lost for good when another begins."""

    path: str  # of the ledger of tries
    end: int  # of the ledger, when this one stood in it as the last

    def check(self) -> None:
        """Stop where another try has begun: that one goes on from what is committed."""
        if _length(self.path) > self.end:
            raise BusyError(
                f"{os.path.dirname(self.path)} is written by a later try of its run",
                "the last try to be alone",
                "this one ends: it was given up while it could not be reached",
            )


def begin(home: Folder, workers: int) -> Turn:
    """Write down a try: when, on how many workers, and from which step on. Earlier ones have had their turn.

    What an earlier one checked in the same moment is written long before a worker is ready to look.
    """
    add_lines(
        home.attempts, [{"time": time.time(), "workers": workers, "step": committed_step(home)}]
    )
    return Turn(home.attempts, _length(home.attempts))


def _length(path: str) -> int:
    """Ask by opening it: a shared folder tells another host's change of a file's size only then."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size
