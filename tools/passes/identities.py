"""Remove ops that change nothing, and write others in their simplest form.

Scalar arithmetic becomes the unary op "affine" (x * alpha + beta), the form in which the later
passes look for patterns; where an activation follows, activations.apply makes it binary again.
"""
from __future__ import annotations

import math

import numpy as np

from edgerun.quantization import limits
from edgerun.tools.graph import MOVES, Graph, Op, Tensor
from edgerun.tools.passes._rewrite import WEIGHTED, Rewriter, is_float, rewrite, scalar

POWERS = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal", -0.5: "rsqrt"}
NEVER_NEGATIVE = ("sigmoid", "hard_sigmoid", "exp", "softplus", "sqrt", "rsqrt", "abs", "square")
PLAIN_REDUCTIONS = ("mean", "sum", "max", "min", "prod")  # of one element: that element
STEPPED = ("floor", "ceil", "round", "sign")  # unary kinds that make a rounding error visible


def apply(graph: Graph) -> None:
    """Apply every rule of this module until none applies."""
    rewrite(graph, RULES)


def _to_unary(rewriter: Rewriter, op: Op, x: Tensor, kind: str, alpha: float = 0.0,
              beta: float = 0.0) -> bool:
    """Replace a binary op by a unary one, and its activation by another; the shape must be x's."""
    y = op.outputs[0]
    if x.shape != y.shape:
        return False
    new = x if kind == "" else rewriter.add(op, "unary", [x], op.name, kind=kind, alpha=alpha,
                                            beta=beta)
    activation = op.options["activation"]
    if activation:
        new = rewriter.add(op, "unary", [new], op.name, kind=activation, alpha=op.options["alpha"],
                           beta=op.options["beta"])
    rewriter.replace(y, new)
    return True


def _binary_scalar(rewriter: Rewriter, op: Op) -> bool:
    (a, b), kind = op.inputs, op.options["kind"]
    if not is_float(a) or not is_float(op.outputs[0]):
        return _binary_scalar_int(rewriter, op)
    left, right = scalar(a), scalar(b)
    if (left is None) == (right is None):
        return False
    x, c = (a, right) if left is None else (b, left)
    if not math.isfinite(c):
        return False
    forward = left is None
    if kind in ("add", "mul"):
        return _to_unary(rewriter, op, x, "affine", *((1.0, c) if kind == "add" else (c, 0.0)))
    if kind == "sub":
        return _to_unary(rewriter, op, x, "affine", *((1.0, -c) if forward else (-1.0, c)))
    if kind in ("min", "max"):
        low, high = (c, math.inf) if kind == "max" else (-math.inf, c)
        return _to_unary(rewriter, op, x, *(("relu",) if low == 0 else ("clip", low, high)))
    if kind == "div" and forward and c != 0 and not _rounded(rewriter, op.outputs[0], c):
        return _to_unary(rewriter, op, x, "affine", 1 / c, 0.0)
    if kind == "div" and not forward and x.shape == op.outputs[0].shape:
        inverse = rewriter.add(op, "unary", [x], op.name, kind="reciprocal")
        return _to_unary(rewriter, op, inverse, *(("",) if c == 1 else ("affine", c, 0.0)))
    if kind == "pow" and forward and c == 1:
        return _to_unary(rewriter, op, x, "")
    if kind == "pow" and forward and c in POWERS:
        return _to_unary(rewriter, op, x, POWERS[c])
    if kind == "prelu" and forward:
        return _to_unary(rewriter, op, x, "leaky_relu", c)
    return False


def _rounded(rewriter: Rewriter, y: Tensor, divisor: float) -> bool:
    """Whether someone rounds a quotient: floor(49 / 49) is 1, floor(49 * (1 / 49)) is 0."""
    if math.frexp(divisor)[0] in (0.5, -0.5):
        return False  # the reciprocal of a power of two is exact
    return any(user.code == "cast" or user.outputs[0].dtype == "bool"
               or user.options.get("kind") in STEPPED for user in rewriter.users(y))


