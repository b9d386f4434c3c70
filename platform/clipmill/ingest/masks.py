"""The masks that a source brings: where they lie, when they changed last, and what they hold.

A folder or a file, beside the video or in a store. What is in them is for `clipmill.video` to say.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from clipmill import storage
from clipmill.ingest.sources import Source


def stamp(source: Source) -> tuple[int, int]:
    """Size and time of the last change of a source: of its video and its masks together."""
    told = [storage.stamp(source.path)]
    if source.masks is not None:
        told += map(storage.stamp, _files(source.masks))
    return sum(size for size, _ in told), max(changed for _, changed in told)


def is_unchanged(source: Source, known: Source, known_stamp: tuple[int, int]) -> bool:
    """Tell whether a source is the one that was known, as far as its files' stamps tell."""
    told, before = (
        (each.masks, each.mask_classes, dict(each.mask_colours)) for each in (source, known)
    )
    return told == before and stamp(source) == known_stamp


@contextlib.contextmanager
def local(source: Source) -> Iterator[str | None]:
    """Give a local file or folder of the masks; copies go away after. None where there are none."""
    path = source.masks
    if path is None:
        yield None
    elif not _is_folder(path):
        with storage.local(path) as here:
            yield here
    elif not storage.is_remote(path):
        yield storage.absolute(path)
    else:
        with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
            for file in storage.list_files(path):
                name = storage.below(file, path).replace("/", "_")
                with (Path(folder) / name).open("wb") as out:
                    storage.copy_range(file, out)
            yield folder


def measured(path: str) -> tuple[str, int]:
    """The hash of a local file or folder of masks, and how many bytes they are."""
    digest, size = hashlib.sha256(), 0
    for file in _files(path):
        with open(file, "rb", buffering=0) as opened:
            inner = hashlib.file_digest(opened, "sha256").digest()
        size += os.path.getsize(file)
        digest.update(os.path.basename(file).encode("utf-8", "surrogateescape") + b"\0" + inner)
    return digest.hexdigest(), size


def _files(path: str) -> list[str]:
    return storage.list_files(path) if _is_folder(path) else [path]


def _is_folder(path: str) -> bool:
    if storage.is_remote(path):
        return not PurePosixPath(storage.name_of(path)).suffix
    return os.path.isdir(storage.absolute(path))
