"""What a run's network is worth to others: probes and fine-tunes beside random weights.

Equal budgets over fractions of the labels, in one table and one plot. A trial is an ordinary run
and a test of it, made once and never again. Knows no plugin by name.
"""

from clipmill.transfer.asked import Asked, Protocol, read
from clipmill.transfer.conduct import files_of, run
from clipmill.transfer.fit import Fit, fitted
from clipmill.transfer.pages import page
from clipmill.transfer.plot import drawn
from clipmill.transfer.verdict import judged, said

__all__ = [
    "Asked",
    "Fit",
    "Protocol",
    "drawn",
    "files_of",
    "fitted",
    "judged",
    "page",
    "read",
    "run",
    "said",
]
