"""Budgets: whether a model fits given RAM and flash, with the least loss, or what would make it."""
from edgerun.tools.budget.fit import Finder, Source, fit, pack
from edgerun.tools.budget.report import Budget, BudgetError, BudgetReport

__all__ = ["Budget", "BudgetError", "BudgetReport", "Finder", "Source", "fit", "pack"]
