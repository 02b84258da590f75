"""ONNX quantization: QuantizeLinear and DequantizeLinear, and what the quantized ops share.

Everything becomes real arithmetic between dequantize and quantize: that says exactly which integers
are stored where, and the packer turns it into arithmetic on the integers. Constants stay integers
behind a dequantize.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from edgerun import dtypes
from edgerun.errors import ModelError, UnsupportedError
from edgerun.quantization import Quantization, dequantize, limits, quantize
from edgerun.tools.graph import MOVES, Graph, Op, Tensor
from edgerun.tools.importers.onnx import host
from edgerun.tools.importers.onnx.context import (
    Context, Integers, Node, Value, dtypes_name, need, normal_axis)
from edgerun.tools.importers.onnx.elementwise import binary, cast, unary

Function = Callable[[Context, Node], object]

STORED = (*dtypes.QUANTIZED, "int32")  # of constants; int32 only of biases
UNPACKED = ("int4", "uint4", "int2", "uint2")  # constants of these are kept as int8
# Foldable ops that move, repeat or pick elements of their first input.
MOVED = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
         "Expand", "Tile")


def kept_integers(node: Node) -> Integers | None:
    """Return the integers of what a foldable node makes of a constant that is stored as integers,
    None if it does more than move its elements."""
    first = node.inputs[0] if node.inputs else None
    if first is None or first.integers is None or node.op_type not in MOVED:
        return None
    return first.integers.moved(lambda a: host.evaluate(
        node.reading([Value(array=a), *node.inputs[1:]]))[0])


def grid(node: Node, scale_at: int, zero_at: int, dtype: str, shape: Sequence[int] = (),
         axis: int = 0) -> Quantization:
    """Return what scale and zero point of a node say, which must be constants.

    Args:
        scale_at, zero_at: indices of the inputs; the zero point may be left out.
        dtype: of the integers.
        shape, axis: of the integers, and the axis that several scales belong to.

    Raises:
        ModelError: a scale is no positive finite number, the zero point has another dtype, or their
            number fits neither the tensor nor its axis.
        UnsupportedError: they are computed at run time, or there is one per block of an axis.
    """
    name = node.input_name(scale_at)
    scale = node.known(scale_at, "scale").astype(np.float32)
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        raise ModelError(f"{name} has the scale {bad[0]}, needed positive finite numbers")
    zero = np.zeros(scale.shape, np.int32)
    if node.given(zero_at):
        zero = node.known(zero_at, "zero point")
        if _integer_name(zero.dtype) != dtype:
            raise ModelError(f"{node.input_name(zero_at)} is {zero.dtype}, needed {dtype} like "
                             "the integers it belongs to")
        if zero.size != scale.size:
            raise ModelError(f"{node.input_name(zero_at)} has {zero.size} zero points, needed "
                             f"{scale.size} like the scales")
        if dtype == "int32" and np.any(zero):
            raise ModelError(f"{node.input_name(zero_at)} has a zero point of int32 that is not 0")
    if scale.size != 1:
        wide = [k for k, n in enumerate(scale.shape) if n != 1]
        need(len(wide) <= 1, "it is quantized in blocks, needed one scale for the tensor or one "
             "per index of an axis")
        axis = normal_axis(axis, len(shape))
        if scale.size != shape[axis]:
            raise ModelError(f"{name} has {scale.size} scales, needed 1 or {shape[axis]} for axis "
                             f"{axis} of the shape {tuple(shape)}")
    return Quantization(scale.reshape(-1), zero.astype(np.int32).reshape(-1),
                        -1 if scale.size == 1 else axis)


def _integer_name(dtype: np.dtype) -> str | None:
    """Return the name of an integer type as edgerun stores it, None if it is none or too wide."""
    if dtype.name in UNPACKED:
        return "int8"
    name = dtypes_name(dtype)
    return name if name in STORED else None


def integers_of(array: np.ndarray) -> np.ndarray | None:
    """Return an array of integers as edgerun stores it, None if it cannot."""
    name = _integer_name(array.dtype)
    return None if name is None else array.astype(dtypes.numpy_dtype(name))


def constant(array: np.ndarray, quantization: Quantization, dtype: str = "fp32") -> Value:
    """Return known integers as real numbers."""
    reals = dequantize(array, quantization).astype(dtypes.numpy_dtype(dtype))
    return Value(array=reals, integers=Integers(array, quantization))


def real(ctx: Context, node: Node, at: int, scale_at: int, zero_at: int, axis: int = 0,
         dtype: str = "fp32") -> Value:
    """Return the real numbers that an input of integers means.

    Args:
        at, scale_at, zero_at: indices of the integers, the scale and the zero point.
        axis: that several scales belong to.
        dtype: of the result.
    """
    value = node.value(at)
    known = node.value(scale_at).known and (not node.given(zero_at) or node.value(zero_at).known)
    if value.known and known:
        q = integers_of(value.array)
        need(q is not None, f"{node.input_name(at)} is {value.array.dtype}, needed "
             f"{', '.join(STORED)}, or constants of {', '.join(UNPACKED)}")
        return constant(q, grid(node, scale_at, zero_at, dtypes.name_of(q.dtype), q.shape, axis),
                        dtype)
    x = ctx.tensor(at)
    if known:
        given = grid(node, scale_at, zero_at, x.dtype, x.shape, axis)
        if given.axis == -1 and _means(ctx.graph, x, given):
            return Value(tensor=ctx.add("dequantize", [x], dtype=dtype))
    scale, zero = (_along(ctx, node, index, x, axis) for index in (scale_at, zero_at))
    y = cast(ctx, x, "fp32")
    y = y if zero is None else binary(ctx, "sub", y, cast(ctx, zero, "fp32"))
    return Value(tensor=cast(ctx, binary(ctx, "mul", y, cast(ctx, scale, "fp32")), dtype))


def stored(ctx: Context, node: Node, y: Tensor, scale_at: int, zero_at: int, axis: int = 0,
           dtype: str | None = None) -> Tensor:
    """Return real numbers quantized as scale and zero point of a node say.

    Args:
        y: real numbers.
        scale_at, zero_at: indices of the inputs; the zero point may be left out.
        axis: that several scales belong to.
        dtype: of the integers; default that of the zero point, or uint8.
    """
    if dtype is None:
        dtype = "uint8"
        if node.given(zero_at):
            given = node.value(zero_at).dtype
            dtype = dtypes_name(given)
            need(dtype in dtypes.QUANTIZED,
                 f"it quantizes to {given}, needed {', '.join(dtypes.QUANTIZED)}")
    if node.value(scale_at).known and (not node.given(zero_at) or node.value(zero_at).known):
        given = grid(node, scale_at, zero_at, dtype, y.shape, axis)
        if given.axis == -1:
            rounding = "once" if dtype == "int16" else "single"
            return ctx.add("quantize", [y], quantization=replace(given, rounding=rounding),
                           dtype=dtype)
    scale, zero = (_along(ctx, node, index, y, axis) for index in (scale_at, zero_at))
    y = unary(ctx, "round", binary(ctx, "div", cast(ctx, y, "fp32"), cast(ctx, scale, "fp32")))
    y = y if zero is None else binary(ctx, "add", y, cast(ctx, zero, "fp32"))
    return cast(ctx, unary(ctx, "clip", y, *limits(dtype)), dtype)


def _along(ctx: Context, node: Node, index: int, x: Tensor, axis: int) -> Tensor | None:
    """Return a scale or zero point such that it broadcasts to x, None if it is left out."""
    if not node.given(index):
        return None
    found = ctx.tensor(index)
    size = int(np.prod(found.shape))
    if size == 1:
        return ctx.reshape(found, ())
    need(sum(n != 1 for n in found.shape) == 1, "it is quantized in blocks, needed one scale for "
         "the tensor or one per index of an axis")
    axis = normal_axis(axis, len(x.shape))
    if size != x.shape[axis]:
        raise ModelError(f"{node.input_name(index)} has {size} elements, needed 1 or "
                         f"{x.shape[axis]}")
    return ctx.reshape(found, [size if k == axis else 1 for k in range(len(x.shape))])


def _means(graph: Graph, x: Tensor, given: Quantization) -> bool:
    """Whether the integers x mean what is given; an input of the graph means what is first said of
    it, or of what is moved from it."""
    if x.dtype not in dtypes.QUANTIZED:
        return False
    chain, producers = [x], graph.producers() if x.quantization is None else {}
    while chain[-1].quantization is None and chain[-1] in producers:
        op = producers[chain[-1]]
        if op.code not in MOVES:
            return False
        chain.append(op.inputs[0])
    if chain[-1].quantization is not None:
        same = chain[-1].quantization.grid == given.grid
    else:
        same = any(boundary.tensor is chain[-1] for boundary in graph.inputs)
    if same:
        for tensor in chain:
            tensor.quantization = tensor.quantization or given
    return same


def settle(graph: Graph) -> None:
    """Let only dequantize and moves read quantized integers: an op that wants the integers
    themselves gets them by arithmetic, since the packer may store others that mean the same."""
    plain: dict[Tensor, Tensor] = {}
    for op in list(graph.ops):
        x = op.inputs[0]
        if op.code in MOVES and x.quantization is not None and not x.constant:
            op.outputs[0].quantization = x.quantization
        for index, x in enumerate(op.inputs):
            if x is None or x.constant or x.quantization is None or (
                    op.code in (*MOVES, "dequantize") and index == 0):
                continue
            if x not in plain:
                plain[x] = _plain(graph, x, op)
            op.inputs[index] = plain[x]


def _plain(graph: Graph, x: Tensor, before: Op) -> Tensor:
    """Insert ops that compute the integers of x from the real numbers: x = real / scale + zero."""
    y = x
    for code, options in (
            ("dequantize", {"dtype": "fp32"}),
            ("unary", {"kind": "affine", "alpha": 1 / x.quantization.step}),
            ("unary", {"kind": "round"}),
            ("unary", {"kind": "affine", "alpha": 1.0, "beta": float(x.quantization.zero)}),
            ("cast", {"dtype": x.dtype})):
        at = graph.ops.index(before)
        y = graph.insert(at, code, [y], f"{x.name}.plain", **options).outputs[0]
    return y


def through_reals(function: Function) -> Function:
    """Return an op's function that gives quantized integers what it gives real numbers: for ops
    that do not depend on where zero lies, or that ONNX Runtime computes on integers."""
    def on_reals(ctx: Context, node: Node):
        values = [value for value in node.inputs if value is not None]
        tensors = [value.tensor for value in values if not value.known]
        first = values[0].tensor if not values[0].known else None
        if first is None or first.quantization is None or any(
                t.dtype == first.dtype and (
                    t.quantization is None or t.quantization.grid != first.quantization.grid)
                for t in tensors):
            return function(ctx, node)
        inputs = [None if value is None else _opened(ctx, value, first) for value in node.inputs]
        ctx.node = node.reading(inputs)
        y = function(ctx, ctx.node)
        ctx.node = node
        if isinstance(y, Tensor) and y.dtype in dtypes.FLOAT:
            return ctx.add("quantize", [y], quantization=first.quantization, dtype=first.dtype)
        return y
    return on_reals


def _opened(ctx: Context, value: Value, like: Tensor) -> Value:
    """Return the real numbers of integers that are quantized like a tensor; others as they are."""
    if not value.known:
        same = value.tensor.dtype == like.dtype
        return Value(tensor=ctx.add("dequantize", [value.tensor], dtype="fp32")) if same else value
    if dtypes_name(value.array.dtype) != like.dtype:
        return value
    return constant(value.array, like.quantization)


def _dequantize_linear(ctx: Context, node: Node) -> Value | np.ndarray:
    to = node.attr("output_dtype", 0)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to)) if to else node.value(1).dtype
    name = "fp16" if dtype == np.float16 else "fp32"
    blocks = bool(node.attr("block_size", 0))
    if all(value is None or value.known for value in node.inputs):
        if blocks or integers_of(node.value(0).array) is None:
            return _evaluated(ctx, node, blocks)
    need(not blocks, "it is quantized in blocks, needed one scale for the tensor or one per index "
         "of an axis")
    return real(ctx, node, 0, 1, 2, node.attr("axis", 1), name)


def _evaluated(ctx: Context, node: Node, blocks: bool) -> np.ndarray:
    """Return constants of a kind that edgerun does not store, as real numbers."""
    found = host.evaluate(node)
    if found is None:
        raise UnsupportedError(f"constants of {node.value(0).array.dtype} cannot be read")
    kind = "in blocks" if blocks else f"to {node.value(0).array.dtype}"
    note = f"Weights quantized {kind} are stored as real numbers."
    if found[0].size > 1 and note not in ctx.graph.notes:
        ctx.graph.notes.append(note)
    return found[0]


def _quantize_linear(ctx: Context, node: Node) -> Tensor | np.ndarray:
    to, blocks = node.attr("output_dtype", 0), bool(node.attr("block_size", 0))
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(to)) if to else (
        node.value(2).dtype if node.given(2) else np.dtype(np.uint8))
    name = dtypes_name(dtype)
    if all(value is None or value.known for value in node.inputs):
        if blocks or name not in dtypes.QUANTIZED:
            found = host.evaluate(node)
            need(found is not None, f"it quantizes constants to {dtype}")
            return found[0]
        x = node.value(0).array
        return quantize(x, grid(node, 1, 2, name, x.shape, node.attr("axis", 1)), name)
    need(not blocks, "it is quantized in blocks, needed one scale for the tensor or one per index "
         "of an axis")
    need(name in dtypes.QUANTIZED, f"it quantizes to {dtype}, needed {', '.join(dtypes.QUANTIZED)}")
    x = ctx.tensor(0)
    x = x if x.dtype in dtypes.FLOAT else cast(ctx, x, "fp32")
    return stored(ctx, node, x, 1, 2, node.attr("axis", 1), name)


TABLE = {"QuantizeLinear": _quantize_linear, "DequantizeLinear": _dequantize_linear}