def _binary_scalar_int(rewriter: Rewriter, op: Op) -> bool:
    (a, b), kind = op.inputs, op.options["kind"]
    neutral = {"add": 0, "sub": 0, "mul": 1, "div": 1, "floor_div": 1}.get(kind)
    if neutral is None or a.dtype != "int32":
        return False
    if scalar(b) == neutral and not a.constant:
        return _to_unary(rewriter, op, a, "")
    if scalar(a) == neutral and not b.constant and kind in ("add", "mul"):
        return _to_unary(rewriter, op, b, "")
    return False


def _binary_vector(rewriter: Rewriter, op: Op) -> bool:
    """x - c -> x + (-c) and x / c -> x * (1 / c), so that the affine passes see two kinds only."""
    (x, c), kind = op.inputs, op.options["kind"]
    if not is_float(x) or x.constant or not c.constant:
        return False
    if kind == "sub":
        values, new = -c.data, "add"
    elif kind == "div" and np.all(c.data != 0) and not _rounded(rewriter, op.outputs[0], 3.0):
        values, new = 1 / c.data, "mul"
    else:
        return False
    rewriter.set_input(op, 1, rewriter.graph.constant(values, c.name))
    op.options["kind"] = new
    return True


def _constant_last(rewriter: Rewriter, op: Op) -> bool:
    a, b = op.inputs
    if op.options["kind"] not in ("add", "mul", "min", "max") or not a.constant or b.constant:
        return False
    rewriter.set_inputs(op, [b, a])
    return True


def _product_with_itself(rewriter: Rewriter, op: Op) -> bool:
    a, b = op.inputs
    return (a is b and op.options["kind"] == "mul" and is_float(a)
            and _to_unary(rewriter, op, a, "square"))


def _divide_by_root(rewriter: Rewriter, op: Op) -> bool:
    """a / sqrt(b) -> a * rsqrt(b)."""
    a, b = op.inputs
    root = rewriter.private_producer(b, "unary", kind="sqrt")
    if root is None or op.options["kind"] != "div":
        return False
    inverse = rewriter.add(op, "unary", [root.inputs[0]], root.name, kind="rsqrt")
    op.options["kind"] = "mul"
    rewriter.set_input(op, 1, inverse)
    return True


def _difference_squared(rewriter: Rewriter, op: Op) -> bool:
    """square(a - b) of a difference that is used elsewhere stays; else it is one op."""
    sub = rewriter.private_producer(op.inputs[0], "binary", kind="sub", activation="")
    if op.options["kind"] != "square" or sub is None:
        return False
    rewriter.replace(op.outputs[0], rewriter.add(
        op, "binary", sub.inputs, op.name, kind="squared_difference"))
    return True


def _unary_identity(rewriter: Rewriter, op: Op) -> bool:
    kind, alpha, beta = op.options["kind"], op.options["alpha"], op.options["beta"]
    nothing = (
        (kind == "affine" and alpha == 1 and beta == 0)
        or (kind == "clip" and alpha == -math.inf and beta == math.inf)
        or (kind == "leaky_relu" and alpha == 1))
    if nothing:
        rewriter.replace(op.outputs[0], op.inputs[0])
    return nothing


def _simplest_kind(rewriter: Rewriter, op: Op) -> bool:
    options = op.options
    kind, alpha, beta = options["kind"], options["alpha"], options["beta"]
    if kind == "clip" and alpha == 0 and beta == math.inf:
        options.update(kind="relu", beta=0.0)
    elif kind == "leaky_relu" and alpha == 0:
        options.update(kind="relu")
    elif kind == "neg" and is_float(op.inputs[0]):
        options.update(kind="affine", alpha=-1.0, beta=0.0)
    else:
        return False
    return True


