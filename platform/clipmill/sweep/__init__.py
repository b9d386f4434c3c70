"""Many trials of one recipe: choices and ranges for some keys, the best by validation.

Each trial is an ordinary run beside the others, in MLflow a child of the sweep's own run. The
same command goes on with a broken sweep. Trials run one after another, or side by side on Ray.
"""

from clipmill.sweep.asked import Sweep, Trial, read
from clipmill.sweep.conduct import run
from clipmill.sweep.ledger import Ledger
from clipmill.sweep.space import Range, axis_of, drawn

__all__ = ["Ledger", "Range", "Sweep", "Trial", "axis_of", "drawn", "read", "run"]
