"""From the dataset that is there to the one that is wanted: what stays, what is copied, what is made.

Pure; knows rows and parts, no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clipmill.ingest.arrange import Part
from clipmill.ingest.state import Row, State


@dataclass(frozen=True)
class Change:
    """From the dataset that is there to the one that is wanted."""

    kept: dict[str, Row]  # rows whose bytes stay where they are
    copied: dict[str, Row]  # rows whose bytes go to another shard
    parts: list[Part]  # of the shards to write: those copied and those made
    leaving: list[str]  # keys of records that are not wanted any more
    first: int  # number of the first new shard

    def told(self, failed: int) -> dict[str, int]:
        """The change in numbers."""
        fresh = len(self.parts) - len(self.copied) - failed
        return {"added": fresh, "rewritten": len(self.copied), "removed": len(self.leaving)}


def change(wanted: Sequence[Part], found: State) -> Change:
    """Compare what is wanted with what is there."""
    contents, rows = found.contents, found.rows
    same = {p.key for p in wanted if p.key in rows and contents.get(p.key, [""])[0] == p.content}
    broken = {row["shard"] for key, row in rows.items() if key not in same}
    stay = {key for key in same if rows[key]["shard"] not in broken}
    # Bytes can be copied unless they follow from something that is told anew.
    copied = {
        p.key: rows[p.key]
        for p in wanted
        if p.key in rows and p.key not in stay and contents.get(p.key, ["", ""])[1] == p.marks
    }
    keys = {part.key for part in wanted}
    numbers = [int(row["shard"].split("-")[1]) for row in rows.values()]
    return Change(
        kept={p.key: {**rows[p.key], **p.row} for p in wanted if p.key in stay},
        copied=copied,
        parts=[part for part in wanted if part.key not in stay],
        leaving=sorted(set(rows) - keys),
        first=max(numbers, default=-1) + 1,
    )