def merged(first: dict, second: dict) -> tuple[str, float, float] | None:
    """Return the one unary (kind, alpha, beta) that does what two in a row do, or None.

    Args:
        first, second: options kind, alpha, beta.
    """
    a, b = (_as_clip(o["kind"], o["alpha"], o["beta"]) for o in (first, second))
    if a and b and a[0] <= a[1] and b[0] <= b[1]:
        low, high = (min(max(edge, b[0]), b[1]) for edge in a)
        return ("relu", 0.0, 0.0) if (low, high) == (0, math.inf) else ("clip", low, high)
    kinds = (first["kind"], second["kind"])
    if kinds == ("affine", "affine"):
        return ("affine", first["alpha"] * second["alpha"],
                first["beta"] * second["alpha"] + second["beta"])
    if kinds == ("sqrt", "reciprocal") or kinds == ("reciprocal", "sqrt"):
        return "rsqrt", 0.0, 0.0
    if kinds == ("reciprocal", "reciprocal"):
        return "affine", 1.0, 0.0
    if kinds == ("abs", "square"):
        return "square", 0.0, 0.0
    if kinds == ("affine", "hard_sigmoid"):
        return ("hard_sigmoid", first["alpha"] * second["alpha"],
                first["beta"] * second["alpha"] + second["beta"])
    if second["kind"] == "relu" and first["kind"] in NEVER_NEGATIVE:
        return first["kind"], first["alpha"], first["beta"]
    return None


def _as_clip(kind: str, alpha: float, beta: float) -> tuple[float, float] | None:
    return {"relu": (0.0, math.inf), "clip": (alpha, beta)}.get(kind)


def _two_unaries(rewriter: Rewriter, op: Op) -> bool:
    first = rewriter.private_producer(op.inputs[0], "unary")
    if first is None or not is_float(first.inputs[0]):
        return False
    both = merged(first.options, op.options)
    if both is None:
        return False
    kind, alpha, beta = both
    op.options.update(kind=kind, alpha=alpha, beta=beta)
    rewriter.set_input(op, 0, first.inputs[0])
    return True


def _has_weights(op: Op | None) -> bool:
    return op is not None and op.code in WEIGHTED


def _scale_after_product(rewriter: Rewriter, op: Op) -> bool:
    """(a * s) * b -> (a * b) * s, where it meets another scale or an activation sooner."""
    if op.options["kind"] != "mul" or op.options["activation"] or not is_float(op.outputs[0]):
        return False
    if any(t.constant for t in op.inputs) or op.inputs[0] is op.inputs[1]:
        return False
    y = op.outputs[0]
    for i, operand in enumerate(op.inputs):
        scale = rewriter.private_producer(operand, "unary", kind="affine", beta=0.0)
        if scale is None or _has_weights(rewriter.producer(scale.inputs[0])):
            continue  # weights take the scale in
        inputs = list(op.inputs)
        inputs[i] = scale.inputs[0]
        product = rewriter.add(op, "binary", inputs, op.name, kind="mul")
        rewriter.replace(y, rewriter.add(op, "unary", [product], scale.name, kind="affine",
                                         alpha=scale.options["alpha"]))
        return True
    return False


def _scale_of_softmax(rewriter: Rewriter, op: Op) -> bool:
    """softmax(a * x + b) -> softmax with a scale: a shift of all logits changes nothing."""
    before = rewriter.private_producer(op.inputs[0], "unary", kind="affine")
    if before is None:
        return False
    op.options["scale"] *= before.options["alpha"]
    rewriter.set_input(op, 0, before.inputs[0])
    return True


def _narrow_constant(rewriter: Rewriter, op: Op) -> bool:
    """A constant that is the same all along an axis needs one element there."""
    for index, tensor in enumerate(op.inputs):
        if not tensor.constant or tensor.data.size < 2:
            continue
        data = tensor.data
        for axis, n in enumerate(data.shape):
            first = data.take([0], axis)
            if n > 1 and (data == first).all():
                data = first
        shapes = [data.shape if t is tensor else t.shape for t in op.inputs]
        if data.size < tensor.data.size and np.broadcast_shapes(*shapes) == op.outputs[0].shape:
            rewriter.set_input(op, index, rewriter.graph.constant(data, tensor.name, tensor.dtype))
            return True
    return False


