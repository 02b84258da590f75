"""ONNX ops that compute on quantized integers, those of ONNX Runtime (com.microsoft) too."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgerun.errors import ModelError
from edgerun.quantization import Quantization
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx import elementwise, layers, movement, norms, quantized, resize
from edgerun.tools.importers.onnx.context import Context, Integers, Node, Value, need
from edgerun.tools.importers.onnx.elementwise import cast
from edgerun.tools.importers.onnx.quantized import Function, constant, integers_of, real, stored

OPSET = 13  # whose definitions the ops of com.microsoft follow, which have one version only


def _run(ctx: Context, node: Node, function: Function, inputs: Sequence[Value | None],
         opset: int | None = None):
    """Return what an op's function makes of other inputs than the node's, with its attributes."""
    ctx.node = node.reading(list(inputs), opset)
    y = function(ctx, ctx.node)
    ctx.node = node
    return y


def _bias(node: Node, at: int, x_scale: np.ndarray, w: Value, factor: float = 1.0) -> Value | None:
    """Return an int32 bias, whose steps are those of the products.

    Args:
        at: index of the input; None is returned if it is left out.
        x_scale: of the activations, one number.
        w: weights whose integers are known, with one scale or one per output channel.
        factor: of the products.
    """
    if not node.given(at):
        return None
    q = node.known(at, "bias")
    if q.dtype != np.int32:
        raise ModelError(f"{node.input_name(at)} is {q.dtype}, needed int32")
    q = q.reshape(-1)
    scale = x_scale.astype(np.float32).reshape(-1) * w.integers.quantization.scale
    scale = scale * np.float32(factor)
    if scale.size not in (1, q.size):
        raise ModelError(f"{node.input_name(at)} has {q.size} elements, needed {scale.size}")
    reals = q.astype(np.float32) * scale
    if not np.all((scale > 0) & np.isfinite(scale)):
        return Value(array=reals)  # too small for a scale
    axis = -1 if scale.size == 1 else 0
    return Value(array=reals, integers=Integers(
        q, Quantization(scale, np.zeros(scale.size, np.int32), axis)))


def _weights(ctx: Context, node: Node, at: int, axis: int) -> Value:
    """Return weights and their scale and zero point, which are the two inputs behind them."""
    node.known(at, "weight")
    need(node.value(at + 1).known and (not node.given(at + 2) or node.value(at + 2).known),
         "the scale of its weights is computed at run time, needed a constant")
    return real(ctx, node, at, at + 1, at + 2, axis)


def _qlinear_conv(ctx: Context, node: Node) -> Tensor:
    w = _weights(ctx, node, 3, 0)
    bias = None
    if node.given(8):
        bias = _bias(node, 8, node.known(1, "scale"), w)
    y = _run(ctx, node, layers.TABLE["Conv"], [real(ctx, node, 0, 1, 2), w, bias])
    return stored(ctx, node, y, 6, 7)


def _qlinear_matmul(ctx: Context, node: Node) -> Tensor:
    a = real(ctx, node, 0, 1, 2, -2)  # several scales: one per row of a, one per column of b
    b = real(ctx, node, 3, 4, 5, -1)
    return stored(ctx, node, _run(ctx, node, layers.TABLE["MatMul"], [a, b]), 6, 7, -2)


def _qgemm(ctx: Context, node: Node) -> Tensor:
    alpha = node.attr("alpha", 1.0)
    b = _weights(ctx, node, 3, 0 if node.attr("transB", 0) else 1)
    bias = None
    if node.given(6):
        bias = _bias(node, 6, node.known(1, "scale"), b, alpha)
    y = _run(ctx, node, layers.TABLE["Gemm"], [real(ctx, node, 0, 1, 2), b, bias], OPSET)
    return stored(ctx, node, y, 7, 8) if node.given(7) else y


def _steps(ctx: Context, node: Node, at: int, zero_at: int, axis: int) -> Value:
    """Return an input of integers less their zero point, as real numbers."""
    value, zero = node.value(at), None
    if node.given(zero_at):
        zero = node.inputs[zero_at]
    known = zero is None or zero.known
    if value.known and known:
        q = integers_of(value.array)
        need(q is not None, f"{node.input_name(at)} is {value.array.dtype}")
        zeros = np.zeros(1, np.int32) if zero is None else zero.array.astype(np.int32).reshape(-1)
        if zeros.size not in (1, q.shape[axis]):
            raise ModelError(f"{node.input_name(zero_at)} has {zeros.size} zero points, needed 1 "
                             f"or {q.shape[axis]}")
        per_tensor = zeros.size == 1
        return constant(q, Quantization(np.ones(zeros.size, np.float32), zeros,
                                        -1 if per_tensor else axis % q.ndim))
    one = Value(array=np.float32(1).reshape(()))
    inputs = [value, one, zero]
    if known and zero is not None and zero.array.size > 1:
        inputs[1] = Value(array=np.ones(zero.array.size, np.float32))
    return _run(ctx, node, lambda ctx, node: real(ctx, node, 0, 1, 2, axis), inputs)


def _integer_product(name: str, zeros: tuple[int, int], axes: tuple[int, int]
                     ) -> Callable[[Context, Node], Tensor]:
    """Return the function of a product of integers; it is exact up to 2^24, rounded beyond.

    Args:
        name: of the op on real numbers.
        zeros: indices of the zero points of both operands.
        axes: of the operands that several zero points belong to.
    """
    def function(ctx: Context, node: Node) -> Tensor:
        operands = [_steps(ctx, node, at, zeros[at], axes[at]) for at in (0, 1)]
        return cast(ctx, _run(ctx, node, layers.TABLE[name], operands), "int32")
    return function


def _of_reals(function: Function, operands: Sequence[tuple[int, int, int]], scale_at: int,
              zero_at: int) -> Callable[[Context, Node], Tensor]:
    """Return the function of an op that quantizes what another makes of real numbers.

    Args:
        function: of the op on real numbers.
        operands: indices of each operand, its scale and its zero point.
        scale_at, zero_at: indices of the result's.
    """
    def on_integers(ctx: Context, node: Node) -> Tensor:
        need(not node.attr("channels_last", 0), "channels_last is 1, needed 0")
        y = _run(ctx, node, function, [real(ctx, node, *at) for at in operands],
                 node.attr("opset", OPSET))
        return stored(ctx, node, y, scale_at, zero_at)
    return on_integers


def _one(function: Function) -> Callable[[Context, Node], Tensor]:
    return _of_reals(function, [(0, 1, 2)], 3, 4)


def _two(function: Function) -> Callable[[Context, Node], Tensor]:
    return _of_reals(function, [(0, 1, 2), (3, 4, 5)], 6, 7)


def _qlinear_concat(ctx: Context, node: Node) -> Tensor:
    if len(node.inputs) < 5 or len(node.inputs) % 3 != 2:
        raise ModelError(f"has {len(node.inputs)} inputs, needed 2 and 3 for each operand")
    operands = [real(ctx, node, at, at + 1, at + 2) for at in range(2, len(node.inputs), 3)]
    y = _run(ctx, node, movement.TABLE["Concat"], operands, OPSET)
    return stored(ctx, node, y, 0, 1)


def _qlinear_where(ctx: Context, node: Node) -> Tensor:
    operands = [node.value(0), real(ctx, node, 1, 2, 3), real(ctx, node, 4, 5, 6)]
    return stored(ctx, node, _run(ctx, node, elementwise.TABLE["Where"], operands, OPSET), 7, 8)


def _pad(ctx: Context, node: Node) -> Tensor:
    """Pad, which pads integers with the integer 0 unless it says another."""
    x = node.value(0)
    if not node.given(2) and not x.known and x.tensor.quantization is not None:
        zero = Value(array=np.zeros((), x.dtype))
        node = node.reading([*node.inputs[:2], *[None] * (2 - len(node.inputs)), zero,
                             *node.inputs[3:]])
    return quantized.through_reals(movement.TABLE["Pad"])(ctx, node)


TABLE = {
    **quantized.TABLE,
    "QLinearConv": _qlinear_conv, "QLinearMatMul": _qlinear_matmul,
    "MatMulInteger": _integer_product("MatMul", (2, 3), (-2, -1)),
    "ConvInteger": _integer_product("Conv", (2, 3), (0, 0)),
    **{name: quantized.through_reals(function) for name, function in (
        *((name, layers.TABLE[name]) for name in ("MaxPool", "GlobalMaxPool")),
        *((name, norms.TABLE[name]) for name in ("ArgMax", "ArgMin", "ReduceMax", "ReduceMin")),
        ("Concat", movement.TABLE["Concat"]), *resize.TABLE.items())},
    "Pad": _pad,
}
MICROSOFT = {  # of the domain com.microsoft
    **quantized.TABLE,
    "QGemm": _qgemm, "QLinearConcat": _qlinear_concat, "QLinearWhere": _qlinear_where,
    "QLinearAdd": _two(elementwise.TABLE["Add"]), "QLinearMul": _two(elementwise.TABLE["Mul"]),
    "QLinearSigmoid": _one(elementwise.TABLE["Sigmoid"]),
    "QLinearLeakyRelu": _one(elementwise.TABLE["LeakyRelu"]),
    "QLinearSoftmax": _one(norms.TABLE["Softmax"]),
    "QLinearReduceMean": _one(norms.TABLE["ReduceMean"]),
    "QLinearAveragePool": _one(layers.TABLE["AveragePool"]),
    "QLinearGlobalAveragePool": _one(layers.TABLE["GlobalAveragePool"]),
}
