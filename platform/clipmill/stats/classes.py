"""How much there is of each class: records by their label, by all their labels, seconds by spans.

Counted by split, the most frequent first. Knows no tables.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipmill.catalog import Catalog

Plain = dict[str, Any]
NO_VALUE = "(none)"


def of_label(part: Catalog) -> list[Plain]:
    """Records of each class."""
    by_class: dict[str | None, Counter[str]] = {}
    for (label, split), count in part.counts_by("label", "split").items():
        by_class.setdefault(label, Counter())[split or NO_VALUE] += count
    rows: list[Plain] = [
        {"label": label, "records": found.total(), "splits": dict(found)}
        for label, found in by_class.items()
    ]
    return sorted(rows, key=lambda row: (-row["records"], row["label"] or ""))


def of_labels(part: Catalog) -> list[Plain]:
    """Records that have a class among theirs; nothing where none may have several."""
    by_class: dict[str, Counter[str]] = {}
    several = 0
    for piece in part.stored.pieces(["label", "labels", "split"], part.places):
        lists = piece["labels"].combine_chunks()
        several += len(lists) - lists.null_count
        for row in _classes_of_records(piece, lists):
            split = row["split"] or NO_VALUE
            by_class.setdefault(row["name"], Counter())[split] += row["row_count"]
    rows: list[Plain] = [
        {"label": label, "records": found.total(), "splits": dict(found)}
        for label, found in by_class.items()
    ]
    return sorted(rows, key=lambda row: (-row["records"], row["label"])) if several else []


def _classes_of_records(piece: pa.Table, lists: pa.Array) -> list[Plain]:
    """How many records of a piece have a class, each counted once, by split."""
    place = pa.array(np.arange(len(piece)))
    names = [piece["label"].combine_chunks().cast(pa.string()), pc.list_flatten(lists)]
    owners = [place, pc.list_parent_indices(lists).cast(pa.int64())]
    told = pa.table({"row": pa.concat_arrays(owners), "name": pa.concat_arrays(names)})
    once = told.filter(pc.is_valid(told["name"])).group_by(["row", "name"]).aggregate([])
    splits = piece["split"].combine_chunks().take(once["row"].combine_chunks())
    made = once.append_column("split", splits).group_by(["name", "split"])
    return made.aggregate([("row", "count")]).to_pylist()  # type: ignore[no-any-return]


def of_spans(part: Catalog) -> list[Plain]:
    """Spans of each class of frames, and how many seconds they last."""
    seconds: dict[str, dict[str, float]] = {}
    spans: Counter[str] = Counter()
    for piece in part.stored.pieces(["spans", "split", "fps"], part.places):
        for row in _classes_of_spans(piece):
            split = row["split"] or NO_VALUE
            of_class = seconds.setdefault(row["name"], {})
            of_class[split] = of_class.get(split, 0.0) + (row["seconds_sum"] or 0.0)
            spans[row["name"]] += row["name_count"]
    rows: list[Plain] = [
        {"label": label, "spans": spans[label], "seconds": sum(found.values()), "splits": found}
        for label, found in seconds.items()
    ]
    return sorted(rows, key=lambda row: (-row["seconds"], row["label"]))


def _classes_of_spans(piece: pa.Table) -> list[Plain]:
    """Spans and seconds of a piece by class and split."""
    lists = piece["spans"].combine_chunks()
    owner, told = pc.list_parent_indices(lists), pc.list_flatten(lists)
    first, last = (pc.struct_field(told, name) for name in ("first_frame", "last_frame"))
    frames = pc.add(pc.subtract(last, first), 1).cast(pa.float64())
    table = pa.table({
        "name": pc.struct_field(told, "label"),
        "split": piece["split"].combine_chunks().take(owner),
        "seconds": pc.divide(frames, piece["fps"].combine_chunks().take(owner)),
    })  # fmt: skip
    made = table.group_by(["name", "split"]).aggregate([("seconds", "sum"), ("name", "count")])
    return made.to_pylist()  # type: ignore[no-any-return]
