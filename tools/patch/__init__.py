"""Patch execution: ops with large images run strip by strip, and need less memory."""
from edgerun.tools.patch.apply import OFF, PatchReport, apply, cut_all, parse
from edgerun.tools.patch.choose import Candidate, Choice, Outline, below, frontier
from edgerun.tools.patch.rewrite import Stage, cut
from edgerun.tools.patch.rows import can_cut

__all__ = ["OFF", "Candidate", "Choice", "Outline", "PatchReport", "Stage", "apply", "below",
           "can_cut", "cut", "cut_all", "frontier", "parse"]
