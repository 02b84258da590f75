"""Ways to lose less accuracy: equalized channels, clipped weights, corrected biases.

None is on by default; docs/quantization.md says what each was measured to bring.
"""
from __future__ import annotations

import numpy as np

from edgerun.quantization import Quantization, dequantize, quantize
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.quantize.grids import WEIGHT_AXIS, weight_quantization

SWEEPS = 20  # of equalization, each over all pairs of layers
SETTLED = 1e-3  # relative change of the scales at which equalization stops
RATIOS = np.linspace(1.0, 0.5, 26)  # of the largest weight of a channel, tried as clipping bounds


def equalize(graph: Graph) -> int:
    """Move scale between layers so that the channels between them have similar ranges.

    Where a layer feeds only another one, through a relu or nothing, channel c of the first may be
    divided by s_c and the weights of the second that read it multiplied: s_c = sqrt(r1_c / r2_c),
    r the largest |weight| of the channel (Nagel et al., "Data-free quantization through weight
    equalization and bias correction", 2019, equation 11).

    Returns:
        Number of pairs.
    """
    pairs = _pairs(graph)
    for _ in range(SWEEPS):
        if max([_equalize_pair(*pair) for pair in pairs], default=0.0) < SETTLED:
            break
    return len(pairs)


def _pairs(graph: Graph) -> list[tuple[Op, Op]]:
    users, producers, pairs = graph.consumers(), graph.producers(), []
    shared = {t for t, ops in users.items() if t.constant and len(ops) > 1}
    for second in graph.ops:
        first = producers.get(second.inputs[0])
        if (first is None or not _scalable(first) or not _scalable(second)
                or len(users[first.outputs[0]]) != 1 or graph.is_output(first.outputs[0])
                or first.options["activation"] not in ("", "relu")
                or (len(first.inputs) > 3 and first.inputs[3] is not None)
                or second.options.get("groups", 1) != 1
                or second.code == "depthwise_conv2d"
                and second.inputs[1].shape[2] != second.inputs[0].shape[3]
                or any(t in shared for op in (first, second) for t in op.inputs[1:])):
            continue
        pairs.append((first, second))
    return pairs


def _scalable(op: Op) -> bool:
    return (op.code in ("conv2d", "depthwise_conv2d", "dense")
            and all(t is None or t.constant for t in op.inputs[1:3]))


def _equalize_pair(first: Op, second: Op) -> float:
    """Scale one pair; returns the largest |s_c - 1|."""
    w1, w2 = first.inputs[1], second.inputs[1]
    out_axis = WEIGHT_AXIS[first.code]
    in_axis = 2 if second.code == "depthwise_conv2d" else w2.data.ndim - 1
    r1, r2 = _peaks(w1.data, out_axis), _peaks(w2.data, in_axis)
    usable = (r1 > 0) & (r2 > 0)
    s = np.where(usable, np.sqrt(np.where(usable, r1, 1) / np.where(usable, r2, 1)), 1.0)
    _scale(w1, out_axis, 1 / s)
    if len(first.inputs) > 2 and first.inputs[2] is not None:
        _scale(first.inputs[2], 0, 1 / s)
    _scale(w2, in_axis, s)
    return float(np.abs(s - 1).max())


def _peaks(weights: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(weights).max(axis=tuple(k for k in range(weights.ndim) if k != axis))


def _scale(tensor: Tensor, axis: int, factors: np.ndarray) -> None:
    shape = [1] * tensor.data.ndim
    shape[axis] = -1
    tensor.data = (tensor.data * factors.reshape(shape)).astype(np.float32)


def clipped_weights(op: Op, dtype: str) -> Quantization:
    """Return scales that minimize the squared error of each output channel's weights, which may cut
    off a few large ones.

    Args:
        op: a layer with constant weights.
        dtype: "int8" or "int16".
    """
    weights, axis = op.inputs[1].data, WEIGHT_AXIS[op.code]
    whole = weight_quantization(weights, axis, dtype)
    others = tuple(k for k in range(weights.ndim) if k != axis)
    best, error = whole.scale.copy(), None
    for ratio in RATIOS:
        tried = Quantization((whole.scale * ratio).astype(np.float32), whole.zero_point, axis)
        found = np.square(dequantize(quantize(weights, tried, dtype), tried) - weights,
                          dtype=np.float64).sum(axis=others)
        better = np.ones(len(best), bool) if error is None else found < error
        best = np.where(better, tried.scale, best)
        error = found if error is None else np.minimum(found, error)
    return Quantization(best.astype(np.float32), whole.zero_point, axis)


def bias_shift(op: Op, lost: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the mean error that rounding the weights causes, per output channel.

    E[W x] - E[W_q x] = (W - W_q) E[x], summed over the taps (Nagel et al. 2019, section 4.2; taps
    in the padding count as if the image went on).

    Args:
        op: a layer.
        lost: W - W_q, in the layout of the op's weights.
        mean: of the op's input over the calibration data, per channel [C].
    """
    return _response(op, lost.astype(np.float64), mean.astype(np.float64)).astype(np.float32)


def _response(op: Op, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return what a layer makes of an image whose every pixel is `mean` [C]; one value per output
    channel."""
    if op.code == "depthwise_conv2d":
        return weights.sum(axis=(0, 1)) * np.repeat(mean, weights.shape[2] // len(mean))
    per_input = weights.reshape(weights.shape[0], -1, weights.shape[-1]).sum(axis=1)
    groups = op.options.get("groups", 1)
    inputs = mean.reshape(groups, -1)
    outputs = per_input.reshape(groups, -1, per_input.shape[1])
    return np.einsum("goi,gi->go", outputs, inputs).reshape(-1)


__all__ = ["bias_shift", "clipped_weights", "equalize"]
