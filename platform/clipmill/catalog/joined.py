"""Several datasets as one catalog: their rows one dataset after another, each in its own folder.

Nothing is read before it is asked for. Classes are those of all, by name.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clipmill.catalog.stored import Places
from clipmill.catalog.table import Catalog
from clipmill.errors import UsageError


def joined(catalogs: Sequence[Catalog]) -> Catalog:
    """Put catalogs into one; a single one is itself."""
    if not catalogs:
        raise UsageError("no datasets", "at least one")
    if len(catalogs) == 1:
        return catalogs[0]
    metas = [meta for each in catalogs for meta in each.metas]
    folders = [folder for each in catalogs for folder in each.folders]
    told = [meta.get("digest") for meta in metas]
    meta = {
        "classes": sorted({name for each in catalogs for name in each.classes}),
        "digest": hashlib.sha256(json.dumps(told).encode()).hexdigest(),
        "records": sum(map(len, catalogs)),
        "profile": metas[0].get("profile"),  # what comes to be answered is made as the first is
        "datasets": metas,
        "folders": folders,
    }
    return Catalog(" + ".join(folders), _Joined(catalogs), meta)


@dataclass
class _Joined:
    """Rows of several catalogs, one after another."""

    catalogs: Sequence[Catalog]

    def __post_init__(self) -> None:
        lengths = [len(each) for each in self.catalogs]
        self.first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.num_rows = int(self.first[-1])

    def pieces(
        self, names: Sequence[str], places: Places | None, *, few_values: bool = False
    ) -> Iterator[pa.Table]:
        """Give columns of chosen rows in order, some thousand rows at a time."""
        for number, each in enumerate(self.catalogs):
            inner = each.places
            if places is not None:
                low, high = np.searchsorted(places, self.first[number : number + 2])
                inner = places[low:high] - self.first[number]
                inner = inner if each.places is None else each.places[inner]
            yield from each.stored.pieces(names, inner, few_values=few_values)

    def rows(self, places: Sequence[int], *, lean: bool = False) -> list[dict[str, Any]]:
        """Give single rows with their folders, in the order asked."""
        asked = np.asarray(places, np.int64)
        owner = self.datasets(asked)
        found: list[dict[str, Any]] = [{}] * len(asked)
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            made = self.catalogs[number].rows(asked[mine] - self.first[number], lean=lean)
            for place, row in zip(mine, made, strict=True):
                found[place] = row
        return found

    def datasets(self, places: Places | None) -> Places:
        """The number of the dataset that each row is of."""
        if places is None:
            return np.repeat(np.arange(len(self.catalogs)), np.diff(self.first))
        return np.searchsorted(self.first, places, side="right") - 1
