"""ONNX LSTM, GRU and RNN: one op over all steps, behind a dense layer for the inputs."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
# Functions of an RNN; with what they have where the node gives no alpha and beta.
FUNCTIONS = {"tanh": ("tanh", 0.0, 0.0), "relu": ("relu", 0.0, 0.0),
             "sigmoid": ("sigmoid", 0.0, 0.0), "softsign": ("softsign", 0.0, 0.0),
             "softplus": ("softplus", 0.0, 0.0), "elu": ("elu", 1.0, 0.0),
             "leakyrelu": ("leaky_relu", 0.01, 0.0), "affine": ("affine", 1.0, 0.0),
             "hardsigmoid": ("hard_sigmoid", 0.2, 0.5)}
W, R, B, LENGTHS, STATE, CELL, PEEPHOLES = range(1, 8)  # inputs


def _recurrent(ctx: Context, node: Node) -> list[Tensor | None]:
    """y [T, D, N, H], the last states [D, N, H] and, of an LSTM, the last cells."""
    x, rows = ctx.tensor(0), node.attr("layout", 0)
    need(len(x.shape) == 3, f"its input has {len(x.shape)} dimensions, needed 3")
    if rows:  # [N, T, I]
        x = ctx.transpose(x, (1, 0, 2))
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(
        node.attr("direction", "forward"))
    if directions is None:
        raise ModelError(f"direction {node.attr('direction')!r} is not known")
    _check(node, x, len(directions))
    found = [_direction(ctx, node, x, number, reverse, len(directions), bool(rows))
             for number, reverse in enumerate(directions)]
    y, h, c = (_joined(ctx, [part[i] for part in found], 1 if i == 0 else 0) for i in range(3))
    if rows:
        y = ctx.transpose(y, (2, 0, 1, 3)) if node.used(0) else y
        h, c = (t if t is None else ctx.transpose(t, (1, 0, 2)) for t in (h, c))
    return [y, h, c][:len(node.outputs)]


def _check(node: Node, x: Tensor, directions: int) -> None:
    hidden, gates = node.attr("hidden_size"), GATES[node.op_type]
    w, r = node.known(W, "weights W"), node.known(R, "weights R")
    hidden = hidden or r.shape[-1]
    for name, array, width in (("W", w, x.shape[2]), ("R", r, hidden)):
        if array.shape != (directions, gates * hidden, width):
            raise ModelError(f"{name} has the shape {array.shape}, needed "
                             f"{(directions, gates * hidden, width)}")
    if node.given(LENGTHS):
        lengths = node.known(LENGTHS, "sequence_lens")
        need(bool((lengths == x.shape[0]).all()),
             f"its sequences have the lengths {lengths.tolist()}, needed {x.shape[0]} for all")
    need(not node.attr("input_forget", 0), "input_forget is set")


def _functions(node: Node, number: int, directions: int) -> dict:
    """Return the options of the activation functions of a direction."""
    names = [name.lower() for name in node.attr("activations") or []]
    usual = USUAL.get(node.op_type)
    needed = directions * len(usual or ("tanh",))
    if len(names) not in (0, needed):
        raise ModelError(f"activations has {len(names)} names, needed {needed}")
    if usual is not None:
        count = len(usual)
        given = tuple(names[number * count:(number + 1) * count]) or usual
        need(given == usual, f"its activations are {', '.join(given)}, needed {', '.join(usual)}")
        return {}
    name = names[number] if names else "tanh"
    need(name in FUNCTIONS, f"its activation is {name}")
    kind, alpha, beta = FUNCTIONS[name]
    alphas, betas = node.attr("activation_alpha") or [], node.attr("activation_beta") or []
    need(len(alphas) in (0, directions) and len(betas) in (0, directions),
         "it has activation_alpha or activation_beta for some of its directions")
    return {"activation": kind, "alpha": alphas[number] if alphas else alpha,
            "beta": betas[number] if betas else beta}


def _direction(ctx: Context, node: Node, x: Tensor, number: int, reverse: bool, directions: int,
               rows: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y [T, N, H], and the last state and cell [N, H], of one direction."""
    kind = node.op_type
    hidden, steps = node.known(R, "weights R").shape[-1], x.shape[0]
    options = {"reverse": reverse, "clip": node.attr("clip", 0.0),
               **_functions(node, number, directions)}
    input_bias, bias = (None if b is None else ctx.constant(b.astype(np.float32))
                        for b in _biases(node, number, hidden))
    if kind == "GRU" and not node.attr("linear_before_reset", 0):
        options["reset_first"] = True
    weights = ctx.derived(W, f"inputs{number}", lambda w: w[number])
    products = ctx.add("dense", [x, weights, input_bias])
    recurrent = ctx.derived(R, f"steps{number}", lambda r: np.ascontiguousarray(r[number].T))
    if kind == "LSTM" and node.given(PEEPHOLES):
        if node.known(PEEPHOLES, "peepholes P").shape != (directions, 3 * hidden):
            raise ModelError(f"P has the shape {node.shape(PEEPHOLES)}, needed "
                             f"{(directions, 3 * hidden)}")
        bias = ctx.derived(PEEPHOLES, f"peepholes{number}", lambda p: p[number], dtype="fp32")
    inputs = [products, recurrent, bias, _state(ctx, node, STATE, number, rows)]
    if kind == "LSTM":
        inputs.append(_state(ctx, node, CELL, number, rows))
    while inputs[-1] is None:
        inputs.pop()
    y, *cell = ctx.add_all(kind.lower(), inputs, **options)
    last = 0 if reverse else steps - 1
    h = ctx.add("slice", [y], starts=(last, 0, 0), steps=(1, 1, 1), sizes=(1, *y.shape[1:]))
    return y, ctx.reshape(h, y.shape[1:]), cell[0] if cell else None


def _biases(node: Node, number: int, hidden: int
            ) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return what is added to the products with the inputs, and inside of a step."""
    if not node.given(B):
        return None, None
    width = GATES[node.op_type] * hidden
    needed = (node.shape(W)[0], 2 * width)
    if node.known(B, "bias B").shape != needed:
        raise ModelError(f"B has the shape {node.shape(B)}, needed {needed}")
    inside = node.op_type == "GRU" and bool(node.attr("linear_before_reset", 0))
    both = 2 * hidden if inside else width

    first, second = np.split(node.value(B).array[number], 2)
    return (np.concatenate([first[:both] + second[:both], first[both:]]),
            second[both:] if inside else None)


def _state(ctx: Context, node: Node, index: int, number: int, rows: bool) -> Tensor | None:
    """Return a first state [N, H] of a direction, None where it is 0."""
    if not node.given(index):
        return None
    value = node.value(index)
    if value.known and not value.array.any():
        return None
    state = ctx.tensor(index)  # [D, N, H], or [N, D, H] where rows come first
    if rows:
        state = ctx.transpose(state, (1, 0, 2))
    directions, samples, hidden = state.shape
    if directions > 1:
        state = ctx.add("slice", [state], starts=(number, 0, 0), steps=(1, 1, 1),
                        sizes=(1, samples, hidden))
    return ctx.reshape(state, (samples, hidden))


def _joined(ctx: Context, parts: Sequence[Tensor | None], axis: int) -> Tensor | None:
    """Return the parts of all directions along a new axis."""
    if parts[0] is None:
        return None
    shape = list(parts[0].shape)
    shape.insert(axis, 1)
    parts = [ctx.reshape(part, shape) for part in parts]
    return parts[0] if len(parts) == 1 else ctx.add("concat", parts, axis=axis)


TABLE: dict[str, Callable] = dict.fromkeys(GATES, _recurrent)
