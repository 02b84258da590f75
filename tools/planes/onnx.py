"""Write edgerun's own ONNX ops: what tools/importers/onnx/planes.py reads."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgerun.tools.planes.integers import bounds, check, cut
from edgerun.tools.planes.prefixes import derive

DOMAIN = "edgerun"
OPSET = helper.make_opsetid(DOMAIN, 1)


def bit_planes(name: str, codes: np.ndarray, bits: int, scale: np.ndarray | float,
               offset: np.ndarray | float | None = None, bias: np.ndarray | None = None,
               signs: str = "twos", axis: int = 0, table: Sequence[int] = ()
               ) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """Return a BitPlanes node and its initializers.

    Its outputs are `NAME.w` and, with a bias, `NAME.b`: the weights and bias of one Conv, Gemm or
    MatMul. With t planes, w = scale[t] * (codes_t + offset[t]).

    Args:
        name: of the node, and in front of the names of its tensors.
        codes: integers of `bits` planes, in the ONNX shape of the weights.
        bits, signs: see edgerun.tools.planes.integers.
        scale, offset: [bits + 1, OC]; or [OC], or a number, of all planes: those of fewer planes
            are fitted to the weights that all planes mean. Default offset: 0.
        bias: [bits + 1, OC], or [OC] for all.
        axis: of the output channels in the codes.
        table: integer values of the codes, ascending, for codes that are indices.

    Raises:
        ModelError: the bits or signs do not exist.
        ValueError: the codes or rows do not fit.
    """
    check(bits, signs)
    codes = np.asarray(codes)
    low, high = (0, len(table) - 1) if len(table) else bounds(bits, signs)
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"codes of {name} are {codes.min()} to {codes.max()}, needed {low} to "
                         f"{high}")
    shape = (bits + 1, codes.shape[axis])
    scale, offset = _rows(codes, bits, signs, np.asarray(scale, np.float64),
                          np.asarray(0.0 if offset is None else offset, np.float64), axis, table)
    held = {"codes": codes.astype(np.int8 if -128 <= low and high < 128 else np.int16),
            "scale": scale, "offset": offset}
    if bias is not None:
        rows = np.asarray(bias, np.float64)
        held["bias"] = rows if rows.ndim == 2 else np.broadcast_to(rows, shape)
    for what, rows in held.items():
        if what != "codes" and rows.shape != shape:
            raise ValueError(f"the {what} of {name} has the shape {rows.shape}, needed {shape}")
    initializers = [numpy_helper.from_array(
        np.ascontiguousarray(array if what == "codes" else array.astype(np.float32)),
        f"{name}.{what}") for what, array in held.items()]
    node = helper.make_node(
        "BitPlanes", [tensor.name for tensor in initializers],
        [f"{name}.w"] + [f"{name}.b"] * (bias is not None), name=name, domain=DOMAIN, bits=bits,
        signs=signs, axis=axis, **({"table": [int(v) for v in table]} if len(table) else {}))
    return node, initializers


def _rows(codes: np.ndarray, bits: int, signs: str, scale: np.ndarray, offset: np.ndarray,
          axis: int, table: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset as rows, fp64 [bits + 1, OC]."""
    channels = codes.shape[axis]
    if scale.ndim == 2 and offset.ndim == 2:
        return scale, offset
    if scale.ndim == 2:
        return scale, np.broadcast_to(offset, scale.shape)
    full, start = np.broadcast_to(scale, channels), np.broadcast_to(offset, channels)
    along = [1] * codes.ndim
    along[axis] = -1
    if len(table):  # a prefix of indices means nothing
        scales, offsets = (np.repeat(row[None], bits + 1, 0) for row in (full, start))
    else:
        weights = full.reshape(along) * (cut(codes, bits, bits, signs) + start.reshape(along))
        scales, offsets = derive(codes, bits, signs, weights, axis, full)
    if bits:
        scales[-1], offsets[-1] = full, start
    return scales, offsets


def binarize(x: str, y: str, name: str = "") -> onnx.NodeProto:
    """Return a node y = 1 where x >= 0, else -1."""
    return helper.make_node("Binarize", [x], [y], name=name or y, domain=DOMAIN)
