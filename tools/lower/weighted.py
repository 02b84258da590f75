"""Convolutions and dense layers with quantized weights (the forms of edgerun/ops/_integer.py)."""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from edgerun import dtypes
from edgerun.ops._integer import MOST_CHUNK, WIDE_LEAST_SHIFT, WIDE_MOST_TERMS
from edgerun.quantization import ONE_STEP, TWO_STEPS, Quantization, fixed_point, limits
from edgerun.tools.graph import Op, Tensor
from edgerun.tools.lower._lowering import Lowering
from edgerun.tools.planes.codes import coded

CLAMPS = ("", "relu", "clip")  # activations that are a saturation of integers
SAME_SCALE = 1e-4  # relative difference up to which a bias is taken to be in steps of s_x * s_w
NOTHING = 0.25  # steps of y; every rounding makes smaller numbers 0
WIDE_BOUND = 2**46  # the high parts of sums below it fit into 31 bits
CHUNK_BOUND = 2**16 - 2  # of the |w| of a chunk: times 2^15 it is below 2^31 - 2^16
EXACT_REAL = 2**40  # two-part sums below it become fp32 with one rounding


@dataclass(frozen=True)
class Weights:
    """Quantized weights as an op over integers takes them.

    Attributes:
        tensor: constant, int8 or int16, with its quantization.
        zero: its zero point; other than 0 only in int8.
        scale: fp64 [OC].
        total, magnitude: per output channel, the sum of w - zero and of |w - zero|; int64 [OC].
        terms: products per output element.
    """
    tensor: Tensor
    zero: int
    scale: np.ndarray
    total: np.ndarray
    magnitude: np.ndarray
    terms: int


