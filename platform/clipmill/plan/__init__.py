"""The plan: the ordered takes of a run, as a library over the catalog that opens no video.

A take's place in a run is one integer; ranks, resume, dry runs and the feed's requests are
slices of the plan. Knows neither how takes are decoded nor who trains on them.
"""

from clipmill.plan.cost import Cost, cost
from clipmill.plan.epochs import Plan
from clipmill.plan.lot import Lot
from clipmill.plan.making import (
    catalog_of,
    check_batch,
    check_ranks,
    clips_that_fill,
    make,
    of_all,
    splits,
    warnings,
)
from clipmill.plan.table import dump, rank_slice, ranks, tables
from clipmill.plan.visits import Sampling

__all__ = [
    "Cost",
    "Lot",
    "Plan",
    "Sampling",
    "catalog_of",
    "check_batch",
    "check_ranks",
    "clips_that_fill",
    "cost",
    "dump",
    "make",
    "of_all",
    "rank_slice",
    "ranks",
    "splits",
    "tables",
    "warnings",
]
