"""Datasets that were made of another one, such as features of its frames: noted there, and found.

A note tells where a dataset was put; one that was moved or copied since is not found.
"""

from collections.abc import Collection, Iterator
from typing import Any

from clipmill import catalog as catalogs
from clipmill import storage
from clipmill.errors import ClipmillError
from clipmill.ingest.arrange import digest

DERIVED = "derived"  # folder of the notes, one a dataset, so that nobody waits for another


def note(origin: str, made: str) -> bool:
    """Note in a dataset that another was made of it; tell whether it can be written to."""
    try:
        storage.put_json(storage.join(origin, DERIVED, f"{digest(made)[:16]}.json"), {"data": made})
    except ClipmillError:
        return False
    return True


def with_records(origin: str, keys: Collection[str]) -> Iterator[dict[str, Any]]:
    """Datasets made of it that still hold records of these keys; None of one that cannot be read."""
    folder = storage.join(origin, DERIVED)
    there = storage.list_files(folder) if storage.exists(folder) else []
    for path in sorted(path for path in there if path.endswith(".json")):
        made = path  # until it is read
        try:
            made = str(storage.read_json(path)["data"])
            if not storage.exists(storage.join(made, "dataset.json")):
                continue
            count: int | None = len(set(keys) & set(catalogs.load(made).keys))
        except (ClipmillError, KeyError):
            count = None
        if count != 0:
            yield {"data": made, "records": count}
