"""Layouts of sources: which videos there are, with class, split and attributes.

Looks at names and tables only, never into a video.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from clipmill import storage
from clipmill.errors import SourceError, UsageError

SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .m2ts .wmv .flv .3gp .ogv .mts .vob".split()
)
SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
     "test": "test", "testing": "test"}
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """An input video with what is known of it before it is opened."""

    path: str
    label: str | None = None
    split: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    licence: str | None = None


def read(source: str, layout: str = "auto") -> list[Source]:
    """List the videos of a source, sorted by path; refuse what is ambiguous."""
    source = storage.absolute(source)
    if not storage.exists(source):
        raise SourceError(f"{source} is not there", "a folder of videos or a CSV table")
    if layout == "auto":
        layout = "csv" if source.lower().endswith(".csv") else "folder"
    if layout not in LAYOUTS:
        raise UsageError(f"layout {layout!r}", f"one of {', '.join(LAYOUTS)}")
    sources = sorted(LAYOUTS[layout](source), key=lambda each: each.path)
    if not sources:
        raise SourceError(
            f"{source} holds no videos", f"files ending in {', '.join(sorted(SUFFIXES))}"
        )
    _check_classes(sources)
    return sources


def _videos(folder: str) -> list[str]:
    if not storage.is_remote(folder) and not os.path.isdir(folder):
        raise SourceError(f"{folder} is a file", "a folder of videos", "or use --layout csv")
    found = storage.list_files(folder)
    return [path for path in found if Path(path).suffix.lower() in SUFFIXES]


def _folder(source: str) -> Iterable[Source]:
    """SOURCE/CLASS/video or SOURCE/SPLIT/CLASS/video; a video without a class folder has none."""
    parts = {path: path[len(source) :].strip("/").split("/")[:-1] for path in _videos(source)}
    by_split = bool(parts) and all(p and p[0].lower() in SPLITS for p in parts.values())
    for path, folders in parts.items():
        split = SPLITS[folders[0].lower()] if by_split else None
        classes = folders[1:] if by_split else folders
        yield Source(path, label="/".join(classes) or None, split=split)


def _unlabelled(source: str) -> Iterable[Source]:
    for path in _videos(source):
        yield Source(path)


def _csv(source: str) -> Iterable[Source]:
    """A table with `path`, and `label`, `split`, `licence` or attributes where it has them."""
    root = os.path.dirname(source)
    try:
        text = storage.read(source).decode("utf-8-sig")  # spreadsheets put a mark before it
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if "path" not in (table.fieldnames or []):
            raise SourceError(
                f"{source} has the columns {', '.join(table.fieldnames or ['none'])}",
                "a column `path`",
                "name the column of the videos `path`",
            )
        for row in table:
            yield _from_row(root, source, table.line_num, row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{source} is no table: {error}", "CSV in UTF-8", "save it as CSV in UTF-8"
        ) from error


def _from_row(root: str, table: str, line: int, row: dict[str, str]) -> Source:
    name = row.pop("path") or ""
    path = os.path.normpath(os.path.join(root, name))
    if not name or os.path.commonpath([root, path]) != root:
        raise SourceError(
            f"{table}, line {line}: path {name!r} leads outside of {root}",
            "paths below the table's folder",
        )
    split = row.pop("split", None) or None
    if split is not None and split.lower() not in SPLITS:
        raise SourceError(f"{table}, line {line}: split {split!r}", f"one of {', '.join(SPLITS)}")
    label, licence = row.pop("label", None) or None, row.pop("licence", None) or None
    attributes = {key: value for key, value in row.items() if key and value}
    return Source(path, label, split and SPLITS[split.lower()], attributes, licence)


LAYOUTS: Mapping[str, Callable[[str], Iterable[Source]]] = MappingProxyType(
    {"folder": _folder, "unlabelled": _unlabelled, "csv": _csv}
)


def _check_classes(sources: Iterable[Source]) -> None:
    seen: dict[str, str] = {}
    for name in {source.label for source in sources if source.label}:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise SourceError(
                f"the classes {min(other, name)!r} and {max(other, name)!r} differ only in case",
                "names that stay apart everywhere",
                "rename or join them",
            )
