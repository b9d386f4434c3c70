"""What every layout works with: its options, what it finds, and words that all share.

Looks at names only, never into a video.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from clipmill import storage
from clipmill.errors import SourceError
from clipmill.ingest.sources import Source

SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .ts .m2ts .wmv .flv .3gp .ogv .mts .vob".split()
)
SPLITS: Mapping[str, str] = MappingProxyType(
    {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
     "validation": "val", "test": "test", "testing": "test"}
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How to read a layout that leaves a choice."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the table's column
    fold: int = 1  # which of the three official splits of UCF101 and HMDB51


@dataclass(frozen=True)
class Listing:
    """The videos of a source, sorted by name, and what its owner should hear."""

    sources: list[Source]
    warnings: list[str] = field(default_factory=list)


def is_video(path: str) -> bool:
    """Tell a video by its name."""
    return PurePosixPath(storage.name_of(path)).suffix.lower() in SUFFIXES


def stem_of(path: str) -> str:
    """Return a file's name without its last suffix."""
    return PurePosixPath(storage.name_of(path)).stem


def videos_below(folder: str) -> list[str]:
    """List the videos of a folder, sorted."""
    return [path for path in storage.list_files(folder) if is_video(path)]


def files_of(source: str, beside: Sequence[str]) -> dict[str, str]:
    """Name the files below a source, and those in folders beside it that belong to it."""
    found = storage.list_files(source)
    for name in beside:
        folder = storage.join(storage.parent(source), name)
        if storage.exists(folder):
            found += storage.list_files(folder)
    return {storage.name_of(path): path for path in reversed(found)}


def lines_of(path: str) -> list[tuple[str, str]]:
    """Read the lines that are not empty, each with where it stands."""
    try:
        text = storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no text: {error}", "text in UTF-8") from error
    lines = enumerate(text.splitlines(), 1)
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


def matched(
    source: str,
    told: Mapping[str, Mapping[str, Any]],
    key_of: Callable[[str], str],
    lists: str,
) -> Listing:
    """Join videos with what official lists tell of them, by a key that both have.

    A listed video that is not there is a warning and no error: many hold a part of a data set.
    """
    here: dict[str, str] = {}
    for path in videos_below(source):
        if (other := here.setdefault(key_of(path), path)) != path:
            raise SourceError(
                f"{other} and {path} are both {key_of(path)} of {lists}", "one file a video"
            )
    missing = sorted(told.keys() - here.keys())
    if told and len(missing) == len(told):
        raise SourceError(
            f"none of the {len(told)} videos of {lists} is in {source} ({missing[0]})",
            "the videos that the lists name",
        )
    unlisted: Mapping[str, Any] = {"left_out": f"on none of {lists}"}
    sources = [Source(path, **told.get(key, unlisted)) for key, path in here.items()]
    warnings = [missing_warning(missing, len(told), lists)] if missing else []
    return Listing(sources, warnings)


def missing_warning(missing: Sequence[str], total: int, lists: str) -> str:
    """Tell how many listed videos are not there."""
    return f"{len(missing)} of the {total} videos of {lists} are not there, such as {missing[0]}"


def class_and_name(path: str) -> str:
    """Return CLASS/NAME of a video in a folder of its class."""
    return f"{storage.name_of(storage.parent(path))}/{storage.name_of(path)}"
