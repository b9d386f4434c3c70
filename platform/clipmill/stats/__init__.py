"""Statistics of a dataset: how much there is of what, how it is spread, and what was not taken.

Read from the catalog and the ledger alone: no video is opened. Gives plain data, tables for a
terminal, and a picture; knows neither the terminal nor how a dataset is made.
"""

from clipmill.stats.classes import NO_VALUE
from clipmill.stats.counted import stats
from clipmill.stats.drawing import picture, plot
from clipmill.stats.tables import Section, bars, sections

__all__ = ["NO_VALUE", "Section", "bars", "picture", "plot", "sections", "stats"]
