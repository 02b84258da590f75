"""Batched matrix products of two tensors."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Outputs, broadcast, broadcast_strides, collapse, count, f32,
    float_types, int8_arg, require, require_dtype, require_same_dtype)
from edgerun.ops._integer import ACTIVATIONS
from edgerun.ops.elementwise import activation
from edgerun.ops.matmul_integer import Sizes, matmul_integer, output_dtype

MAX_RANK = 8
MAX_INDEX = 2**31 - 1  # kernels index with 32-bit signed integers


def _matrix(shape: tuple[int, ...], transposed: bool) -> tuple[int, int]:
    return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])


def infer_matmul(op: OpLike) -> Outputs:
    """a [..., M, K] and b [..., K, N] give y [..., M, N]."""
    a, b = op.inputs[:2]
    for tensor in (a, b):
        require(2 <= len(tensor.shape) <= MAX_RANK, op,
                f"{tensor.name} has the shape {tensor.shape}, needed 2 to {MAX_RANK} dimensions")
        require_dtype(tensor, (*FLOAT, *ACTIVATIONS), op)
    require_same_dtype(op, a, b)
    if a.dtype in FLOAT:
        activation(op)
    m, k = _matrix(a.shape, op.options["transpose_a"])
    k_of_b, n = _matrix(b.shape, op.options["transpose_b"])
    require(k == k_of_b, op, f"multiplies [{m}, {k}] by [{k_of_b}, {n}], needed equal inner sizes")
    shape = (*broadcast(op, a.shape[:-2], b.shape[:-2]), m, n)
    require(max(count(a.shape), count(b.shape), count(shape)) <= MAX_INDEX, op,
            f"the shapes {a.shape}, {b.shape} or {shape} are too large")
    return [(shape, output_dtype(op))]


def macs_matmul(op: OpLike) -> int:
    """Multiply-accumulates."""
    return count(op.outputs[0].shape) * _matrix(op.inputs[0].shape, op.options["transpose_a"])[1]


def _sizes(op: OpLike) -> Sizes:
    (a, b), y = op.inputs[:2], op.outputs[0]
    m, n = y.shape[-2:]
    transposed = op.options["transpose_a"]
    k = _matrix(a.shape, transposed)[1]
    batch = y.shape[:-2]
    dims, (sa, sb) = collapse(
        batch, [s * m * k for s in broadcast_strides(a.shape[:-2], batch)],
        [s * k * n for s in broadcast_strides(b.shape[:-2], batch)])
    step_m, step_k = (1, m) if transposed and m > 1 else (k, 1)
    if len(dims) == 1 and sb == [0] and sa in ([m * k], [0]) and step_k == 1 and dims[0] * sa[0]:
        m, dims, sa = m * dims[0], [1], [0]  # one b for all: the batch is just more rows
    b_rows = op.options["transpose_b"] or n == 1
    return Sizes(m, n, k, step_m, step_k, b_rows, dims, sa, sb)


def matmul(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., m, n] = activation(sum over k of a[..., m, k] * b[..., k, n]).

    a [..., M, K], or with `transpose_a` [..., K, M]; b [..., K, N], or with `transpose_b`
    [..., N, K]; fp32 or fp16, equal; 2 to 8 dimensions, those before the last two broadcast
    -> y [..., M, N]. Or a and b quantized to uint8, or to int16 with the zero point 0, and y to
    either; or y in fp32 or fp16, then a third input is the scale of the sums, fp32 [1]. The sums
    are exact: at most 33,025 products of uint8 (half of it where y is rounded in two steps), or
    65,000 of int16, whose y is rounded once.
    """
    (a, b), y = op.inputs[:2], op.outputs[0]
    s = _sizes(op)
    entry = ("matmul_integer" if a.dtype not in FLOAT
             else "matmul_rows" if s.b_rows else "matmul")
    key = Key.of(entry, a.dtype if a.dtype in FLOAT else f"{a.dtype} {facts.dot}", (a, b, y), m=s.m,
                 n=s.n, k=s.k, step_k=s.step_k, b_rows=int(s.b_rows), batch=count(s.dims))
    variant = _tile.choose(key, facts)
    if a.dtype not in FLOAT:
        return matmul_integer(op, facts, s, key, variant)
    act = activation(op)
    defines = {**float_types(a, y), **variant.defines, **act.defines}
    if not s.b_rows:
        kernel, columns = "matmul", variant["VEC"] * variant["NV"]
    elif variant["packed"]:
        kernel, columns = "matmul_packed", variant["VEC"]
    else:
        kernel, columns = "matmul_dot", _tile.COLUMNS
    per_item = variant["ROWS"] * variant["tiles"]
    return [Launch("matmul", kernel, defines,
                   (-(-s.n // columns), -(-s.m // per_item), count(s.dims)),
                   (a, b, y,
                    int8_arg([s.m, s.n, s.k, s.step_m, s.step_k, per_item, 0, 0]),
                    int8_arg(s.dims, 1), int8_arg(s.sa), int8_arg(s.sb), f32(act.alpha),
                    f32(act.beta)), facts.one, key, variant)]
