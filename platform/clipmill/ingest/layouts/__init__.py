"""Layouts of sources: which videos there are, with classes, splits, times and attributes.

Looks at names, tables and small files beside the videos only, never into a video.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from clipmill import storage
from clipmill.errors import SourceError, UsageError
from clipmill.ingest.layouts import (
    folder,
    hmdb51,
    kinetics,
    something,
    table,
    tars,
    ucf101,
    world,
)
from clipmill.ingest.layouts.listing import SUFFIXES, Listing, Options, is_video
from clipmill.ingest.sources import Source

__all__ = ["NAMES", "Listing", "Options", "read"]

LAYOUTS: Mapping[str, Callable[[str, Options], Listing]] = MappingProxyType(
    {
        "folder": folder.read,
        "unlabelled": folder.read_unlabelled,
        "csv": table.read,
        "table": table.read,
        "ucf101": ucf101.read,
        "kinetics": kinetics.read,
        "hmdb51": hmdb51.read,
        "something": something.read,
        "webdataset": tars.read,
    }
)
NAMES = tuple(LAYOUTS)
FILES = {"csv", "table", "kinetics", "webdataset"}  # what may be a file; the others are folders
WITH_FOLDS = {"ucf101", "hmdb51"}
WITH_COLUMNS = {"csv", "table", "webdataset"}


def read(source: str, layout: str = "auto", *, options: Options | None = None) -> Listing:
    """List the videos of a source, sorted by name; refuse what is ambiguous."""
    options = options or Options()
    tars.refuse_commands(source)
    source = storage.absolute(source)
    remarks = []
    if layout == "auto":
        layout = _detected(source)
        if layout == "folder" and (told_by := world.table_of(source)):
            remarks = [f"{source} is read by its {world.TABLE}, which tells more than folders can"]
            source, layout = told_by, "table"
    _check(source, layout, options)
    listing = LAYOUTS[layout](source, options)
    sources = sorted(listing.sources, key=lambda each: each.name)
    if not sources:
        raise SourceError(
            f"{source} holds no videos", f"files ending in {', '.join(sorted(SUFFIXES))}"
        )
    _check_classes(sources)
    _check_mask_classes(sources)
    return Listing(sources, [*remarks, *listing.warnings])


def _detected(source: str) -> str:
    name = storage.name_of(source).lower()
    if name.endswith(tuple(table.FORMATS)):
        return "table"
    if name.endswith(".tar"):
        return "webdataset"
    if not storage.exists(source):
        # Braces are a pattern only where nothing is called so.
        return "webdataset" if re.search(r"\{.*\}|::", source) else "folder"
    if not storage.is_remote(source) and not os.path.isdir(source):
        return "folder"  # which says that it is a file
    files = storage.list_files(source)
    has_tars = any(path.lower().endswith(".tar") for path in map(storage.name_of, files))
    return "webdataset" if has_tars and not any(map(is_video, files)) else "folder"


def _check(source: str, layout: str, options: Options) -> None:
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
    if options.fold not in ((1, 2, 3) if layout in WITH_FOLDS else (1,)):
        raise UsageError(
            f"fold {options.fold} of layout {layout}",
            f"1 to 3, of {' or '.join(sorted(WITH_FOLDS))}",
        )
    if options.columns and layout not in WITH_COLUMNS:
        raise UsageError(f"columns for layout {layout}", f"{' or '.join(sorted(WITH_COLUMNS))}")
    if layout == "webdataset":
        return  # a pattern is there if its tars are
    if not storage.exists(source):
        raise SourceError(f"{source} is not there", "a folder of videos, a table, or tars")
    if layout not in FILES and not storage.is_remote(source) and not os.path.isdir(source):
        raise SourceError(f"{source} is a file", "a folder of videos", "or use --layout csv")


def _check_classes(sources: Iterable[Source]) -> None:
    seen: dict[str, str] = {}
    for name in {name for source in sources for name in _classes(source)}:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise SourceError(
                f"the classes {min(other, name)!r} and {max(other, name)!r} differ only in case",
                "names that stay apart everywhere",
                "rename or join them",
            )


def _check_mask_classes(sources: Iterable[Source]) -> None:
    lists = sorted({source.mask_classes for source in sources if source.masks is not None})
    if len(lists) > 1:
        one, other = (", ".join(each) for each in lists[:2])
        raise SourceError(
            f"masks of the classes {one}, and masks of {other}",
            "one list for all, so that numbers mean the same",
            "name them alike in every row",
        )


def _classes(source: Source) -> Iterable[str]:
    yield from source.labels
    yield from (span.label for span in source.spans)
    if source.label:
        yield source.label
