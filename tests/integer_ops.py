"""A valid op of every form that computes on quantized tensors: what tests of hostile files change,
and what tests of reads and writes outside tensors run."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgerun.ops import OPS
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph, Op

IMAGE = (1, 6, 5, 5)  # channels that fill no word
OUT_C = 18  # more than one block, the last of two channels
Q8, Q16 = Quantization.per_tensor(0.5, 100), Quantization.per_tensor(0.5)
COARSER = Quantization.per_tensor(1.0, 7)


@dataclass(frozen=True)
class In:
    """An input of the op in the arena."""
    dtype: str
    shape: tuple[int, ...] = IMAGE
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Form:
    """An op: its code, inputs (In, or an array for a constant, or None), output and options."""
    code: str
    inputs: tuple[Any, ...]
    dtype: str = ""  # of the output, if it is not what infer says
    quantization: Quantization | None = None
    options: dict[str, Any] = field(default_factory=dict)


U8, I16 = In("uint8", quantization=Q8), In("int16", quantization=Q16)
FP32, FP16 = In("fp32"), In("fp16")
SCALES = np.full(OUT_C, 0.01, np.float32)
M0, T = np.full(OUT_C, 2**30, np.int32), np.full(OUT_C, 38, np.int8)
BIAS, WIDE_BIAS = np.arange(OUT_C, dtype=np.int32), np.ones((2, OUT_C), np.int32)
REAL_BIAS = np.ones(OUT_C, np.float32)
PADDED = {"pad_top": 1, "pad_left": 2, "pad_bottom": 1}
ACROSS = {"axis": 3}
POOL = {"kernel_h": 3, "kernel_w": 2, "stride_h": 2}
LINEAR = {"kind": "linear", "height": 9, "width": 3, "scale_h": 1.5, "scale_w": 0.6,
          "coordinate_mode": "half_pixel"}
EXPONENTIALS = (np.exp(-np.arange(256) / 30) * 2**20).astype(np.int32)


def _weights(dtype: type, *shape: int) -> np.ndarray:
    return np.resize(np.arange(-120, 121), shape).astype(dtype)


def _weighted() -> dict[str, Form]:
    """Forms (a), (b) and (c) of the ops with weights; see edgerun/ops/_integer.py."""
    shapes = {"conv2d": (OUT_C, 3, 2, 5), "conv_transpose2d": (OUT_C, 3, 2, 5), "dense": (OUT_C, 5)}
    options = {"conv2d": PADDED, "conv_transpose2d": {"stride_h": 2, "stride_w": 3, "pad_left": 1},
               "dense": {}}
    forms = {}
    for code, shape in shapes.items():
        w8, w16, given = _weights(np.int8, *shape), _weights(np.int16, *shape), options[code]
        forms[f"{code} uint8"] = Form(code, (U8, w8, BIAS, None, None, M0, T), "", Q8, given)
        forms[f"{code} int16"] = Form(code, (I16, w8, BIAS, None, None, M0, T), "", Q16, given)
        forms[f"{code} wide"] = Form(code, (I16, w16, WIDE_BIAS, None, None, M0, T), "", Q16,
                                     {**given, "wide": True})
        forms[f"{code} to fp32"] = Form(code, (U8, w8, BIAS, None, None, SCALES), "", None, given)
        for name, x, w in (("int8", FP32, w8), ("int16", FP16, w16)):
            forms[f"{code} weights {name}"] = Form(
                code, (x, w, REAL_BIAS, None, None, SCALES), "", None, given)
    one = (np.int32([5]), None, None, np.int32([2**30]), np.int8([38]))
    forms["depthwise_conv2d of one channel"] = Form("depthwise_conv2d", (
        In("uint8", (1, 6, 5, 1), Q8), _weights(np.int8, 3, 3, 1), *one), "", Q8, PADDED)
    narrow = {"stride_w": 2, **PADDED}
    for name, kernel, given in (("", (3, 3), PADDED), (" strided", (2, 2), narrow)):
        w8, w16 = _weights(np.int8, *kernel, 20), _weights(np.int16, *kernel, 20)
        m0, t, scales = np.resize(M0, 20), np.resize(T, 20), np.resize(SCALES, 20)
        bias, wide = np.resize(BIAS, 20), np.resize(WIDE_BIAS, (2, 20))
        code = "depthwise_conv2d"
        forms |= {
            f"{code} uint8{name}": Form(code, (U8, w8, bias, None, None, m0, t), "", Q8, given),
            f"{code} wide{name}": Form(code, (I16, w16, wide, None, None, m0, t), "", Q16,
                                       {**given, "wide": True}),
            f"{code} weights{name}": Form(code, (FP32, w8, np.resize(REAL_BIAS, 20), None, None,
                                                 scales), "", None, given)}
    return forms


FORMS: dict[str, Form] = {
    **_weighted(),
    "matmul uint8": Form("matmul", (In("uint8", (3, 7, 5), Q8), In("uint8", (3, 5, 9), Q8)), "",
                         COARSER),
    "matmul int16 to fp32": Form("matmul", (
        In("int16", (7, 5), Q16), In("int16", (9, 5), Q16), np.float32([0.01])), "", None,
        {"transpose_b": True}),
    "softmax": Form("softmax", (U8, EXPONENTIALS), "", Quantization.per_tensor(1 / 256), ACROSS),
    "softmax across": Form("softmax", (U8, EXPONENTIALS), "", Quantization.per_tensor(1 / 256),
                           {"axis": 1}),
    "softmax real": Form("softmax", (I16,), "", Quantization.per_tensor(1 / 32768), ACROSS),
    "table uint8": Form("table", (U8, _weights(np.uint8, 256)), "", Q8),
    "table uint8 to int16": Form("table", (U8, _weights(np.int16, 256)), "", Q16),
    "table int16": Form("table", (I16, _weights(np.int16, 513)), "", Q16),
    "add": Form("binary", (U8, In("uint8", (5,), COARSER)), "", Q8, {"kind": "add"}),
    "add int16": Form("binary", (I16, I16), "", Q16, {"kind": "add", "activation": "relu"}),
    "mul": Form("binary", (U8, U8), "int16", Q16, {"kind": "mul"}),
    "prelu": Form("binary", (U8, In("uint8", (1, 1, 5), COARSER)), "", Q8, {"kind": "prelu"}),
    "max": Form("binary", (I16, In("int16", (1,), Q16)), "", Q16, {"kind": "max"}),
    "squared difference": Form("binary", (U8, U8), "", Quantization.per_tensor(64),
                               {"kind": "squared_difference"}),
    "clip": Form("unary", (U8,), "", COARSER, {"kind": "clip", "alpha": -1, "beta": 6}),
    "leaky relu": Form("unary", (I16,), "uint8", COARSER, {"kind": "leaky_relu", "alpha": 0.1}),
    "max pool": Form("pool2d", (U8,), "", Q8, {"kind": "max", **POOL}),
    "average pool": Form("pool2d", (U8,), "", COARSER, {"kind": "average", **POOL}),
    "average pool on one grid": Form("pool2d", (I16,), "", Q16, {"kind": "average", **POOL}),
    "resize nearest": Form("resize", (U8,), "", Q8, {
        **LINEAR, "kind": "nearest", "nearest_mode": "floor"}),
    "resize linear": Form("resize", (I16,), "", Q16, LINEAR),
    "resize coarse": Form("resize", (U8,), "", Q8, {**LINEAR, "coarse": True}),
    "pad": Form("pad", (U8,), "", Q8, {"mode": "constant", "before": (0, 1, 0, 2),
                                       "after": (0, 0, 3, 0)}),
    "concat": Form("concat", (U8, In("uint8", quantization=COARSER)), "", Q8, {"axis": 3}),
    "mean": Form("reduce", (U8,), "", COARSER, {"kind": "mean", "axes": (1, 2)}),
    "sum": Form("reduce", (I16,), "", Quantization.per_tensor(2), {"kind": "sum", "axes": (2,)}),
    "largest": Form("reduce", (U8,), "", Q8, {"kind": "max", "axes": (3,)}),
    "l2": Form("reduce", (U8,), "", COARSER, {"kind": "l2", "axes": (1, 3)}),
    "arg": Form("arg", (U8,), "", None, {"kind": "max", "axis": 3}),
    "quantize": Form("quantize", (FP16,), "", Q8, {"dtype": "uint8"}),
    "dequantize": Form("dequantize", (U8,), "", None, {"dtype": "fp32"}),
    "requantize": Form("requantize", (U8,), "", Q16, {"dtype": "int16"}),
    "layer norm": Form("layer_norm", (U8, np.float32([1, 2, 3, 4, 5])), "",
                       Quantization.per_tensor(0.1, 128), {"axis": 3}),
    "instance norm": Form("instance_norm", (U8, None, np.ones(5, np.float32)), "",
                          Quantization.per_tensor(0.1, 128)),
    "l2 normalize": Form("l2_normalize", (I16,), "", Quantization.per_tensor(1 / 32768)),
    "lrn": Form("lrn", (U8,), "", Q8, {"size": 3}),
}


def add(graph: Graph, form: Form) -> Op:
    """Add the op to a graph; its tensors are x0, c1, ... and y."""
    inputs = []
    for number, given in enumerate(form.inputs):
        if isinstance(given, In):
            x = graph.input(f"x{number}", given.shape, given.dtype)
            x.quantization = given.quantization
            inputs.append(x)
        else:
            inputs.append(None if given is None else graph.constant(given, f"c{number}"))
    if form.code in ("conv2d", "conv_transpose2d", "dense", "depthwise_conv2d"):
        inputs[1].quantization = Quantization.per_tensor(0.01)
    options = dict(form.options)
    op = graph.insert(len(graph.ops), form.code, inputs, "y", **options)
    y = op.outputs[0]
    y.dtype, y.quantization = form.dtype or y.dtype, form.quantization
    assert OPS[form.code].options or not options
    return op
