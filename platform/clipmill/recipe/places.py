"""Places in a recipe: paths that hold from any folder and on any node."""

import os
from typing import TypeVar

from pydantic import BaseModel

from clipmill import plugin, storage

AnySection = TypeVar("AnySection", bound=BaseModel)
SQLITE = "sqlite:///"


def anchored(section: AnySection, told_by: type[BaseModel] | None = None) -> AnySection:
    """The same with absolute paths in all fields that are places."""
    named = {name: getattr(section, name, None) for name in plugin.places(told_by or type(section))}
    moved = {name: storage.absolute(at) for name, at in named.items() if at and isinstance(at, str)}
    return section.model_copy(update=moved)


def source(named: str, runs: str) -> str:
    """What a run begins with: a path from here is one from anywhere; a name stays one."""
    is_name = os.path.exists(storage.join(runs, named)) or not os.path.exists(named)
    return named if is_name else storage.absolute(named)


def anchored_store(uri: str) -> str:
    """The address of a tracking store, where it is a file or folder with an absolute path."""
    scheme = SQLITE if uri.startswith(SQLITE) else ""
    if not scheme and (":" in uri or uri in ("", "databricks")):
        return uri
    return f"{scheme}{storage.absolute(uri.removeprefix(scheme))}"
