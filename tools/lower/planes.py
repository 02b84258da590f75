"""Convolutions and dense layers whose weights are bit planes (planes_conv2d, planes_dense)."""
from __future__ import annotations

import numpy as np

from edgerun.ops import OPS
from edgerun.ops.planes import MOST, sums_fit
from edgerun.tools.graph import Op, Tensor, full_options
from edgerun.tools.lower._lowering import Lowering
from edgerun.tools.lower.weighted import CLAMPS
from edgerun.tools.planes.codes import Planes, coded
from edgerun.tools.reference.planes import encode

CODES = {"conv2d": "planes_conv2d", "dense": "planes_dense"}
OWN = ("wide", "chunk")  # options of layers over ordinary integers


def lower_planes(lower: Lowering, op: Op) -> bool:
    """dequantize(x) * planes of weights (-> quantize) -> one op with as many planes as count."""
    w = lower.stored(op.inputs[1])
    if not coded(w) or obstacle(lower, op):
        return False
    x, y = lower.integer(op.inputs[0]), _stored(lower, op)
    codes, given = w.quantization.plain(w.data)
    graph = lower.graph
    levels = _levels(lower, op, given)
    y = op.outputs[0] if y is None else y
    planes = [graph.constant(words, f"{op.name}.plane{k}", "bits")
              for k, words in enumerate(encode(codes, given.signs, given.bits))]
    options = {key: value for key, value in op.options.items() if key not in OWN}
    inputs = [x, graph.constant(levels, f"{op.name}.levels"), graph.used(op.name), *planes]
    options["signs"] = given.signs
    if op.code == "conv2d":
        options |= {"kernel_h": w.shape[1], "kernel_w": w.shape[2]}
    code = CODES[op.code]
    OPS[code].infer(Op(code, op.name, inputs, [y], full_options(code, options)))
    lower.replace(op, code, inputs, y, **options)
    return True


def obstacle(lower: Lowering, op: Op) -> str:
    """Return why no op with planes takes a layer whose weights are planes; "" if one does."""
    if op.code not in CODES:
        return f"no {op.code} takes planes"
    x, w = lower.integer(op.inputs[0]), lower.stored(op.inputs[1])
    if not coded(w):
        return "they are not those of the layer"
    if x is None:
        return "what they read is not quantized (with one scale, and 0 for 0 in 16 bits)"
    if w.quantization.axis != 0:
        return "their output channels are not on the first axis"
    if len(op.inputs) > 2 and op.inputs[2] is not None and not op.inputs[2].constant:
        return "their bias is not constant"
    if len(op.inputs) > 3 and op.inputs[3] is not None:
        return "another tensor is added to what they compute"
    codes, given = w.quantization.plain(w.data)
    if given.bits > MOST[given.signs]:
        return (f"the values of their table take {given.bits} planes, of which an op has "
                f"{MOST[given.signs]} at most")
    products = codes[0].size
    if not sums_fit(products, given.signs, given.bits):
        return f"a sum of {products} products with {given.bits} planes may not fit into 32 bits"
    if not np.isfinite(_levels(lower, op, given)).all():
        return "their scales or biases are beyond fp32"
    return ""


def _stored(lower: Lowering, op: Op) -> Tensor | None:
    return lower.store(op) if op.options["activation"] in CLAMPS else None


def _levels(lower: Lowering, op: Op, given: Planes) -> np.ndarray:
    y, bias = _stored(lower, op), op.inputs[2] if len(op.inputs) > 2 else None
    return levels_of(given, lower.integer(op.inputs[0]).quantization.step,
                     1.0 if y is None else y.quantization.step, 0.0 if bias is None else bias.data)


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


def tell(lower: Lowering) -> None:
    """Note the layers whose planes no rule takes, and why: they become real numbers."""
    graph, kept = lower.graph, {}
    coded_weights = {op.outputs[0] for op in graph.ops
                     if op.code == "dequantize" and coded(op.inputs[0])}
    for op in graph.ops:
        if coded_weights.intersection(op.inputs):
            kept.setdefault(obstacle(lower, op), []).append(op.name)
    for why, names in kept.items():
        graph.notes.append(
            f"{len(names)} layers keep weights that are planes as real numbers, since {why}: "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}.")


RULES = {code: lower_planes for code in CODES}
