"""Says which packets a decoder must be fed to show the asked frames, and which it can do without.

Frames that no other leans on are fed only if they are asked for. Pure arithmetic; knows no bytes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipmill.video.scan import Scan

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Run:
    """Packets to be fed in turn to a decoder that has seen nothing before them."""

    packets: list[int]
    places: dict[int, list[int]]  # by the stamp of a frame asked for: where in the result it goes


def runs_for(table: Scan, disposable: Flags, frames: Numbers) -> list[Run]:
    """Give the runs that show the frames; a run goes on from key frame to key frame if it can."""
    packets, which = np.unique(table.shown[frames], return_inverse=True)
    places: list[list[int]] = [[] for _ in packets]
    for place, at in enumerate(which.tolist()):
        places[at].append(place)
    stamps = table.pts[packets]
    part = np.searchsorted(table.pts[table.starts], stamps, side="right") - 1
    made: list[Run] = []
    for each in sorted(set(part.tolist())):
        mine = np.flatnonzero(part == each)
        start = int(table.starts[each])
        fed, leads = _fed(table, disposable, start, packets[mine])
        run = Run(fed, {int(stamps[at]): places[at] for at in mine.tolist()})
        if made and not leads and _goes_on(made[-1], start, disposable):
            made[-1] = Run(made[-1].packets + run.packets, made[-1].places | run.places)
        else:
            made.append(run)
    return made


def _fed(table: Scan, disposable: Flags, start: int, wanted: Numbers) -> tuple[list[int], bool]:
    """Give what is fed from one start on, and whether frames that others lean on are left out."""
    span = slice(start, int(wanted[-1]) + 1)
    needed = ~disposable[span]
    needed[wanted - start] = True
    leading = needed & (table.pts[span] < table.pts[start])
    if start == 0 or not leading.any():
        return (np.flatnonzero(needed) + start).tolist(), False
    # Frames shown before the key frame lean on what is not fed.
    return (np.flatnonzero(needed & ~leading) + start).tolist(), True


def _goes_on(run: Run, start: int, disposable: Flags) -> bool:
    """Tell whether a decoder at the end of a run may go on at a start as if it had seen all."""
    last = run.packets[-1]
    return last < start and bool(disposable[last + 1 : start].all())
