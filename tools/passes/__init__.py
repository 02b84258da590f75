"""Graph passes, in the order the packer runs them. Each changes a graph in place, alone."""
from collections.abc import Callable

from edgerun.tools.graph import Graph
from edgerun.tools.passes import (
    activations, affine, alias, binary, dead_code, dilations, duplicates, fold, gates, identities,
    ktanh, linear, norms, pads, pieces, reshapes, splits, transposes)

__all__ = ["FINISH", "PIPELINE", "alias", "ktanh", "pipeline"]

_CLEAN = [
    ("dead_code", dead_code.apply),
    ("fold", fold.apply),
    ("duplicates", duplicates.apply),
    ("identities", identities.apply),
    ("pieces", pieces.apply),
]
PIPELINE: list[tuple[str, Callable[[Graph], None]]] = [
    *_CLEAN,
    ("dilations", dilations.apply),
    ("linear", linear.apply),          # dense layers, whose weights take in the order of a flatten
    ("transposes", transposes.apply),  # before the patterns: they want the channels last
    ("fold", fold.apply),
    ("reshapes", reshapes.apply),
    *_CLEAN,
    ("gates", gates.apply),            # before affine, which would take their first step
    ("affine", affine.apply),          # biases, without which a layer cannot be cut
    ("splits", splits.apply),
    ("reshapes", reshapes.apply),
    ("identities", identities.apply),
    ("norms", norms.apply),
    ("identities", identities.apply),
    ("gates", gates.apply),
    ("affine", affine.apply),
    ("linear", linear.apply),
    ("identities", identities.apply),
    ("pads", pads.apply),
    ("transposes", transposes.apply),  # again: patterns that were in the way are single ops now
    ("reshapes", reshapes.apply),
    ("identities", identities.apply),
    ("affine", affine.apply),
    ("activations", activations.apply),
    ("binary", binary.apply),
    *_CLEAN[:3],
]
# What float ops get after integers have been lowered.
FINISH = [("activations", activations.apply), *_CLEAN[:3]]


def pipeline(integers: bool = False) -> list[tuple[str, Callable[[Graph], None]]]:
    """Return the passes for a graph of real numbers, or for one some of which become integers."""
    return [("clamps", activations.clamps) if integers and name == "activations" else (name, step)
            for name, step in PIPELINE]
