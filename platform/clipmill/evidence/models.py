"""The models of a family as rows: what each is, sees, costs and needs, read from the plugins.

A row a shipped recipe, so that the variants of one plugin stand beside each other. Trains
nothing and opens no video.
"""

from typing import Any

import yaml

from clipmill import plugin as plugins
from clipmill import recipe as recipes
from clipmill.errors import UsageError
from clipmill.evidence.cost import counted
from clipmill.plugin import Plugin

Row = dict[str, Any]

STORED_RATE = 30.0  # frames a second of the training profile; strides are told in those
FOR_A_SHOW = "demo"  # recipes that begin so are narrow, and stand for no model


def model_rows(family: str, classes: int = 101) -> list[Row]:
    """A row a model of a family at the size of its recipe, or of its defaults."""
    return [_row(made, recipe, classes) for made, recipe in models_of(family)]


def models_of(family: str) -> list[tuple[Plugin, str]]:
    """The models of a family, each with the name of its recipe, if it has one."""
    entries = [entry for entry in plugins.found() if entry.plugin]
    own = [entry for entry in entries if entry.plugin and entry.plugin.family == family]
    if not own:
        known = sorted({entry.plugin.family for entry in entries if entry.plugin})
        raise UsageError(f"no models of the family {family!r}", f"one of {', '.join(known)}")
    shipped, none = _shipped(), [("", Row())]
    return [
        (plugins.make(entry.name, fields), recipe)
        for entry in own
        for recipe, fields in shipped.get(entry.name, none)
    ]


def _shipped() -> dict[str, list[tuple[str, Row]]]:
    """Names and model fields of the shipped recipes, by plugin."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for folder in recipes.shipped_folders():
        for path in sorted(folder.glob("*.yaml")):
            told = yaml.safe_load(path.read_text())
            model = told.get("model") if isinstance(told, dict) else None
            if isinstance(model, dict) and not path.stem.startswith(FOR_A_SHOW):
                fields = {name: value for name, value in model.items() if name != "plugin"}
                found.setdefault(str(model.get("plugin")), []).append((path.stem, fields))
    return found


def _row(made: Plugin, recipe: str, classes: int) -> Row:
    view, seen, cost = made.views()["test"], made.views().values(), counted(made, classes)
    return {
        "name": made.name,
        "recipe": recipe,
        "paper": made.paper,
        "frames": view.frames,
        "stride": STORED_RATE / view.rate,
        "size": view.size,
        "parameters": cost.parameters,
        "flops": cost.flops,
        "streams": list(dict.fromkeys(name for each in seen for name in each.streams)),
        "files": _files(made),
        "classes": classes,
    }


def _files(made: Plugin) -> list[str]:
    """The fields that name a file of weights to start from."""
    names = type(made).model_fields
    return [n for n in names if n.split("_")[-1] == "weights" and n != "class_weights"]
