"""Layers of one bit: activations and weights are +1 and -1."""
from __future__ import annotations

from edgerun.dtypes import FLOAT
from edgerun.ops import _tile
from edgerun.ops._base import (
    Facts, Key, Launch, OpLike, Outputs, Shape, count, f32, i32, pitch_of, require, require_dtype,
    require_rank)
from edgerun.ops.conv import MAX_INDEX, MAX_TILE, output_size, require_blocks
from edgerun.ops.elementwise import activation
from edgerun.ops.planes import LAYER_NAMES, POINT, WORD, counting, line

RUN = 4096  # elements that a work-item of a CPU makes bits of
MOST_PRODUCTS = 2**24  # that fp32 counts


def infer_binarize(op: OpLike) -> Outputs:
    """y has a word for 32 elements of the last axis of x."""
    x = op.inputs[0]
    require_dtype(x, FLOAT, op)
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar")
    require(count(x.shape) <= MAX_INDEX, op, f"the input {x.shape} is too large")
    return [((*x.shape[:-1], -(-x.shape[-1] // WORD)), "bits")]


def binarize(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., w] has bit k where x[..., 32 w + k] >= 0; bits past the last element are 0.

    x [..., C] fp32 or fp16 -> y [..., ceil(C/32)] bits. NaN gives 0.
    """
    x, y = op.inputs[0], op.outputs[0]
    rows, n = count(x.shape[:-1]), x.shape[-1]
    run = max(1, RUN // n) if facts.kind == "cpu" else 1
    return [Launch("binarize", "binarize", {f"T_{x.dtype}": 1}, (-(-rows // run),),
                   (x, y, i32(run), i32(rows), i32(n), i32(pitch_of(x))))]


def _infer(op: OpLike, shape: Shape, taps: int) -> Outputs:
    x, w, levels = op.inputs
    channels, words = op.options["channels"], x.shape[-1]
    require_dtype(x, ("bits",), op)
    require_dtype(w, ("bits",), op)
    require_dtype(levels, ("fp32",), op)
    require(1 <= channels and -(-channels // WORD) == words, op,
            f"has {channels} channels, which do not take the {words} words of {x.name}")
    require(tuple(w.shape) == (shape[-1], taps * words), op,
            f"{w.name} has the shape {w.shape}, needed {(shape[-1], taps * words)}")
    require(tuple(levels.shape) == (2, shape[-1]), op,
            f"{levels.name} has the shape {levels.shape}, needed {(2, shape[-1])}")
    require(taps * channels <= MOST_PRODUCTS, op,
            f"sums {taps * channels} products, at most {MOST_PRODUCTS} are exact in fp32")
    require(count(shape) <= MAX_INDEX - MAX_TILE and count(x.shape) <= MAX_INDEX, op,
            f"the output {shape} or the input {x.shape} is too large")
    if op.options["activation"]:
        activation(op)
    return [(shape, "fp32")]


def _out_c(op: OpLike) -> int:
    require_rank(op.inputs[1], 2, op)
    return op.inputs[1].shape[0]


def infer_xnor_conv2d(op: OpLike) -> Outputs:
    """y is [N, OH, OW, OC] fp32, its size given by the options."""
    x, o = op.inputs[0], op.options
    require_rank(x, 4, op)
    require(o["groups"] == 1, op, f"has {o['groups']} groups, needed 1")
    kernel = o["kernel_h"], o["kernel_w"]
    shape = (x.shape[0], *output_size(op, x.shape[1:3], kernel), _out_c(op))
    return _infer(op, shape, kernel[0] * kernel[1])


def infer_xnor_dense(op: OpLike) -> Outputs:
    """y is x with its last axis replaced by OC, fp32."""
    x = op.inputs[0]
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar")
    return _infer(op, (*x.shape[:-1], _out_c(op)), 1)


def _launch(op: OpLike, facts: Facts, window: dict[str, int]) -> list[Launch]:
    x, w, levels = op.inputs
    y, act = op.outputs[0], activation(op)
    require_blocks(op, w)
    sizes = {**window, "channels": x.shape[-1], "out_c": w.shape[0]}
    key = Key.of("xnor", "count", (x, y), words=x.shape[-1], groups=1, **sizes)
    variant = _tile.choose(key, facts)
    pixels = window["n"] * window["out_h"] * window["out_w"]
    return [Launch(
        "xnor", "xnor", {f"O_{y.dtype}": 1, **variant.defines, **act.defines, **counting(facts)},
        (-(-w.shape[0] // variant["VEC"]), -(-pixels // (variant["P"] * variant["tiles"])), 1),
        (x, w, levels, y, i32(pitch_of(y)), i32(pixels), i32(variant["tiles"]), i32(x.shape[-1]),
         i32(op.options["channels"]), *(i32(sizes[name]) for name in LAYER_NAMES),
         f32(act.alpha), f32(act.beta)), facts.one, key, variant)]


def xnor_conv2d(op: OpLike, facts: Facts) -> list[Launch]:
    """y[n,i,j,o] = activation(levels[0,o] (valid - 2 popcount(x ^ w[o])) + levels[1,o]), counted
    over taps in the image, valid = such taps * `channels`: the sum of products of +1 and -1.

    x [N, H, W, ceil(C/32)] bits as binarize makes them, w [OC, kernel_h kernel_w ceil(C/32)] bits,
    the words of each tap by themselves (constant, in blocks of 16 output channels), levels [2, OC]
    fp32 -> y [N, OH, OW, OC] fp32 or fp16. OH, OW as for conv2d. `channels`: C.
    """
    x, o, shape = op.inputs[0], op.options, op.outputs[0].shape
    return _launch(op, facts, {
        "n": x.shape[0], "height": x.shape[1], "width": x.shape[2], "out_h": shape[1],
        "out_w": shape[2], **{name: o[name] for name in POINT}})


def xnor_dense(op: OpLike, facts: Facts) -> list[Launch]:
    """y[..., o] = activation(levels[0,o] (channels - 2 popcount(x ^ w[o])) + levels[1,o]).

    x [..., ceil(C/32)] bits, w [OC, ceil(C/32)] bits, levels [2, OC] fp32 -> y [..., OC] fp32 or
    fp16.
    """
    return _launch(op, facts, line(count(op.outputs[0].shape[:-1])))


def xnor_macs(op: OpLike) -> int:
    """Multiply-accumulates of the numbers that the bits stand for."""
    taps = (op.options["kernel_h"] * op.options["kernel_w"] if op.code == "xnor_conv2d" else 1)
    return count(op.outputs[0].shape) * taps * op.options["channels"]
