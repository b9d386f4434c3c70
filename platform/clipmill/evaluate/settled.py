"""The meter of a model, with what a validation of that model chose for it.

Knows neither answers nor figures.
"""

from clipmill.infer import Model
from clipmill.plugin import Meter


def settled_meter(model: Model) -> Meter:
    """Make a new meter that goes by the model's own validation, where it had one."""
    made = model.plugin.meter()
    assert made is not None, "checked before"
    settle = getattr(made, "settle", None)
    if settle and "validation" in model.figures:
        settle(model.figures["validation"]["metrics"])
    return made
