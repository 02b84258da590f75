"""Layers of numbers +1 and -1 with weights +a and -a: counts of equal bits (XNOR).

The networks of Rastegari et al., "XNOR-Net", 2016: y = a (terms - 2 popcount(x ^ w)) + bias.
"""
from __future__ import annotations

import numpy as np

from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.passes._rewrite import Rewriter, input_at, is_float, rewrite, scalar
from edgerun.tools.planes.codes import coded
from edgerun.tools.reference.planes import words

CODES = {"conv2d": "xnor_conv2d", "dense": "xnor_dense"}
OWN = ("wide", "chunk", "signs")  # options of layers over integers


def apply(graph: Graph) -> None:
    """Lower every such layer. Exact, so it needs nobody's leave."""
    rewrite(graph, {code: (_to_xnor,) for code in CODES})


def _to_xnor(rewriter: Rewriter, op: Op) -> bool:
    weights, bias = _signed(rewriter, op.inputs[1]), input_at(op, 2)
    if (weights is None or input_at(op, 3) is not None or op.options.get("groups", 1) != 1
            or bias is not None and not bias.constant):
        return False
    x = _binarized(rewriter, op)
    if x is None:
        return False
    alpha = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    offset = np.zeros_like(alpha) if bias is None else bias.data.reshape(-1)
    graph = rewriter.graph
    packed = words(weights >= 0).reshape(len(weights), -1)
    levels = np.stack([alpha, offset]).astype(np.float32)
    options = {key: value for key, value in op.options.items() if key not in OWN}
    options["channels"] = x.shape[-1]
    if op.code == "conv2d":
        options |= {"kernel_h": weights.shape[1], "kernel_w": weights.shape[2]}
    bits = rewriter.add(op, "binarize", [x], f"{x.name}.bits")
    y = rewriter.add(op, CODES[op.code], [
        bits, graph.constant(packed, f"{op.name}.bits", "bits"),
        graph.constant(levels, f"{op.name}.levels")], op.name, **options)
    rewriter.replace(op.outputs[0], y)
    return True


def _signed(rewriter: Rewriter, w: Tensor) -> np.ndarray | None:
    """Return constant weights of which each output channel has one magnitude, else None."""
    stored = rewriter.producer(w, "dequantize")
    if stored is not None and coded(stored.inputs[0]):
        values = stored.inputs[0].quantization.reals(stored.inputs[0].data)
    elif w.constant and is_float(w):
        values = w.data
    else:
        return None
    rows = np.abs(values).reshape(len(values), -1)
    return values if (rows == rows[:, :1]).all() else None


def _binarized(rewriter: Rewriter, op: Op) -> Tensor | None:
    """Return x of an op that reads (x >= 0 ? 1 : -1), in the shape in which it is read; else None.
    """
    read = op.inputs[0]
    moved = rewriter.producer(read, "reshape")
    chosen = rewriter.producer(read if moved is None else moved.inputs[0], "where")
    if chosen is None:
        return None
    test = rewriter.producer(chosen.inputs[0], "binary", kind="greater_equal", activation="")
    if (test is None or [scalar(t) for t in chosen.inputs[1:]] != [1.0, -1.0]
            or scalar(test.inputs[1]) != 0.0 or not is_float(test.inputs[0])
            or test.inputs[0].shape != chosen.outputs[0].shape):
        return None
    x = test.inputs[0]
    return x if moved is None else rewriter.add(op, "reshape", [x], moved.name,
                                                shape=moved.options["shape"])
