"""UCF101: folders of classes and the official lists of its three splits.

The clips of a group come from one video, so that a group in two splits gives wrong results.
"""

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

LISTS = ("ucfTrainTestlist", "ucfTrainTestList")
LINE = re.compile(r"(?:.*/)?(?P<class>[^/]+)/(?P<name>[^/]+?\.\w+)(?:\s+(?P<number>\d+))?")
GROUP = re.compile(r"_g(\d+)_c\d+\.\w+$")

Told = dict[str, dict[str, Any]]


def read(source: str, options: Options) -> Listing:
    """Class folders, and trainlist0N.txt, testlist0N.txt and classInd.txt below or beside them."""
    files = files_of(source, LISTS)
    numbers = _class_numbers(files.get("classInd.txt"))
    told: Told = {}
    groups: dict[str, str] = {}
    for split in ("train", "test"):
        name = f"{split}list0{options.fold}.txt"
        if name not in files:
            raise SourceError(f"{source} has no {name}", "folders of classes and ucfTrainTestlist/")
        for where, line in lines_of(files[name]):
            _add(told, groups, numbers, split, where, line)
    return matched(source, told, class_and_name, f"the lists of split {options.fold}")


def _class_numbers(path: str | None) -> dict[str, str]:
    numbers = {}
    for where, line in lines_of(path) if path else ():
        number, _, name = line.partition(" ")
        if not number.isdigit() or not name.strip():
            raise SourceError(f"{where}: {line!r}", "a number and a class")
        numbers[name.strip()] = number
    return numbers


def _add(
    told: Told, groups: dict[str, str], numbers: dict[str, str], split: str, where: str, line: str
) -> None:
    found = LINE.fullmatch(line)
    if found is None:
        raise SourceError(f"{where}: {line!r}", "CLASS/VIDEO, and in a train list its number")
    label, name, number = found["class"], found["name"], found["number"]
    if numbers and (label not in numbers or number not in (None, numbers[label])):
        raise SourceError(f"{where}: class {label!r}, number {number}", "a class of classInd.txt")
    in_group = GROUP.search(name)
    group = f"{label}_g{in_group[1]}" if in_group else None
    if (other := groups.setdefault(group or f"{label}/{name}", split)) != split:
        raise SourceError(
            f"{where}: {group or name} is in the splits {other} and {split}",
            "every group in one split",
            "take the official lists",
        )
    told[f"{label}/{name}"] = {"label": label, "split": split, "group": group}
