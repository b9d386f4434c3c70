"""A folder that `clipmill worlds make` left: read by its table where folders cannot tell what it has.

Looks at the names of columns only.
"""

import csv
import io

from clipmill import storage

MARK, TABLE = "world.json", "videos.csv"
NOT_IN_FOLDERS = {"spans", "masks", "identity"}  # columns that no folder has a name for


def table_of(source: str) -> str | None:
    """The table of a world that tells more than classes of videos, if the folder is one."""
    path = storage.join(source, TABLE)
    if not (storage.exists(storage.join(source, MARK)) and storage.exists(path)):
        return None
    head = storage.read(path).partition(b"\n")[0].decode(errors="replace")
    columns = next(csv.reader(io.StringIO(head)), [])
    return path if NOT_IN_FOLDERS & {name.strip() for name in columns} else None