def _expanded_operand(rewriter: Rewriter, op: Op) -> bool:
    """A binary op broadcasts by itself."""
    for index, operand in enumerate(op.inputs):
        before = rewriter.producer(operand, "expand")
        if before is None:
            continue
        shapes = [t.shape for t in op.inputs]
        shapes[index] = before.inputs[0].shape
        if np.broadcast_shapes(*shapes) == op.outputs[0].shape:
            rewriter.set_input(op, index, before.inputs[0])
            return True
    return False


def _keeps_dims(rewriter: Rewriter, op: Op) -> bool:
    """A reshape that puts back the axes a reduction dropped."""
    before = rewriter.private_producer(op.inputs[0], "reduce", keep_dims=False)
    if before is None:
        return False
    x, axes = before.inputs[0], before.options["axes"]
    if op.outputs[0].shape != tuple(1 if i in axes else n for i, n in enumerate(x.shape)):
        return False
    rewriter.replace(op.outputs[0], rewriter.add(
        op, "reduce", [x], before.name, **{**before.options, "keep_dims": True}))
    return True


def _needless_axes(rewriter: Rewriter, op: Op) -> bool:
    """Reducing an axis of one element changes nothing if the axis is kept."""
    options, shape = op.options, op.inputs[0].shape
    axes = tuple(axis for axis in options["axes"] if shape[axis] != 1)
    if axes == tuple(options["axes"]) or not axes or not options["keep_dims"] or (
            options["kind"] not in PLAIN_REDUCTIONS):
        return False
    options["axes"] = axes
    return True


def is_same(rewriter: Rewriter, op: Op) -> bool:
    """An op whose options make it return its first input."""
    x, y = op.inputs[0], op.outputs[0]
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    options = op.options
    same = {
        "reshape": lambda: True,
        "expand": lambda: True,
        "tile": lambda: True,
        "concat": lambda: len(op.inputs) == 1,
        "cast": lambda: True,
        "slice": lambda: all(step == 1 for step, n in zip(options["steps"], x.shape) if n > 1),
        "pad": lambda: True,
        "transpose": lambda: options["perm"] == tuple(range(len(x.shape))),
        "reduce": lambda: (options["kind"] in PLAIN_REDUCTIONS
                           and all(x.shape[axis] == 1 for axis in options["axes"])),
    }[op.code]()
    if same:
        rewriter.replace(y, x)
    return same


def _two_reshapes(rewriter: Rewriter, op: Op) -> bool:
    first = rewriter.producer(op.inputs[0], "reshape")
    if first is None:
        return False
    rewriter.set_input(op, 0, first.inputs[0])
    return True


def two_transposes(rewriter: Rewriter, op: Op) -> bool:
    """A transpose of a transpose is one transpose."""
    first = rewriter.producer(op.inputs[0], "transpose")
    if first is None:
        return False
    op.options["perm"] = tuple(first.options["perm"][axis] for axis in op.options["perm"])
    rewriter.set_input(op, 0, first.inputs[0])
    return True


def _two_slices(rewriter: Rewriter, op: Op) -> bool:
    first = rewriter.producer(op.inputs[0], "slice")
    if first is None:
        return False
    inner, outer = first.options, op.options
    outer["starts"] = tuple(a + s * b for a, s, b in zip(inner["starts"], inner["steps"],
                                                         outer["starts"]))
    outer["steps"] = tuple(a * b for a, b in zip(inner["steps"], outer["steps"]))
    rewriter.set_input(op, 0, first.inputs[0])
    return True


