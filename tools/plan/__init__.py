"""Plan the arena: a place for activations and scratch, and the bound no plan can beat."""
from edgerun.tools.plan.blocks import ALIGNMENT, Block, aligned, blocks_of, lower_bound
from edgerun.tools.plan.greedy import place
from edgerun.tools.plan.planner import Plan, plan, prove, solve
from edgerun.tools.plan.sweep import sweep

__all__ = ["ALIGNMENT", "Block", "Plan", "aligned", "blocks_of", "lower_bound", "place", "plan",
           "prove", "solve", "sweep"]
