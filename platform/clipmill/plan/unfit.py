"""Records that a plugin cannot use: left out of its plans, each counted once, by why.

Catalog in, a part of it out; knows no takes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clipmill.catalog import Catalog
from clipmill.errors import PlanError, PluginError
from clipmill.plugin import Plugin

LeftOut = tuple[tuple[str, int], ...]  # reasons, and how many records each has kept out


def without_unfit(catalog: Catalog, plugin: Plugin, split: str) -> tuple[Catalog, LeftOut]:
    """The records that a plugin can use, and what became of the others; refuses to leave none."""
    gone, counted = np.zeros(len(catalog), np.bool_), dict[str, int]()
    for reason, rows in unfit(catalog, plugin).items():
        counted[reason] = int(np.count_nonzero(rows & ~gone))  # of several reasons the first
        gone |= rows
    left_out = tuple((reason, count) for reason, count in counted.items() if count)
    if gone.all():
        told = ", ".join(f"{count} {reason}" for reason, count in left_out)
        raise PlanError(
            f"{plugin.name} can use none of the {len(gone)} records of the split {split!r} of"
            f" {catalog.folder}: {told}",
            "at least one that it can use",
            "choose other videos, or other fields of the model",
        )
    return (catalog.picked(np.flatnonzero(~gone)) if gone.any() else catalog), left_out


def unfit(catalog: Catalog, plugin: Plugin) -> Mapping[str, NDArray[np.bool_]]:
    """What a plugin says of a catalog's records, if it is a truth value for each."""
    told = plugin.unfit(catalog)
    for rows in told.values():
        if np.shape(rows) != (len(catalog),) or np.asarray(rows).dtype != np.bool_:
            raise PluginError(
                f"unfit of {plugin.name} gives {np.asarray(rows).dtype} {list(np.shape(rows))}",
                f"{len(catalog)} truth values, one a record",
            )
    return told
