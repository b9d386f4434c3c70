"""A lot: takes with the catalog rows that they need, as plain data.

Whoever gets one needs no catalog and makes no plan: a decode worker, anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipmill.catalog import Catalog
from clipmill.takes import Stage, Takes


@dataclass(frozen=True)
class Lot:
    """Takes whose records are places in `rows`; each row names the folder of its dataset."""

    takes: Takes
    rows: Sequence[Mapping[str, Any]]
    stage: Stage

    def __len__(self) -> int:
        return len(self.takes)

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views, as `takes.view` numbers them."""
        return self.takes.views

    def digests(self) -> list[bytes]:
        """The digests of its takes, as the plan has them."""
        keys = [str(row["key"]) for row in self.rows]
        records = self.takes.record.tolist()
        return self.takes.digests([[keys[row] for row in record] for record in records])


def lot(catalog: Catalog, takes: Takes, stage: Stage) -> Lot:
    """Gather the rows of takes; those that several takes need come once."""
    rows, places = np.unique(takes.record, return_inverse=True)
    absent = int(np.searchsorted(rows, 0))  # how many of them stand for no record: none or one
    record = np.maximum(places.reshape(takes.record.shape) - absent, -1).astype(np.int32)
    found = catalog.rows(rows[absent:].tolist(), lean=True)
    return Lot(replace(takes, record=record), found, stage)
