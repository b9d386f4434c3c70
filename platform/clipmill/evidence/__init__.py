"""What a family of models can and cannot do: claims, the trials that they need, one table.

Claims stand in a file beside worlds and models; a trial is an ordinary run and a test of it, made
once and never again. Knows no model and no world by name.
"""

from clipmill.evidence.asked import Asked, Claim, Pair, World, read
from clipmill.evidence.claims import Judged, Measured, interval, judged
from clipmill.evidence.conduct import Parts, run
from clipmill.evidence.cost import Cost, counted
from clipmill.evidence.models import model_rows
from clipmill.evidence.pages import models_table, placed, results_tables

__all__ = [
    "Asked",
    "Claim",
    "Cost",
    "Judged",
    "Measured",
    "Pair",
    "Parts",
    "World",
    "counted",
    "interval",
    "judged",
    "model_rows",
    "models_table",
    "placed",
    "read",
    "results_tables",
    "run",
]
