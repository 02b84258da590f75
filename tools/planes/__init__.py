"""Weights as bit planes: what they mean, how float weights become them, and how they are packed."""
from edgerun.tools.planes.codes import Planes
from edgerun.tools.planes.integers import MOST, SIGNS, cut

__all__ = ["MOST", "SIGNS", "Planes", "cut"]
