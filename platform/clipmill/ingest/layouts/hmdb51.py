"""HMDB51: folders of classes and, for each class, the official list of each of three splits."""

import re
from typing import Any

from clipmill.errors import SourceError
from clipmill.ingest.layouts.listing import (
    Listing,
    Options,
    class_and_name,
    files_of,
    lines_of,
    matched,
)

LISTS = ("testTrainMulti_7030_splits", "test_train_splits")
NAME = re.compile(r"(?P<class>.+)_test_split(?P<fold>\d+)\.txt")
SPLITS = {"1": "train", "2": "test", "0": None}


def read(source: str, options: Options) -> Listing:
    """Class folders, and CLASS_test_splitN.txt below or beside them: 1 train, 2 test, 0 unused."""
    told: dict[str, dict[str, Any]] = {}
    for name, path in sorted(files_of(source, LISTS).items()):
        found = NAME.fullmatch(name)
        if found is not None and found["fold"] == str(options.fold):
            told |= _told(path, found["class"], options.fold)
    if not told:
        raise SourceError(
            f"{source} has no list such as brush_hair_test_split{options.fold}.txt",
            "folders of classes and testTrainMulti_7030_splits/",
        )
    return matched(source, told, class_and_name, f"the lists of split {options.fold}")


def _told(path: str, label: str, fold: int) -> dict[str, dict[str, Any]]:
    told = {}
    for where, line in lines_of(path):
        name, _, flag = line.rpartition(" ")
        if flag not in SPLITS or not name.strip():
            raise SourceError(f"{where}: {line!r}", "VIDEO and 1 (train), 2 (test) or 0 (unused)")
        split = SPLITS[flag]
        left_out = "" if split else f"not used in split {fold}"
        told[f"{label}/{name.strip()}"] = {"label": label, "split": split, "left_out": left_out}
    return told
