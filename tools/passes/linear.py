"""Matrix products: constants on the right become dense layers, transposes become flags."""
from __future__ import annotations

from dataclasses import replace

from edgerun.tools.graph import Graph, Op
from edgerun.tools.passes._rewrite import Rewriter, is_float, rewrite


def apply(graph: Graph) -> None:
    """Apply every rule of this module until none applies."""
    rewrite(graph, {"matmul": (_to_dense, _transposed_operand, _scaled_operand),
                    "transpose": (_transposed_result,)})


def _to_dense(rewriter: Rewriter, op: Op) -> bool:
    """x @ constant matrix, maybe of quantized numbers -> dense, whose activation moves along."""
    a, b = op.inputs
    stored = rewriter.producer(b, "dequantize")
    values = b if stored is None else stored.inputs[0]
    if (op.options["transpose_a"] or not values.constant or a.constant or not is_float(b)
            or any(n != 1 for n in b.shape[:-2]) or len(b.shape) > len(a.shape)):
        return False
    turned, grid = not op.options["transpose_b"], values.quantization
    if grid is not None and grid.axis >= 0:
        axis = grid.axis - (len(b.shape) - 2)
        if axis < 0:
            return False
        grid = replace(grid, axis=1 - axis if turned else axis)
    matrix = values.data.reshape(b.shape[-2:])
    w = rewriter.graph.constant(matrix.T if turned else matrix, values.name, quantization=grid)
    if stored is not None:
        w = rewriter.add(op, "dequantize", [w], stored.name, dtype="fp32")
    y = rewriter.add(op, "dense", [a, w], op.name,
                     **{key: op.options[key] for key in ("activation", "alpha", "beta")})
    rewriter.replace(op.outputs[0], y)
    return True


def swaps_matrices(perm: tuple[int, ...]) -> bool:
    """Whether a permutation exchanges the last two axes and leaves the others."""
    rank = len(perm)
    return rank >= 2 and tuple(perm) == (*range(rank - 2), rank - 1, rank - 2)


def _transposed_operand(rewriter: Rewriter, op: Op) -> bool:
    for index, flag in enumerate(("transpose_a", "transpose_b")):
        before = rewriter.producer(op.inputs[index], "transpose")
        if before is not None and swaps_matrices(before.options["perm"]):
            op.options[flag] = not op.options[flag]
            rewriter.set_input(op, index, before.inputs[0])
            return True
    return False


def _transposed_result(rewriter: Rewriter, op: Op) -> bool:
    """(a b)^T = b^T a^T."""
    product = rewriter.private_producer(op.inputs[0], "matmul")
    if product is None or not swaps_matrices(op.options["perm"]):
        return False
    (a, b), options = product.inputs, product.options
    y = rewriter.add(op, "matmul", [b, a], product.name,
                     **{**options, "transpose_a": not options["transpose_b"],
                        "transpose_b": not options["transpose_a"]})
    rewriter.replace(op.outputs[0], y)
    return True


def _scaled_operand(rewriter: Rewriter, op: Op) -> bool:
    """(s a) b -> s (a b), where a softmax or another scale behind takes it in."""
    y = op.outputs[0]
    user = rewriter.only_user(y)
    if user is None or op.options["activation"] or not (
            user.code == "softmax" or user.options.get("kind") == "affine"):
        return False
    for index, operand in enumerate(op.inputs):
        scale = rewriter.private_producer(operand, "unary", kind="affine", beta=0.0)
        if scale is not None:
            rewriter.set_input(op, index, scale.inputs[0])
            rewriter.set_input(user, 0, rewriter.add(user, "unary", [y], op.name, kind="affine",
                                                     alpha=scale.options["alpha"]))
            return True
    return False
