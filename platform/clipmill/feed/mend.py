"""Clips that cannot be decoded: another take in training, left out in evaluation; all written down.

The slot keeps its position, and the ledger names what was wanted and what was used. The same
damage gives the same takes on any number of ranks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from clipmill.errors import DataError
from clipmill.feed.block import Block, Request
from clipmill.feed.figures import Figures
from clipmill.feed.hands import Hands
from clipmill.plan import Plan
from clipmill.plugin import Sample

MOST_ATTEMPTS = 20


@dataclass
class Mender:
    """Fills the holes of blocks."""

    plan: Plan
    hands: Hands
    figures: Figures
    most_bad: float  # clips of an epoch
    ledger: list[dict[str, Any]] = field(default_factory=list)
    used: dict[int, bytes] = field(default_factory=dict)  # digests in place of the plan's

    def mended(self, made: Iterable[tuple[Request, Block]]) -> Iterator[Block]:
        """Give whole blocks; in evaluation those with their holes."""
        for request, block in made:
            yield self._mend(request, block) if block.reasons else block

    def _mend(self, request: Request, block: Block) -> Block:
        samples = list(block.samples)
        for place, reason in block.reasons.items():
            position = request.positions[place]
            row: dict[str, Any] = {"position": position, "epoch": self._epoch(position)}
            row["wanted"] = request.keys(place)
            if self.plan.stage == "train":
                samples[place], row["used"] = self._substitute(position)
            self.ledger.append({**row, "reason": reason})
            self._count(position, reason)
        return replace(block, samples=samples, reasons={})

    def _substitute(self, position: int) -> tuple[Sample, list[str]]:
        for attempt in range(MOST_ATTEMPTS):
            lot = self.plan.lot(self.plan.substitute(position, attempt))
            request = Request(self.plan.plugin, lot, (position,))
            (sample,) = self.hands.ask(request)().rows()
            if sample is not None:
                self.used[position] = lot.digests()[0]
                return sample, request.keys(0)
        raise DataError(
            f"the clip at {position} and {MOST_ATTEMPTS} in its stead do not decode",
            "videos that do",
            "run `clipmill verify --deep` on the dataset",
        )

    def _epoch(self, position: int) -> int:
        return position // self.plan.takes_per_epoch

    def _count(self, position: int, reason: str) -> None:
        bad = self.figures.bad
        bad[self._epoch(position)] += 1
        count = bad[self._epoch(position)]
        if count > self.most_bad:
            raise too_many_bad(count, self.most_bad, reason)


def too_many_bad(count: int, most: float, reason: str) -> DataError:
    """What to say when more clips of an epoch are bad than may be."""
    return DataError(
        f"{count} clips of an epoch do not decode, the last one: {reason}",
        f"at most {most:.0f} (feed.max_bad_share)",
        "run `clipmill verify --deep` on the dataset, or raise feed.max_bad_share",
    )
