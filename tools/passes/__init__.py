"""Graph passes, in the order the packer runs them. Each changes a graph in place, alone."""
from collections.abc import Callable

from edgerun.tools.graph import Graph
from edgerun.tools.passes import alias

__all__ = ["PIPELINE", "alias"]

PIPELINE: list[tuple[str, Callable[[Graph], None]]] = []
