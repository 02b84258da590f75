"""Find the fastest variant of every launch of a model on a device; see docs/tuning.md."""
from __future__ import annotations

from edgerun.tune.report import LaunchResult, TuneReport
from edgerun.tune.store import tune_file
from edgerun.tune.tuner import BUDGET, SMALL, tune

__all__ = ["BUDGET", "SMALL", "LaunchResult", "TuneReport", "tune", "tune_file"]
