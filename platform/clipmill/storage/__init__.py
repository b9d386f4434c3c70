"""Paths on local disks and object stores: list, read a range, put what becomes visible whole.

A path is a plain string: a local path or a URI such as `s3://bucket/folder`. This package knows
nothing of videos, tars or tables.
"""

from clipmill.storage.files import (
    copy_range,
    exists,
    is_folder,
    list_files,
    local,
    opened,
    read,
    read_json,
    read_range,
    stamp,
    stamps,
)
from clipmill.storage.hold import holding
from clipmill.storage.places import absolute, below, is_remote, join, name_of, parent, store_of
from clipmill.storage.whole import put, put_json, remove, remove_folder, remove_parts, writing

__all__ = [
    "absolute",
    "below",
    "copy_range",
    "exists",
    "holding",
    "is_folder",
    "is_remote",
    "join",
    "list_files",
    "local",
    "name_of",
    "opened",
    "parent",
    "put",
    "put_json",
    "read",
    "read_json",
    "read_range",
    "remove",
    "remove_folder",
    "remove_parts",
    "stamp",
    "stamps",
    "store_of",
    "writing",
]
