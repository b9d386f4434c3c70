"""Reads a dataset back and names each fault: tars, sizes, hashes, indexes, frames, the catalog.

Writes nothing.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipmill import catalog as catalogs
from clipmill import shards, storage, video
from clipmill.catalog import Catalog
from clipmill.errors import DataError, VideoError
from clipmill.ingest import place

Progress = Callable[[str, int, int], None]


def verify(folder: str, *, deep: bool = False, progress: Progress | None = None) -> list[str]:
    """Name each fault of a dataset; `deep` decodes every frame."""
    catalog = catalogs.read(folder)
    rows = catalog.table.to_pylist()
    faults = _catalog_faults(catalog)
    inside: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        inside[row["shard"]].append(row)
    names = sorted(inside)
    strange = map(storage.name_of, place.strays(catalog.folder, inside))
    faults += [f"{name}: none of its records is in the catalog" for name in strange]
    for done, name in enumerate(names, start=1):
        found = list(shards.faults(catalog.folder, name, inside[name]))
        faults += found
        if not found:
            faults += [fault for row in inside[name] for fault in _frame_faults(catalog, row, deep)]
        if progress:
            progress("verifying shards", done, len(names))
    return faults


def _catalog_faults(catalog: Catalog) -> list[str]:
    faults = []
    told = storage.read_json(storage.join(catalog.folder, "dataset.json"))
    if catalog.digest != catalog.meta["digest"] or told["digest"] != catalog.digest:
        faults.append("catalog.parquet is not the one that dataset.json tells")
    faults += [
        f"catalog.parquet: {key} was changed after it was written"
        for key in catalogs.stale_digests(catalog.table)
    ]
    return faults


def _frame_faults(catalog: Catalog, row: dict[str, Any], deep: bool) -> Iterator[str]:
    numbers = range(row["frames"]) if deep else (0, row["frames"] - 1)
    try:
        if row["suffix"] == catalogs.FEATURES:
            yield from _feature_faults({"folder": catalog.folder, **row})
            return
        data = catalog.read(row)
        for at in range(0, len(numbers), 64):  # some at a time: a film does not fit in memory
            video.decode_frames(data, list(numbers[at : at + 64]), short_side=32)
        suffixes, fresh = {member["suffix"] for member in row["members"]}, None
        if "idx" in suffixes:
            told = catalog.read(row, "idx")
            fresh = video.index_of(data, video.unpacked(told).scan.seconds)
            older = told.startswith(b"clipmill index 1")  # which knows nothing of sound
            if fresh is None or (fresh.packed() != told and not older):
                yield f"{row['shard']}: {row['key']}.idx is not the index of its video"
        if "flow" in suffixes:
            flow = catalog.read(row, "flow")
            fault = video.flow_fault(flow, data, fresh, frames=row["frames"], deep=deep)
            if fault:
                yield f"{row['shard']}: {row['key']}.flow is not of its video: {fault}"
        if video.MASK_MEMBER in suffixes:
            yield from _mask_faults(catalog, row, deep)
    except (DataError, VideoError) as error:
        yield f"{row['shard']}: {row['key']}: {error}"


def _mask_faults(catalog: Catalog, row: dict[str, Any], deep: bool) -> Iterator[str]:
    member = catalog.read(row, video.MASK_MEMBER)
    where = f"{row['shard']}: {row['key']}.{video.MASK_MEMBER}"
    if hashlib.sha256(member).hexdigest() != row["masks_sha256"]:
        yield f"{where} is not the one that the catalog tells"
    size, classes = (row["height"], row["width"]), len(catalog.mask_classes)
    fault = video.mask_fault(member, frames=row["frames"], size=size, classes=classes, deep=deep)
    if fault:
        yield f"{where} is not of its video: {fault}"


def _feature_faults(row: dict[str, Any]) -> Iterator[str]:
    rows_TD, frames = catalogs.read_features(row)
    where = f"{row['shard']}: {row['key']}"
    if not np.isfinite(rows_TD).all():
        yield f"{where} has features that are not finite"
    if frames[0] < 0 or frames[-1] >= row["frames"]:
        yield f"{where} has features of frame {frames[-1]}, of {row['frames']} frames"
