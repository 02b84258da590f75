"""Convolutions and dense layers whose weights are bit planes (planes_conv2d, planes_dense)."""
from __future__ import annotations

import numpy as np

from edgerun.errors import ModelError
from edgerun.ops import OPS
from edgerun.tools.graph import Graph, Op, full_options
from edgerun.tools.lower._lowering import Lowering
from edgerun.tools.lower.weighted import CLAMPS
from edgerun.tools.planes.codes import Planes, coded
from edgerun.tools.reference.planes import encode

CODES = {"conv2d": "planes_conv2d", "dense": "planes_dense"}
OWN = ("wide", "chunk")  # options of layers over ordinary integers


def lower_planes(lower: Lowering, op: Op) -> bool:
    """dequantize(x) * planes of weights (-> quantize) -> one op with as many planes as count."""
    w, bias = lower.stored(op.inputs[1]), op.inputs[2] if len(op.inputs) > 2 else None
    x = lower.integer(op.inputs[0])
    if (not coded(w) or x is None or bias is not None and not bias.constant
            or len(op.inputs) > 3 and op.inputs[3] is not None):
        return False
    codes, given = w.quantization.plain(w.data)
    graph = lower.graph
    y = lower.store(op) if op.options["activation"] in CLAMPS else None
    step = 1.0 if y is None else y.quantization.step
    y = op.outputs[0] if y is None else y
    levels = levels_of(given, x.quantization.step, step, 0.0 if bias is None else bias.data)
    if not np.isfinite(levels).all():
        return False
    planes = [graph.constant(words, f"{op.name}.plane{k}", "bits")
              for k, words in enumerate(encode(codes, given.signs, given.bits))]
    options = {key: value for key, value in op.options.items() if key not in OWN}
    inputs = [x, graph.constant(levels, f"{op.name}.levels"), graph.used(op.name), *planes]
    options["signs"] = given.signs
    if op.code == "conv2d":
        options |= {"kernel_h": w.shape[1], "kernel_w": w.shape[2]}
    code = CODES[op.code]
    try:
        OPS[code].infer(Op(code, op.name, inputs, [y], full_options(code, options)))
    except ModelError:  # sums of more products than 32 bits hold
        return False
    lower.replace(op, code, inputs, y, **options)
    return True


def levels_of(given: Planes, step_x: float, step_y: float, bias: np.ndarray | float) -> np.ndarray:
    """Return fp32 [bits + 1, 3, OC]: what sums of products, the sum of x and 1 are multiplied by.

    y / step_y = A sum(q_t x) + B sum(x) + C, for A = step_x * scale[t] / step_y, B = A * offset[t]
    and C = (bias + shift[t]) / step_y; without planes y is C.

    Args:
        given: of the weights.
        step_x, step_y: scales of the integers; step_y is 1 where y is real.
        bias: real [OC], of all planes.
    """
    a = step_x * given.scales / step_y
    a[0] = 0.0
    c = np.broadcast_to((np.asarray(bias, np.float64) + given.shifts) / step_y, a.shape)
    with np.errstate(over="ignore"):
        return np.stack([a, a * given.offsets, c], axis=1).astype(np.float32)


def tell(graph: Graph) -> None:
    """Note the layers whose planes no rule takes: they become real numbers."""
    coded_weights = {op.outputs[0] for op in graph.ops
                     if op.code == "dequantize" and coded(op.inputs[0])}
    names = [op.name for op in graph.ops if coded_weights.intersection(op.inputs)]
    if names:
        graph.notes.append(
            f"{len(names)} layers keep weights that are planes as real numbers, since what they "
            "read is not quantized (with one scale, and 0 for 0 in 16 bits): "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}.")


RULES = {code: lower_planes for code in CODES}
