"""Something-Something: JSON lists of its splits, and videos named by number."""

import json
import re
from collections.abc import Mapping
from typing import Any

from clipmill import storage
from clipmill.errors import SourceError
from clipmill.ingest.layouts.listing import (
    SPLITS,
    Listing,
    Options,
    files_of,
    matched,
    stem_of,
)

NAME = re.compile(r"(?:.*[-_])?(train|validation|test|labels)\.json")


def read(source: str, options: Options) -> Listing:
    """Videos ID.webm below SOURCE; lists train, validation, test and labels .json there or beside.

    The test list tells no classes.
    """
    lists = {
        found[1]: path
        for name, path in files_of(source, ("labels",)).items()
        if (found := NAME.fullmatch(name))
    }
    classes = _classes(lists.pop("labels", None))
    if not lists:
        raise SourceError(
            f"{source} has none of the lists", "train.json, validation.json or test.json"
        )
    told: dict[str, dict[str, Any]] = {}
    for name, path in sorted(lists.items()):
        for number, each in enumerate(_loaded(path, list), 1):
            identity, fields = _told(f"{path}, entry {number}", each, classes)
            if identity in told:
                raise SourceError(f"{path}, entry {number}: {identity} again", "each video once")
            told[identity] = {**fields, "split": SPLITS[name]}
    return matched(source, told, stem_of, "the lists")


def _loaded(path: str, kind: type) -> Any:
    try:
        value = json.loads(storage.read(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}", f"a JSON {kind.__name__}") from error
    if not isinstance(value, kind):
        raise SourceError(f"{path} holds a {type(value).__name__}", f"a JSON {kind.__name__}")
    return value


def _classes(path: str | None) -> set[str]:
    return {_class_of(name) for name in _loaded(path, dict)} if path else set()


def _class_of(template: str) -> str:
    return re.sub(r"\[([^\]]*)\]", r"\1", template)


def _told(where: str, each: object, classes: set[str]) -> tuple[str, dict[str, Any]]:
    texts = ("label", "template")
    if (
        not isinstance(each, Mapping)
        or not isinstance(each.get("id"), str | int)
        or not all(isinstance(each.get(name, ""), str) for name in texts)
    ):
        raise SourceError(f"{where}: {json.dumps(each)[:60]}", "an object with id, label, template")
    template = each.get("template") or each.get("label")
    label = _class_of(template) if template else None
    if label and classes and label not in classes:
        raise SourceError(f"{where}: the class {label!r}", "a class of the list of labels")
    placeholders = each.get("placeholders") or []
    if not isinstance(placeholders, list):
        raise SourceError(f"{where}: placeholders {placeholders!r}", "a list")
    attributes = {"placeholders": "|".join(map(str, placeholders))} if placeholders else {}
    if each.get("template") and each.get("label"):
        attributes["caption"] = each["label"]
    return str(each["id"]), {"label": label, "attributes": attributes}
