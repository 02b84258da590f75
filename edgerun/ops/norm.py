"""Normalizations whose statistics are computed at run time."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, Scratch, Shape, TensorLike, count, f32, i32, lanes_within,
    normal_axis, require, require_dtype, require_same_dtype)
from edgerun.ops._quantized_io import grids, quantized, require_numbers, types

CHUNK = 256  # pixels per work-item of an instance_norm; part of what scratch a file reserves
LONG = 256  # elements; a row as long as this is worth a work-group


def _parameters(op: OpLike) -> tuple[TensorLike | None, TensorLike | None]:
    gamma, beta = [*op.inputs[1:], None, None][:2]
    return gamma, beta


def _check(op: OpLike, shape: Shape) -> Outputs:
    """Check the dtypes, gamma and beta of the given shape, epsilon; y is as x."""
    x = op.inputs[0]
    require_numbers(op)
    if not quantized(op):
        require_same_dtype(op, *op.inputs)
    for t in _parameters(op):
        if t is not None and quantized(op):
            require_dtype(t, ("fp32",), op)
        require(t is None or t.shape == shape, op,
                f"{getattr(t, 'name', '')} has the shape {getattr(t, 'shape', '')}, needed {shape}")
    require(0 <= op.options["epsilon"] < float("inf"), op,
            f"has epsilon {op.options['epsilon']}, needed a finite number of at least 0")
    return [(x.shape, x.dtype)]


def _scale_and_shift(op: OpLike) -> tuple[tuple[TensorLike, TensorLike], tuple]:
    """Return tensors for gamma and beta (x stands for one left out), and which of them count."""
    gamma, beta = _parameters(op)
    x = op.inputs[0]
    return ((gamma if gamma is not None else x, beta if beta is not None else x),
            (i32(gamma is not None), i32(beta is not None)))


def infer_layer_norm(op: OpLike) -> Outputs:
    """y has the shape of x; gamma and beta that of its normalized axes."""
    x = op.inputs[0]
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar, needed at least 1 dimension")
    return _check(op, x.shape[normal_axis(op.options["axis"], len(x.shape), op):])


def layer_norm(op: OpLike, facts: Facts) -> list[Launch]:
    """y = (x - mean) / sqrt(var + epsilon) gamma + beta, mean and var over the axes from `axis` on.

    x [...] fp32, fp16, gamma, beta [x.shape[axis:]] of the same dtype, both optional -> y [...].
    x may be quantized uint8, int16 (gamma, beta fp32): integers are read as numbers, and written
    rounded, in registers, within one step of the exact result.
    Ba, Kiros, Hinton 2016, equation 4.
    """
    x, y = op.inputs[0], op.outputs[0]
    axis = normal_axis(op.options["axis"], len(x.shape), op)
    n = count(x.shape[axis:])
    parameters, used = _scale_and_shift(op)
    return [Launch("norm", "layer_norm", {**types(op), "VEC": lanes_within(n, facts)},
                   (count(x.shape[:axis]), 1, 1),
                   (x, *parameters, y, i32(n), *used, f32(op.options["epsilon"]), *grids(op)),
                   facts.one if n >= LONG else None)]


def infer_instance_norm(op: OpLike) -> Outputs:
    """y has the shape of x [N, ..., C]; gamma and beta are [C]."""
    x = op.inputs[0]
    require(len(x.shape) >= 2, op,
            f"{x.name} has the shape {x.shape}, needed at least 2 dimensions")
    return _check(op, x.shape[-1:])


def _chunks(x: TensorLike) -> tuple[int, int, int, int]:
    """Return samples, pixels, channels and chunks of an instance_norm."""
    pixels = count(x.shape[1:-1])
    return x.shape[0], pixels, x.shape[-1], -(-pixels // CHUNK)


def instance_norm_scratch(op: OpLike) -> int:
    """Return the bytes of the statistics [N, 2, C] and those of the chunks [N, chunks, 2, C]."""
    samples, _, channels, chunks = _chunks(op.inputs[0])
    return 4 * samples * 2 * channels * (1 + chunks)


def instance_norm(op: OpLike, facts: Facts) -> list[Launch]:
    """y = (x - mean) / sqrt(var + epsilon) gamma + beta, mean and var per sample and channel.

    x [N, ..., C] fp32, fp16, gamma, beta [C] of the same dtype, both optional -> y [N, ..., C].
    x may be quantized, as for layer_norm.
    Ulyanov, Vedaldi, Lempitsky 2016.
    """
    x, y = op.inputs[0], op.outputs[0]
    samples, pixels, channels, chunks = _chunks(x)
    parameters, used = _scale_and_shift(op)
    vec = lanes_within(channels, facts)
    defines = {**types(op), "VEC": vec}
    blocks = -(-channels // vec)
    sums = Scratch(4 * samples * 2 * channels)
    size, numbers = (i32(pixels), i32(channels), i32(CHUNK)), grids(op)
    return [
        Launch("norm", "moments", defines, (blocks, chunks, samples), (x, sums, *size, *numbers),
               facts.one),
        Launch("norm", "merge", defines, (blocks, 1, samples),
               (sums, Scratch(), *size, i32(chunks), f32(op.options["epsilon"])), facts.one),
        Launch("norm", "apply", defines, (blocks, chunks, samples),
               (x, *parameters, Scratch(), y, *size, *used, *numbers), facts.one)]


def infer_l2_normalize(op: OpLike) -> Outputs:
    """y has the shape of x."""
    x = op.inputs[0]
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar, needed at least 1 dimension")
    return _check(op, ())


def l2_normalize(op: OpLike, facts: Facts) -> list[Launch]:
    """y = x / sqrt(max(sum x^2, epsilon)), the sum over the last axis.

    x [..., n] fp32, fp16, or quantized as for layer_norm -> y [..., n].
    """
    x, y = op.inputs[0], op.outputs[0]
    n = x.shape[-1]
    return [Launch("norm", "l2_normalize", {**types(op), "VEC": lanes_within(n, facts)},
                   (count(x.shape[:-1]), 1, 1),
                   (x, y, i32(n), f32(op.options["epsilon"]), *grids(op)),
                   facts.one if n >= LONG else None)]


def infer_round_rows(op: OpLike) -> Outputs:
    """y has the shape of x."""
    x = op.inputs[0]
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar, needed at least 1 dimension")
    require_dtype(x, FLOAT, op)
    return [(x.shape, x.dtype)]


def round_rows(op: OpLike, facts: Facts) -> list[Launch]:
    """y = s round(x / s), s = max |x| / 127, the maximum over the last axis; halves away from 0.

    x [..., n] fp32, fp16 -> y [..., n]. What a layer reads whose runtime rounds its inputs to 8
    bits, each row by its own scale, before it multiplies them with weights of 8 bits.
    """
    x, y = op.inputs[0], op.outputs[0]
    n = x.shape[-1]
    return [Launch("norm", "round_rows", {**types(op), "VEC": lanes_within(n, facts)},
                   (count(x.shape[:-1]), 1, 1), (x, y, i32(n)), facts.one if n >= LONG else None)]
