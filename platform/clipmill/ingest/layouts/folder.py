"""Folders of videos: by class, by split and class, or of no class.

Knows only names; links to folders are not followed, links to files are.
"""

from clipmill import storage
from clipmill.errors import SourceError
from clipmill.ingest.layouts.listing import SPLITS, Listing, Options, videos_below
from clipmill.ingest.sources import Source


def read(source: str, options: Options) -> Listing:
    """SOURCE/CLASS/video or SOURCE/SPLIT/CLASS/video; a video without a class folder has none."""
    parts = {path: storage.below(path, source).split("/")[:-1] for path in videos_below(source)}
    by_split = _is_by_split(source, {(folders or [""])[0] for folders in parts.values()})
    return Listing([_source(path, folders, by_split) for path, folders in parts.items()])


def _source(path: str, folders: list[str], by_split: bool) -> Source:
    split = SPLITS[folders[0].lower()] if by_split else None
    return Source(path, label="/".join(folders[by_split:]) or None, split=split)


def _is_by_split(source: str, tops: set[str]) -> bool:
    splits = {top for top in tops if top.lower() in SPLITS}
    if not splits or splits == tops:
        return bool(splits)
    other = min(tops - splits)
    beside = f"the folder {other!r}" if other else "videos in no folder"
    raise SourceError(
        f"{source} holds {min(splits)!r}, the name of a split, beside {beside}",
        "only folders of splits at the top, or only folders of classes",
        "move what is no split away, rename the class, or tell all in a table",
    )


def read_unlabelled(source: str, options: Options) -> Listing:
    """All videos below SOURCE, of no class and no split, wherever they lie."""
    return Listing([Source(path) for path in videos_below(source)])
