"""What a run was trained on so far: the running digest of its takes, and the clips that were bad.

All ranks fold together, at commits. Knows neither steps nor weights.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed

from clipmill import feed
from clipmill.checkpoint import State
from clipmill.folder import cut_bad_clips, read_metrics

Row = dict[str, Any]


@dataclass
class Trail:
    """Where one rank has been since the start; what is written, rank 0 writes."""

    path: str  # of the ledger of bad clips
    most_bad: float  # clips of an epoch
    add: Callable[[str, list[Row]], None]  # to a ledger
    rank: int = 0
    world: int = 1
    digest: bytes = bytes(32)
    folded: int = 0  # takes of all ranks that are in the digest
    pending: list[list[bytes]] = field(default_factory=list)  # digests of this rank's steps since
    bad: Counter[int] = field(default_factory=Counter)  # by epoch

    def begin(self, state: State | None) -> None:
        """Begin at a commit, or at the start: what was met after it will be met again."""
        if state is not None:
            self.digest, self.folded = bytes.fromhex(state.takes_sha256), state.position
        met = [row for row in read_metrics(self.path) if row["position"] < self.folded]
        self.bad.update(row["epoch"] for row in met)
        if self.rank == 0:
            cut_bad_clips(self.path, self.folded)

    def fold(self, position: int, ledger: Iterable[Row]) -> None:
        """Gather what all ranks trained on since the last commit, and fold it in order."""
        own = [row for row in ledger if self.folded <= row["position"] < position]
        gathered: list[Any] = [(self.pending, own)]
        if self.world > 1:
            gathered = [None] * self.world
            torch.distributed.all_gather_object(gathered, (self.pending, own))
        digests = [part[0] for part in gathered]
        for parts in zip(*digests, strict=True):  # one step: the slices of all ranks in order
            batch = b"".join(digest for part in parts for digest in part)
            self.digest = hashlib.sha256(self.digest + batch).digest()
        rows = [row for part in gathered for row in part[1]]
        if self.rank == 0:
            self.add(self.path, sorted(rows, key=lambda row: int(row["position"])))
        self._count(rows)
        self.pending, self.folded = [], position

    def _count(self, rows: list[Row]) -> None:
        """Stop when more clips of an epoch are bad than may be, on all ranks and over restarts."""
        self.bad.update(row["epoch"] for row in rows)
        for row in rows:
            if self.bad[row["epoch"]] > self.most_bad:
                raise feed.too_many_bad(self.bad[row["epoch"]], self.most_bad, row["reason"])