def weights_of(lower: Lowering, w: Tensor, axis: int) -> Weights | None:
    """Return the weights behind a dequantize, or None if no integer op can take them.

    Args:
        lower: the lowering.
        w: the real weights.
        axis: of the output channels.
    """
    given = lower.weights(w)
    if given is None or given.dtype not in dtypes.QUANTIZED or coded(given):
        return None
    q = given.quantization
    if q.axis not in (-1, axis):
        return None
    out_c, values = given.shape[axis], given.data.astype(np.int64)
    along = [1] * values.ndim
    along[axis] = -1
    centred = values - (q.zero if q.axis == -1 else q.zero_point.astype(np.int64).reshape(along))
    stored, zero, dtype = centred, 0, "int16" if given.dtype == "int16" else "int8"
    low, high = limits(dtype)
    if centred.min() < low or centred.max() > high:
        if q.axis != -1 or dtype != "int8":
            return None
        offset = 128 if given.dtype == "uint8" else 0
        stored, zero = values - offset, q.zero - offset
    others = tuple(i for i in range(values.ndim) if i != axis)
    tensor = lower.graph.constant(
        stored, given.name, dtype,
        quantization=Quantization(q.scale, np.full(len(q.scale), zero, np.int32), q.axis))
    return Weights(tensor, zero, np.broadcast_to(q.scale.astype(np.float64), out_c),
                   centred.sum(axis=others), np.abs(centred).sum(axis=others),
                   values.size // out_c)


def integer_bias(lower: Lowering, bias: Tensor | None, scale: np.ndarray) -> np.ndarray | None:
    """Return a bias in steps of the accumulator, int64 [OC], or None if it is not constant.

    Args:
        lower: the lowering.
        bias: real, [OC]; None is 0.
        scale: of the accumulator, fp64 [OC].
    """
    if bias is None:
        return np.zeros(len(scale), np.int64)
    if bias.constant:
        return _steps(bias.data, scale)
    q = lower.weights(bias)
    if q is None:
        return None
    given = np.broadcast_to(q.quantization.scale.astype(np.float64), len(scale))
    values = q.data.astype(np.int64) - q.quantization.zero_point
    if np.all(np.abs(given / scale - 1) < SAME_SCALE):
        return values
    return _steps(values * given, scale)


def _steps(real: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    with np.errstate(all="ignore"):
        steps = np.rint(real.astype(np.float64) / scale)
    return steps.astype(np.int64) if np.all(np.abs(steps) < 2.0**62) else None


def multipliers(scale: np.ndarray, y: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
    """Return m0 and t that take an accumulator of that scale [OC] to y, or None if none do."""
    try:
        kind = np.float32 if y.quantization.rounding == "single" else np.float64
        with np.errstate(all="ignore"):
            return fixed_point(scale.astype(kind) / kind(y.quantization.step),
                               y.quantization.rounding)
    except ValueError:
        return None


def accumulator_bound(weights: Weights, x: Tensor, bias: np.ndarray) -> np.ndarray:
    """Return what the accumulators of each output channel stay within, int64 [OC].

    Args:
        weights: of the op.
        x: its integer activations.
        bias: int64 [OC], in steps of the accumulator, without what the zero point of x adds.
    """
    low, high = limits(x.dtype)
    # the sum starts at bias - zero_x * total, and weights that have a zero point are summed with it
    most = max(-low, high) + abs(x.quantization.zero)
    return np.abs(bias) + most * (weights.magnitude + 2 * abs(weights.zero) * weights.terms)


def lower_weighted(lower: Lowering, op: Op, axis: int = 0, folds_zero: bool = True) -> bool:
    """Lower an op with weights, bias and maybe a residual to its best integer form.

    Args:
        lower: the lowering.
        op: conv2d, depthwise_conv2d, conv_transpose2d or dense over real numbers.
        axis: of the output channels in the weights.
        folds_zero: whether every output sums over all taps, so that what the zero point of x adds
            is a constant of the bias. If not, the kernel subtracts it from x.
    """
    if op.inputs[0].dtype != "fp32" or op.inputs[1].dtype != "fp32":
        return False
    weights = weights_of(lower, op.inputs[1], axis)
    if weights is None:
        return False
    x = lower.integer(op.inputs[0])
    return (x is not None and _integers(lower, op, x, weights, folds_zero)
            or _weights_only(lower, op, weights))


def _integers(lower: Lowering, op: Op, x: Tensor, weights: Weights, folds_zero: bool) -> bool:
    """Forms (a) and (b)."""
    bias_tensor, residual = (op.inputs[i] if i < len(op.inputs) else None for i in (2, 3))
    if residual is not None or not _fits(x, weights):
        return False
    scale = float(x.quantization.scale[0]) * weights.scale
    bias = integer_bias(lower, bias_tensor, scale)
    if bias is None:
        return False
    y = lower.store(op) if op.options["activation"] in CLAMPS else None
    bound = accumulator_bound(weights, x, bias)
    if y is not None:
        # Quantizers give channels without weights tiny scales and with them biases that fill an
        # int32. Where no sum is more than nothing, no bias is.
        bias = np.where(bound * scale / y.quantization.step < NOTHING, 0, bias)
        bound = accumulator_bound(weights, x, bias)
    folded = bias - x.quantization.zero * weights.total if folds_zero else bias
    narrow = 2**30 if y is not None and y.quantization.rounding in TWO_STEPS else 2**31
    wide = x.dtype == "int16" and bool(bound.max() >= narrow)
    if not wide and bound.max() >= 2**31:
        return False
    if y is not None:
        pair = multipliers(_as_tflite(lower, op, x, scale, y), y)
        largest = None if pair is None else bound * scale / y.quantization.step
        if (pair is None or largest.max() >= 2**30
                or wide and not _wide_fits(weights, bound, y, pair[1])
                or np.any(largest[pair[0] == 0] >= NOTHING)):  # a shift beyond what kernels have
            return False
        ends = [lower.graph.constant(pair[0], f"{op.name}.m0"),
                lower.graph.constant(pair[1], f"{op.name}.t")]
    else:
        y = op.outputs[0]
        if wide and (bound.max() >= EXACT_REAL or not _wide_fits(weights, bound)):
            return False
        single = scale.astype(np.float32)
        if not np.all(np.isfinite(single)):
            return False
        ends = [lower.graph.constant(single, f"{op.name}.scale")]
    start = np.stack([folded >> 16, folded & 0xFFFF]) if wide else folded
    start = lower.graph.constant(start, f"{op.name}.bias", "int32") if start.any() else None
    options = dict(op.options)
    if wide:
        options["wide"] = True
        if "chunk" in options:
            options["chunk"] = chunk_of(weights.tensor)
    lower.replace(op, op.code, [x, weights.tensor, start, None, None, *ends], y, **options)
    return True


def _as_tflite(lower: Lowering, op: Op, x: Tensor, scale: np.ndarray, y: Tensor) -> np.ndarray:
    """Return the scale of an accumulator as TFLite's kernels have it, if y is rounded as theirs.

    Those for weights with one scale (uint8, and dense) take the product of scales in fp32.
    """
    w = lower.weights(op.inputs[1])
    if (y.quantization.rounding not in ("twice", "upward") or w.quantization.axis != -1
            or w.dtype != "uint8" and op.code != "dense"):
        return scale
    single = x.quantization.scale[0] * w.quantization.scale[0]
    return np.full(len(scale), np.float64(single))


def _fits(x: Tensor, weights: Weights) -> bool:
    """Whether kernels take activations and weights of these dtypes and zero points together."""
    if x.dtype == "uint8":
        return weights.tensor.dtype == "int8"
    return x.quantization.zero == 0 and weights.zero == 0


def _wide_fits(weights: Weights, bound: np.ndarray, y: Tensor | None = None,
               t: np.ndarray | None = None) -> bool:
    """Whether sums in two parts are exact, and requantized exactly to y if there is one."""
    if (weights.terms > WIDE_MOST_TERMS or bound.max() >= WIDE_BOUND
            or weights.tensor.data.min() == -2**15):
        return False
    return y is None or y.quantization.rounding in ONE_STEP and bool(t.min() >= WIDE_LEAST_SHIFT)


def chunk_of(weights: Tensor) -> int:
    """Return the option `chunk` of a wide op: the most neighbouring words whose sums fit, whatever
    the activations are and wherever a chunk begins.

    Args:
        weights: int8 or int16 [OC, .., IC].
    """
    word = dtypes.WORD[dtypes.BLOCKED[weights.dtype]]
    values = np.abs(weights.data.astype(np.int64)).reshape(-1, weights.shape[-1])
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % word)))
    sums = values.reshape(weights.shape[0], -1, word).sum(axis=2).cumsum(axis=1)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    low, high = 1, min(sums.shape[1] - 1, MOST_CHUNK)
    while low < high:
        middle = (low + high + 1) // 2
        fits = (sums[:, middle:] - sums[:, :-middle]).max() <= CHUNK_BOUND
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _weights_only(lower: Lowering, op: Op, weights: Weights) -> bool:
    """Form (c)."""
    bias, residual = (op.inputs[i] if i < len(op.inputs) else None for i in (2, 3))
    if weights.zero:
        return False
    scale = lower.graph.constant(weights.scale.astype(np.float32), f"{op.name}.scale")
    lower.replace(op, op.code, [op.inputs[0], weights.tensor, bias, residual, None, scale],
                  op.outputs[0], **op.options)
    return True


RULES = {"conv2d": lower_weighted, "dense": lower_weighted,
         "depthwise_conv2d": partial(lower_weighted, axis=2),
         "conv_transpose2d": partial(lower_weighted, folds_zero=False)}
