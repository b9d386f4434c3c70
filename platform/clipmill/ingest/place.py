"""The folder that an ingest writes to: nobody else's, held by one, and nothing half-written in it.

Knows names of files, not what is in them.
"""

import contextlib
import os
import re
from collections.abc import Container, Iterator

from clipmill import storage
from clipmill.errors import DataError
from clipmill.ingest import state
from clipmill.ingest.arrange import SHARD_NAME
from clipmill.ingest.derived import DERIVED
from clipmill.ingest.write import RECEIPTS

OURS = frozenset({RECEIPTS, ".held", "catalog.parquet", "dataset.json", state.SOURCES,
                  state.QUARANTINE, state.FORGOTTEN, DERIVED})  # fmt: skip


def check(out: str) -> None:
    """Refuse a folder of something else: only what an ingest leaves may be there."""
    if not storage.is_remote(out) and os.path.lexists(out) and not os.path.isdir(out):
        raise DataError(f"{out} is a file", "a folder to write to", "choose another --out")
    names = _names(out)
    ours = set(OURS)
    if names & {RECEIPTS, "dataset.json"}:
        ours |= {n for n in names if SHARD_NAME.fullmatch(n) or re.fullmatch(r"\..+\.part", n)}
    if strange := names - ours:
        raise DataError(
            f"{out} holds {min(strange)!r}, which is none of ours",
            "an empty folder or a dataset",
            "choose another --out",
        )


def _names(out: str) -> set[str]:
    """What lies in the folder, without what lies deeper."""
    if storage.is_remote(out):
        there = storage.list_files(out) if storage.exists(out) else ()
        return {storage.below(path, out).split("/")[0] for path in there}
    return set(os.listdir(out)) if os.path.isdir(out) else set()


def strays(folder: str, known: Container[str]) -> list[str]:
    """Paths of shards beside the catalog that are not among those known."""
    return [
        path
        for path in storage.list_files(folder)
        if SHARD_NAME.fullmatch(name := storage.name_of(path))
        and path == storage.join(folder, name)  # what lies deeper is someone else's
        and name not in known
    ]


def remove_strays(folder: str, known: Container[str]) -> None:
    """Remove shards that no record is in."""
    for path in strays(folder, known):
        storage.remove(path)


@contextlib.contextmanager
def holding(out: str, what: str = "clipmill ingest") -> Iterator[None]:
    """Hold the folder; leave nothing half-written in it, and none that was made for nothing."""
    fresh = not storage.exists(out)
    with storage.holding(out, what):
        storage.remove_parts(out)
        try:
            yield
        finally:
            storage.remove_parts(out)
            if fresh and not storage.is_remote(out) and os.listdir(out) == [".held"]:
                storage.remove_folder(out)