def _exact(rewriter: Rewriter, op: Op) -> bool:
    """quantize(dequantize(x)) on one grid is x."""
    before = rewriter.producer(op.inputs[0], "dequantize")
    if before is None:
        return False
    x, y = before.inputs[0], op.outputs[0]
    if x.dtype != y.dtype or x.quantization.grid != y.quantization.grid:
        return False
    rewriter.replace(y, x)
    return True


def _quantize_first(rewriter: Rewriter, op: Op) -> bool:
    """quantize(move(x)) -> move(quantize(x)): integers are smaller."""
    move, y = rewriter.private_producer(op.inputs[0]), op.outputs[0]
    if (move is None or move.code not in ("reshape", "transpose", "expand", "tile")
            or y.quantization.axis != -1 or move.inputs[0].constant):
        return False
    q = rewriter.add(op, "quantize", [move.inputs[0]], op.name, y.quantization, **op.options)
    rewriter.replace(y, rewriter.add(op, move.code, [q], move.name, **move.options))
    return True


def _dequantize_last(rewriter: Rewriter, op: Op) -> bool:
    """move(dequantize(x)) -> dequantize(move(x))."""
    before = rewriter.producer(op.inputs[0], "dequantize")
    if before is None or before.inputs[0].quantization.axis != -1:
        return False
    moved = rewriter.add(op, op.code, [before.inputs[0], *op.inputs[1:]], op.name, **op.options)
    rewriter.replace(op.outputs[0], rewriter.add(op, "dequantize", [moved], before.name,
                                                 **before.options))
    return True


def _clamp_between_grids(rewriter: Rewriter, op: Op) -> bool:
    """quantize(clamp(dequantize(quantize(x)))) on one grid -> quantize(clamp(x)): a clamp of the
    integers, which the op that makes x takes in."""
    clamp, y = rewriter.private_producer(op.inputs[0], "unary"), op.outputs[0]
    if clamp is None or _as_clip(*(clamp.options[k] for k in ("kind", "alpha", "beta"))) is None:
        return False
    before = rewriter.private_producer(clamp.inputs[0], "dequantize")
    first = before and rewriter.private_producer(before.inputs[0], "quantize")
    if not first:
        return False
    q = before.inputs[0]
    if q.dtype != y.dtype or q.quantization.grid != y.quantization.grid:
        return False
    rewriter.set_input(clamp, 0, first.inputs[0])
    return True


def _clamp_of_nothing(rewriter: Rewriter, op: Op) -> bool:
    """A clamp beyond what the integers behind it can mean."""
    ends = _as_clip(*(op.options[key] for key in ("kind", "alpha", "beta")))
    before = rewriter.producer(op.inputs[0], "dequantize")
    if ends is None or before is None or before.inputs[0].quantization.axis != -1:
        return False
    q = before.inputs[0].quantization
    low, high = (q.step * (end - q.zero) for end in limits(before.inputs[0].dtype))
    if low < ends[0] or high > ends[1]:
        return False
    rewriter.replace(op.outputs[0], op.inputs[0])
    return True


RESHAPES = (_two_reshapes, is_same, _keeps_dims)
RULES = {
    "binary": (_constant_last, _binary_scalar, _binary_vector, _product_with_itself,
               _divide_by_root, _scale_after_product, _expanded_operand, _narrow_constant),
    "unary": (_simplest_kind, _unary_identity, _two_unaries, _difference_squared,
              _clamp_of_nothing),
    "quantize": (_exact, _clamp_between_grids, _quantize_first),
    "softmax": (_scale_of_softmax,),
    "reshape": RESHAPES,
    "transpose": (two_transposes, is_same),
    "slice": (_two_slices, is_same),
    "reduce": (_needless_axes, is_same),
    **{code: (is_same,) for code in ("expand", "tile", "concat", "cast", "pad")},
}
for _code in MOVES:
    RULES[_code] = (*RULES.get(_code, ()), _dequantize_last)
