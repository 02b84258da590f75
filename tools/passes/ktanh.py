"""Let what computes tanh and its relatives on real numbers approximate them by K-TanH."""
from __future__ import annotations

from collections import Counter

from edgerun.ops.elementwise import KTANH
from edgerun.tools.graph import Graph
from edgerun.tools.passes._rewrite import is_float


def apply(graph: Graph) -> None:
    """Replace tanh, sigmoid, SiLU and GELU of unary ops, of fused activations and of the gates of
    lstm and gru; a note of the graph tells how many.

    Ops that write integers stay: their tables and fixed-point functions are those of the exact
    ones, and as fast. Runs after lowering, so that no table is made from an approximation.
    """
    replaced: Counter[str] = Counter()
    for op in graph.ops:
        if not is_float(op.outputs[0]):
            continue
        for key in ("kind", "activation"):
            exact = op.options.get(key)
            if exact in KTANH:
                op.options[key] = KTANH[exact]
                replaced[exact] += 1
        if op.code in ("lstm", "gru"):
            op.options["ktanh"] = True
            replaced[op.code] += 1
    found = ", ".join(f"{count} {what}" for what, count in sorted(replaced.items()))
    graph.notes.append(f"K-TanH approximates tanh in {found}." if found else
                       "K-TanH approximates nothing: no op computes a tanh, sigmoid, SiLU or GELU "
                       "on real numbers.")
