"""Mixed precision: the smallest file and arena whose error stays within a bound."""
from edgerun.tools.mixed.error import Error
from edgerun.tools.mixed.search import MAX_ERROR, Built, Choice, MixedReport, search

__all__ = ["MAX_ERROR", "Built", "Choice", "Error", "MixedReport", "search"]
