"""What guessing gives: of a meter's own task, or of one class among several.

Knows no trials.
"""

from collections.abc import Mapping
from typing import Any

from clipmill.catalog import Catalog
from clipmill.plugin import Plugin


def of_classes(plugin: Plugin, catalog: Catalog) -> float | None:
    """The share right of one who guesses; None for models that tell no one class of a video."""
    classes = catalog.classes if plugin.learns == "one" else ()
    return 1 / len(classes) if classes else None


def of_result(result: Mapping[str, Any], otherwise: float | None) -> float | None:
    """That of its own task, where the meter tells one; else that of the data."""
    own = result["metrics"].get("own_chance")
    return otherwise if own is None else float(own)
