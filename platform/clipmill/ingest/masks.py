"""The masks that a source brings: where they lie, when they changed last, and what they hold.

A folder or a file, beside the video or in a store. What is in them is for `clipmill.video` to say.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clipmill import storage, video
from clipmill.ingest.sources import Source


def stamp(source: Source) -> tuple[int, int]:
    """Size and time of the last change of a source.

    With masks it is the size of all its files, and a number made of each one's name, size and
    time: the latest time alone would not tell files that were exchanged for older ones.
    """
    size, changed = storage.stamp(source.path)
    if source.masks is None:
        return size, changed
    told = storage.stamps(source.masks)
    names = {path: _called(path, source.masks) or os.path.basename(path) for path in told}
    files = [(names[path], *each) for path, each in sorted(told.items())]
    digest = hashlib.sha256(json.dumps([size, changed, files]).encode()).digest()
    number = int.from_bytes(digest[:8], "big") >> 1  # a column of the ledger holds 63 bits
    return size + sum(each[0] for each in told.values()), number


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
    elif not storage.is_folder(path):
        with storage.local(path) as here:
            yield here
    elif not storage.is_remote(path):
        yield storage.absolute(path)
    else:
        with tempfile.TemporaryDirectory(prefix="clipmill-") as folder:
            for file in _files(path):
                _copy(file, Path(folder, *_parts(storage.below(file, path))))
            yield folder


def _parts(below: str) -> list[str]:
    """The folders and the name of a file; none leads out, whatever a store calls its own."""
    return [part for part in below.split("/") if part not in ("", ".", "..")]


def _copy(file: str, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as out:
        storage.copy_range(file, out)


def measured(path: str) -> tuple[str, int]:
    """The hash of a local file or folder of masks, and how many bytes they are."""
    digest, size = hashlib.sha256(), 0
    for file in _files(path):
        with open(file, "rb", buffering=0) as opened:
            inner = hashlib.file_digest(opened, "sha256").digest()
        size += os.path.getsize(file)
        digest.update(_called(file, path).encode("utf-8", "surrogateescape") + b"\0" + inner)
    return digest.hexdigest(), size


def _called(file: str, path: str) -> str:
    """Its name within a folder, where names order the masks; what a single file is called is nothing."""
    return storage.below(file, path) if file != path else ""


def _files(path: str) -> list[str]:
    """The file, or the masks in a folder: what others put beside them makes no other masks."""
    if not storage.is_folder(path):
        return [path]
    return [file for file in storage.list_files(path) if video.is_mask_name(file)]
