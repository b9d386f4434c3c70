"""The rule for labels: who learns classes needs one on every record, and classes to learn.

A record without a class may be answered, but neither trained nor validated on.
"""

import numpy as np

from clipmill.errors import PlanError, PluginError
from clipmill.plugin import Catalog, Info, Stage


def refuse_unlabelled(catalog: Catalog, stage: Stage) -> None:
    """Stop a plan that would learn from, or be judged by, records without a class."""
    missing = np.flatnonzero(catalog.labels < 0)
    if stage != "test" and len(missing):
        key = catalog.row(int(missing[0]))["key"]
        raise PlanError(
            f"{len(missing)} of {len(catalog)} records have no label to {stage} on, such as {key}",
            "a class for each",
            "label them, or leave them out with data.where",
        )


def class_count(info: Info, plugin: str) -> int:
    """How many classes the network must tell apart."""
    if not info.classes:
        raise PluginError(
            f"plugin {plugin!r} was given data without classes",
            "at least one class name",
            "ingest the videos with their labels",
        )
    return len(info.classes)
