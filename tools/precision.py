"""Choose the storage type of every tensor."""
from __future__ import annotations

import numpy as np

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.tools import plan as planner
from edgerun.tools.graph import Boundary, Graph, Op, Tensor

# Inputs that stay fp32 whatever the precision: they start or scale an fp32 accumulator.
# Inputs of layers: 2 is the bias, 5 what integers are multiplied by.
FP32_INPUTS = dict.fromkeys(("conv2d", "depthwise_conv2d", "conv_transpose2d", "dense"), {2, 5})
MOST_HALF = float(np.finfo(np.float16).max)  # 65504
EXACT_INPUT_COST = 0.01  # of all weights: what the constants beside an fp32 input may add in bytes


def widen(graph: Graph) -> str:
    """Make every float tensor of an imported graph fp32, which is what passes compute in.

    Returns:
        The precision of the source model's arithmetic: "fp16" if all its float tensors were, else
        "fp32" (with a note, if some were fp16).
    """
    floats = [tensor for tensor in graph.tensors() if tensor.dtype in dtypes.FLOAT]
    half = [tensor for tensor in floats if tensor.dtype == "fp16"]
    for tensor in half:
        _store_as(tensor, "fp32")
    for op in graph.ops:
        if op.code in ("cast", "dequantize") and op.options["dtype"] == "fp16":
            op.options["dtype"] = "fp32"
    if half and len(half) < len(floats):
        graph.notes.append(f"{len(half)} of {len(floats)} float tensors of the source model are "
                           "fp16: all are kept in fp32 unless --precision fp16 is given")
    return "fp16" if half and len(half) == len(floats) else "fp32"


def convert(graph: Graph, precision: str, aliases: dict[Tensor, Tensor],
            exact_inputs: bool = True) -> None:
    """Give every float tensor its storage type.

    Args:
        graph: fp32 tensors as imported, reshapes already turned into aliases.
        precision: "fp32" leaves them; "fp16" converts all but biases, which are fp32.
        aliases: tensor -> the root tensor whose bytes it uses.
        exact_inputs: at fp16, keep an input of the graph in fp32 where that costs no arena.
    """
    kept = {id(op.inputs[i]) for op in graph.ops for i in FP32_INPUTS.get(op.code, ())
            if i < len(op.inputs) and op.inputs[i] is not None}
    if precision == "fp16":
        _part_roles(graph, kept)
    full = {tensor: tensor.data for tensor in graph.tensors()
            if tensor.constant and tensor.dtype in dtypes.FLOAT}
    for tensor in {*graph.tensors(), *aliases, *aliases.values()}:
        if tensor.dtype in dtypes.FLOAT:
            _store_as(tensor, "fp32" if id(tensor) in kept else precision)
    for op in graph.ops:
        if op.code == "cast" and op.options["dtype"] in dtypes.FLOAT:
            op.options["dtype"] = op.outputs[0].dtype
    if precision == "fp16" and exact_inputs:
        for boundary in graph.inputs:
            _widen_input(graph, boundary, full, aliases)


def _part_roles(graph: Graph, kept: set[int]) -> None:
    """Give every reader that wants a bias in another role a copy, which is stored as it needs."""
    copies: dict[Tensor, Tensor] = {}
    for op in graph.ops:
        fp32 = FP32_INPUTS.get(op.code, ())
        for i, x in enumerate(op.inputs):
            if x is not None and x.constant and id(x) in kept and i not in fp32:
                if x not in copies:
                    copies[x] = graph.constant(x.data, x.name)
                op.inputs[i] = copies[x]


def _store_as(tensor: Tensor, dtype: str) -> None:
    tensor.dtype = dtype
    if tensor.constant:
        values = tensor.data
        if dtype == "fp16":
            # Attention masks multiply by -1e9 or the like. As an infinity, 0 times it would be NaN.
            values = np.where(np.isinf(values), values, np.clip(values, -MOST_HALF, MOST_HALF))
        tensor.data = values.astype(dtypes.numpy_dtype(dtype))


def _widen_input(graph: Graph, boundary: Boundary, full: dict[Tensor, np.ndarray],
                 aliases: dict[Tensor, Tensor]) -> None:
    """Keep an fp32 input in fp32 if that is free: no larger arena, hardly more weights.

    Rounding the input perturbs everything behind it, and a network that normalizes small contrasts
    amplifies that more than any later rounding.
    """
    x = boundary.tensor
    readers = graph.consumers().get(x, [])
    if (boundary.dtype != "fp32" or x in aliases.values() or not readers or graph.is_output(x)
            or not all(_reads_wide(op, x) for op in readers)):
        return
    constants = {t for op in readers for t in op.inputs
                 if t is not None and t.constant and t.dtype == "fp16"}
    users = graph.consumers()
    if any(user not in readers for t in constants for user in users[t]):
        return
    weights = sum(t.bytes for t in graph.tensors() if t.constant)
    if sum(t.bytes for t in constants) > EXACT_INPUT_COST * weights:
        return
    before = _bound(graph, aliases)
    x.dtype = "fp32"
    if _bound(graph, aliases) > before:
        x.dtype = "fp16"
        return
    for tensor in constants:
        tensor.dtype, tensor.data = "fp32", full[tensor]


def _reads_wide(op: Op, x: Tensor) -> bool:
    """Whether the op can read `x` in fp32 and write fp16: all its other inputs are constants."""
    return OPS[op.code].mixed and all(t is x or t is None or t.constant for t in op.inputs)


def _bound(graph: Graph, aliases: dict[Tensor, Tensor]) -> int:
    blocks, scratch = planner.blocks_of(graph, aliases)
    return planner.lower_bound([*blocks.values(), *scratch.values()])[0]
