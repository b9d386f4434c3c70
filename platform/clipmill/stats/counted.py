"""What of a dataset is counted and measured, from the catalog and the ledger alone.

Plain data out; knows neither tables nor pictures.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill import catalog as catalogs
from clipmill.catalog import Catalog
from clipmill.stats import classes
from clipmill.stats.classes import NO_VALUE, Plain

BINS = 24
QUANTILES = {"least": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "most": 1.0}
# Columns whose spread is told, with their units.
SPREAD = {
    "duration_seconds": "s", "frames": "", "fps": "1/s", "width": "px", "height": "px",
    "motion": "", "brightness": "", "sharpness": "", "silence": "",
}  # fmt: skip
REASONS = 20  # the most frequent ones are told


def stats(data: str, *, where: str | None = None) -> Plain:
    """Count and measure a dataset, or what of it fulfils a filter."""
    whole = catalogs.load(data)
    part = whole.part(where=where) if where else whole
    seconds, sizes = part.column("duration_seconds"), _bytes(part)
    return {
        "data": whole.folder,
        "where": where,
        "records": len(part),
        "videos": _videos(part),
        "hours": float(np.nansum(seconds.astype(float))) / 3600,
        "bytes": int(sizes.sum()),
        "shards": len(part.counts("shard")),
        "with_audio": int(np.count_nonzero(part.column("has_audio") == True)),  # noqa: E712 - may be None
        "with_masks": int(np.count_nonzero(part.has("masks_sha256"))),
        "splits": _splits(part, seconds, sizes),
        "classes": classes.of_label(part),
        "labels": classes.of_labels(part),
        "spans": classes.of_spans(part),
        "spread": list(_spreads(part, sizes)),
        "near_duplicates": _near(part),
        "counts": whole.meta.get("counts", {}),
        "quarantine": _quarantine(data),
    }


def _bytes(part: Catalog) -> NDArray[np.int64]:
    """The bytes of each record, all its members together."""
    found = [np.empty(0, np.int64)]
    for piece in part.stored.pieces(["members"], part.places):
        members = piece["members"].combine_chunks()
        lengths = pc.struct_field(pc.list_flatten(members), "length").to_numpy()
        owners = pc.list_parent_indices(members).to_numpy()
        found.append(np.bincount(owners, lengths, len(members)).astype(np.int64))
    return np.concatenate(found)


def _videos(part: Catalog) -> int:
    """How many videos the records are of: those cut into several count once."""
    whole, parents = 0, set[str]()
    for piece in part.stored.pieces(["parent"], part.places):
        whole += piece["parent"].null_count
        parents.update(pc.unique(piece["parent"].drop_null()).to_pylist())
    return whole + len(parents)


def _splits(part: Catalog, seconds: NDArray[Any], sizes: NDArray[np.int64]) -> list[Plain]:
    names, numbers = part.numbered("split")
    given = np.nan_to_num(seconds.astype(float))
    told = []
    for place, name in [*enumerate(names), (-1, None)]:
        chosen = numbers == place
        if chosen.any():
            hours = float(given[chosen].sum()) / 3600
            count, size = int(chosen.sum()), int(sizes[chosen].sum())
            told.append({"split": name, "records": count, "hours": hours, "bytes": size})
    return told


def _spreads(part: Catalog, sizes: NDArray[np.int64]) -> Iterator[Plain]:
    for name, unit in SPREAD.items():
        yield from _spread(name, unit, part.column(name))
    yield from _spread("bytes", "B", sizes)


def _spread(name: str, unit: str, column: NDArray[Any]) -> Iterator[Plain]:
    """How the values of a column are spread; nothing where it has none.

    The outermost bins of the histogram hold what lies beyond them too.
    """
    values = column.astype(float)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    found = np.quantile(values, list(QUANTILES.values())).tolist()
    low, high = np.quantile(values, (0.005, 0.995))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(values, low, high), BINS, (low, high))
    yield {
        "name": name,
        "unit": unit,
        "count": len(values),
        "mean": float(values.mean()),
        **dict(zip(QUANTILES, found, strict=True)),
        "edges": edges.tolist(),
        "histogram": counts.tolist(),
    }


def _near(part: Catalog) -> Plain:
    """Groups of near-duplicates, and how many records are in one."""
    groups: Counter[str] = Counter()
    for piece in part.stored.pieces(["near"], part.places):
        counted = piece["near"].drop_null().value_counts().to_pylist()
        groups.update({each["values"]: each["counts"] for each in counted})
    return {"groups": len(groups), "records": groups.total()}


def _quarantine(data: str) -> Plain:
    ledger = catalogs.quarantine(data)
    stages = Counter(stage or NO_VALUE for stage in ledger["stage"].to_pylist())
    pairs = zip(ledger["stage"].to_pylist(), ledger["reason"].to_pylist(), strict=True)
    reasons = Counter((stage or NO_VALUE, reason or "") for stage, reason in pairs)
    told = [
        {"stage": stage, "reason": reason, "sources": count}
        for (stage, reason), count in reasons.most_common(REASONS)
    ]
    return {"sources": len(ledger), "stages": dict(stages.most_common()), "reasons": told}
