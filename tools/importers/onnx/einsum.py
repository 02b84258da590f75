"""ONNX Einsum: sums, transposes and one matrix product (or one multiplication) per operand."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgerun import dtypes
from edgerun.errors import ModelError
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.onnx.context import Context, Node, need
from edgerun.tools.importers.onnx.elementwise import binary

TERM = re.compile(r"([A-Za-z]*)(\.\.\.)?([A-Za-z]*)")


@dataclass
class Operand:
    """A tensor with one label per axis. The axes of an ellipsis are labelled "0", "1", ... from the
    last one, so that they broadcast."""
    tensor: Tensor
    labels: list[str]

    def size(self, label: str) -> int:
        """Return the length of the axis, 1 if there is none."""
        return self.tensor.shape[self.labels.index(label)] if label in self.labels else 1


def _einsum(ctx: Context, node: Node) -> Tensor:
    equation = node.attr("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs) or not all(map(TERM.fullmatch, [*terms, right])):
        raise ModelError(f"the equation {equation!r} does not fit {len(node.inputs)} inputs")
    operands = [Operand(t := ctx.tensor(i), _labels(term, len(t.shape), equation))
                for i, term in enumerate(terms)]
    need(all(len(set(o.labels)) == len(o.labels) for o in operands),
         f"the equation {equation!r} takes a diagonal")
    names = [label for o in operands for label in o.labels]
    dots = sorted({n for n in names if n.isdigit()}, key=int, reverse=True)
    if arrow:
        match = TERM.fullmatch(right)
        out = [*match[1], *(dots if match[2] else ()), *match[3]]
    else:
        out = dots + sorted(n for n in set(names) if names.count(n) == 1 and n not in dots)
    if len(set(out)) < len(out) or not set(out) <= set(names):
        raise ModelError(f"the equation {equation!r} has an output that its inputs do not define")
    need(all(o.tensor.dtype in dtypes.FLOAT for o in operands),
         f"it computes with {operands[0].tensor.dtype}, needed float")
    result = operands[0]
    for index, operand in enumerate(operands[1:], start=2):
        later = {label for o in operands[index:] for label in o.labels}
        result = _product(ctx, result, operand, later | set(out))
    result = _arranged(ctx, result, _ordered(result.labels, out))
    return ctx.transpose(result.tensor, [result.labels.index(label) for label in out])


def _labels(term: str, rank: int, equation: str) -> list[str]:
    before, ellipsis, after = TERM.fullmatch(term).groups()
    free = rank - len(before) - len(after)
    if free < 0 or (free and not ellipsis):
        raise ModelError(f"{term!r} of the equation {equation!r} does not fit {rank} dimensions")
    return [*before, *(str(i) for i in reversed(range(free))), *after]


def _ordered(labels: Iterable[str], wanted: Iterable[str]) -> list[str]:
    wanted = set(wanted)
    return [label for label in labels if label in wanted]


def _arranged(ctx: Context, x: Operand, order: Sequence[str]) -> Operand:
    """Return the operand with its axes in this order; those left out are summed."""
    gone = [axis for axis, label in enumerate(x.labels) if label not in order]
    if gone:
        x = Operand(ctx.add("reduce", [x.tensor], kind="sum", axes=gone, keep_dims=False),
                    _ordered(x.labels, order))
    return Operand(ctx.transpose(x.tensor, [x.labels.index(n) for n in order]), list(order))


def _product(ctx: Context, a: Operand, b: Operand, kept: set[str]) -> Operand:
    """Return the product of two operands, summed over the labels that are not kept."""
    a, b = (_arranged(ctx, x, _ordered(x.labels, kept | set(other.labels)))
            for x, other in ((a, b), (b, a)))
    both = _ordered(a.labels, b.labels)
    for label in both:
        if a.size(label) != b.size(label) and not (
                label.isdigit() and 1 in (a.size(label), b.size(label))):
            raise ModelError(f"axes {label!r} of {a.size(label)} and {b.size(label)} elements do "
                             "not fit")
    inner = [label for label in both if label not in kept]
    batch = [label for label in both if label in kept]
    rows = [label for label in a.labels if label not in both]
    columns = [label for label in b.labels if label not in both]
    out = batch + rows + columns
    sizes = [max(a.size(n), b.size(n)) for n in out]
    if not inner:
        a, b = (_arranged(ctx, x, _ordered(out, x.labels)) for x in (a, b))
        spread = [ctx.reshape(x.tensor, [x.size(n) for n in out]) for x in (a, b)]
        return Operand(binary(ctx, "mul", *spread), out)
    # the order that needs no transpose; else the sum last, which reads along rows
    transpose_a = a.labels == batch + inner + rows and bool(rows)
    transpose_b = b.labels != batch + inner + columns
    a = _arranged(ctx, a, batch + (inner + rows if transpose_a else rows + inner))
    b = _arranged(ctx, b, batch + (columns + inner if transpose_b else inner + columns))
    m, k, n = (math.prod(o.size(label) for label in labels)
               for o, labels in ((a, rows), (a, inner), (b, columns)))
    y = ctx.add("matmul", [
        ctx.reshape(a.tensor, (*map(a.size, batch), *((k, m) if transpose_a else (m, k)))),
        ctx.reshape(b.tensor, (*map(b.size, batch), *((n, k) if transpose_b else (k, n))))],
        transpose_a=transpose_a, transpose_b=transpose_b)
    return Operand(ctx.reshape(y, sizes), out)


TABLE = {"Einsum": _einsum}
