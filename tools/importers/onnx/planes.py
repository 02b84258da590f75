"""ONNX ops of edgerun's own domain: weights as bit planes, and binary activations.

BitPlanes(codes, scale, offset, bias?) -> (w, b?): real weights of the first t planes are
scale[t] * (codes_t + offset[t]), and the bias is bias[t]; see edgerun.tools.planes. Binarize(x) is
1 where x >= 0, else -1. tools/planes/onnx.py writes both.
"""
from __future__ import annotations

import numpy as np
import onnx

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Integers, Node, Value
from edgerun.tools.importers.onnx.elementwise import binary
from edgerun.tools.planes import integers
from edgerun.tools.planes.codes import Planes

READERS = {"Conv": 1, "Gemm": 1, "MatMul": 1}  # op type -> index of its weights
CODES = ("int8", "int16")


def _bit_planes(ctx: Context, node: Node) -> list[Value]:
    bits, signs = node.attr("bits"), node.attr("signs", "twos")
    if not isinstance(bits, int) or not isinstance(signs, str):
        raise ModelError("needed the attributes bits (an integer) and signs (text)")
    integers.check(bits, signs)
    q = node.known(0, "codes")
    if q.dtype.name not in CODES or q.ndim < 2:
        raise ModelError(f"its codes are {q.dtype} of the shape {q.shape}, needed "
                         f"{' or '.join(CODES)} in the shape of weights")
    axis = node.attr("axis", 0)
    if axis not in (0, 1):
        raise ModelError(f"its axis is {axis}, needed 0 or 1: that of the output channels")
    table = tuple(int(v) for v in node.attr("table") or ())
    _check_codes(q, bits, signs, table)
    needed = (bits + 1, q.shape[axis])
    scale, offset = (_rows(node, index, what, needed) for index, what in
                     ((1, "scale"), (2, "offset")))
    if bits and not np.all(scale[1:] > 0):
        raise ModelError(f"{node.input_name(1)} has the scale {scale[1:].min()}, needed numbers "
                         "above 0 for one plane and more")
    bias = _rows(node, 3, "bias", needed) if node.given(3) else None
    given = Planes.of(signs, scale, offset, axis, None if bias is None else (
        bias.astype(np.float64) - bias[-1]), table)
    stored = np.zeros_like(q) if bits == 0 else q
    values = [Value(array=given.reals(stored), integers=Integers(stored, given))]
    if node.used(1):
        if bias is None:
            raise ModelError(f"its output {node.outputs[1]!r} is read, but it has no bias")
        values.append(Value(array=bias[-1]))
    elif bias is not None:
        raise ModelError("it has a bias, but its second output is not read by the layer")
    return values


def _check_codes(q: np.ndarray, bits: int, signs: str, table: tuple[int, ...]) -> None:
    if table:
        if signs != "twos" or bits < 1 or list(table) != sorted(set(table)) \
                or len(table) > 2**bits or max(map(abs, table)) > 2**15 - 1:
            raise ModelError(f"its table has {len(table)} values, needed up to {2**bits} "
                             "ascending ones of 16 bits, and the signs 'twos'")
        low, high = 0, len(table) - 1
    else:
        low, high = integers.bounds(bits, signs)
    if q.size and (q.min() < low or q.max() > high):
        raise ModelError(f"its codes are {q.min()} to {q.max()}, {bits} bits with the signs "
                         f"{signs!r} hold {low} to {high}")


def _rows(node: Node, index: int, what: str, needed: tuple[int, int]) -> np.ndarray:
    rows = node.known(index, what)
    if rows.dtype != np.float32 or rows.shape != needed:
        raise ModelError(f"{node.input_name(index)}, its {what}, is {rows.dtype} of the shape "
                         f"{rows.shape}, needed float32 of the shape {needed}: a row for every "
                         "number of planes, a column for every output channel")
    if not np.isfinite(rows).all():
        raise ModelError(f"{node.input_name(index)}, its {what}, holds numbers that are not finite")
    return rows


def _binarize(ctx: Context, node: Node) -> Tensor:
    x = ctx.tensor(0)
    positive = binary(ctx, "greater_equal", x, ctx.constant(np.float32(0), like=x))
    return ctx.add("where", [positive, ctx.constant(np.float32(1), like=x),
                             ctx.constant(np.float32(-1), like=x)])


def check_readers(graph: onnx.GraphProto) -> None:
    """Check that both outputs of every BitPlanes lead to one and the same layer, as it reads them.

    The bodies of nodes are checked too; what a body reads of the graph around it counts as read by
    the node.

    Raises:
        ModelError: they do not: a bias of one prefix would meet weights of another.
    """
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
        for body in _bodies(node):
            check_readers(body)
            for name in _captured(body):
                readers.setdefault(name, []).append((node, -1))
    results = {output.name for output in graph.output}
    for node in graph.node:
        if node.domain != "edgerun" or node.op_type != "BitPlanes" or not node.output:
            continue
        where = f"BitPlanes {node.name or node.output[0]!r}"
        found = readers.get(node.output[0], [])
        if len(found) != 1 or node.output[0] in results or found[0][1] != READERS.get(
                found[0][0].op_type):
            raise ModelError(f"{where}: its weights are read by "
                             f"{', '.join(n.op_type for n, _ in found) or 'nothing'}, needed one "
                             f"{', '.join(READERS)} that has them as its weights")
        layer = found[0][0]
        kind, last = layer.op_type, layer.op_type == "Gemm" and not _attribute(layer, "transB", 0)
        axis, needed = _attribute(node, "axis", 0), int(last or kind == "MatMul")
        if axis in (0, 1) and axis != needed:
            raise ModelError(f"{where}: its axis is {axis}, but the output channels of "
                             f"{kind + ' without transB' if last else kind} are on axis {needed} "
                             "of the weights")
        if len(node.output) > 1 and node.output[1]:
            others = readers.get(node.output[1], [])
            if ([(id(n), i) for n, i in others] != [(id(layer), 2)] or kind == "MatMul"
                    or node.output[1] in results):
                raise ModelError(f"{where}: its bias must be that of the {kind} that has "
                                 "its weights, and of nothing else")
            if _attribute(layer, "beta", 1.0) != 1.0:
                raise ModelError(f"{where}: its bias is multiplied by the beta "
                                 f"{_attribute(layer, 'beta', 1.0):g} of {kind}, needed 1: put the "
                                 "factor into the bias")


def _attribute(node: onnx.NodeProto, name: str, default: int | float) -> int | float:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name),
                default)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for a in node.attribute for body in (*([a.g] if a.HasField("g") else ()),
                                                      *a.graphs)]


def _captured(body: onnx.GraphProto) -> set[str]:
    """Return the names that a body reads of the graphs around it."""
    own = {info.name for info in body.input} | {held.name for held in body.initializer}
    read = {info.name for info in body.output}
    for node in body.node:
        own |= {*node.output}
        read |= {*node.input}.union(*map(_captured, _bodies(node)))
    return read - own


TABLE = {"BitPlanes": _bit_planes, "Binarize": _binarize}
