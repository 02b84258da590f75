"""Keep real what rounding would spoil: logarithms, divisors, functions too bent for a table."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgerun.quantization import dequantize, limits, quantize
from edgerun.tools.graph import MOVES, Graph, Op, Tensor
from edgerun.tools.lower import tables
from edgerun.tools.quantize.assign import INTEGERS, WEIGHTED, Override, names_of
from edgerun.tools.quantize.chains import BITS, STORED, Link, Range, elementwise, links
from edgerun.tools.quantize.grids import activation_quantization
from edgerun.tools.quantize.masks import Masks
from edgerun.tools.quantize.saturation import Saturation

# Part of y's range that one step of x may be worth. Beyond it what matters of x are its ratios (as
# to log, reciprocal, a divisor) or its sign, which integers in equal steps do not keep.
COARSE = 1 / 8


def keep_exact(graph: Graph, dtypes: dict[Op, str], range_of: Range,
               overrides: Sequence[Override] = ()) -> dict[Op, str]:
    """Return a choice in which elementwise ops compute in fp32 where integers would spoil them.

    Real is what a table of int16 would be too coarse for; and a function of which one step of its
    tensor is worth more than COARSE of its range, together with all that leads to that tensor from
    the last layer: the logarithm of a spectrum, the norm by which a vector is divided. If it leads
    there from the first layer, which is the transform of a signal then, that layer too.

    Args:
        graph: optimized, in fp32; not changed.
        dtypes: from assign().
        range_of: as for insert().
        overrides: ops that they name keep what they were given.
    """
    chosen, producers = dict(dtypes), graph.producers()
    named = {op for op in graph.ops
             if any(o.matches(name) for o in overrides for name in names_of(op))}

    first = _first_layers(graph)

    def real(op: Op | None, all_before: bool) -> None:
        if op is None or chosen.get(op) not in INTEGERS or op in named:
            return
        if not (elementwise(op) or op.code == "reduce" or op in first):
            return
        chosen[op] = "fp32"
        for x in op.inputs if all_before else ():
            real(producers.get(x), True)

    found, between = links(graph, dtypes)
    needed = Saturation(graph, found, between, Masks(graph, range_of).range).range
    for op in reversed(graph.ops):
        if op.code == "binary" and op.options["kind"] == "div":
            before = producers.get(op.inputs[1])
            if dtypes.get(before) in INTEGERS and not _divides(
                    op.inputs[1], found.get(before), dtypes[before], needed):
                real(before, True)
        if op not in found or op.outputs[0] in between or op in named:
            continue
        dtype, link = dtypes[op], found[op]
        fits, smooth = _judged(link, op.outputs[0], dtype, needed)
        if fits and smooth:
            continue
        for other in _leading(op, link.root, producers):
            real(other, False)
        if not smooth:
            real(producers.get(link.root), True)
    return chosen


def _first_layers(graph: Graph) -> set[Op]:
    """Return the layers that read an input of the graph, padded or in another shape."""
    near, first = {boundary.tensor for boundary in graph.inputs}, set()
    for op in graph.ops:
        if op.inputs[0] in near:
            if op.code in WEIGHTED:
                first.add(op)
            elif op.code in (*MOVES, "pad"):
                near |= {*op.outputs}
    return first


def _leading(op: Op, root: Tensor, producers: Mapping[Tensor, Op]) -> list[Op]:
    """Return the ops between a tensor and the output of op, which is a function of it."""
    found, pending = {}, [op]
    while pending:
        op = pending.pop()
        found[op] = None
        pending += [producers[x] for x in op.inputs
                    if x is not root and not x.constant and producers[x] not in found]
    return list(found)


def _divides(b: Tensor, link: Link | None, dtype: str, range_of: Range) -> bool:
    """Whether the integers of a divisor are fine enough for its reciprocal."""
    given = activation_quantization(*range_of(b.name, BITS[dtype]), dtype)
    values = _grid(b if link is None else link.root, dtype, range_of)
    with np.errstate(all="ignore"):
        if link is not None:
            values = link.function(values)
        stored = dequantize(quantize(values, given, STORED[dtype]), given)
        values = 1 / stored.astype(np.float64)
    return bool(np.isfinite(values).all()
                and np.abs(np.diff(values)).max(initial=0) <= COARSE * np.ptp(values))


def _grid(x: Tensor, dtype: str, range_of: Range) -> np.ndarray:
    """Return the real numbers, fp64, that integers in the range of a tensor mean."""
    low_high = range_of(x.name, BITS[dtype])
    grid = activation_quantization(*low_high, dtype)
    low, high = quantize(np.array(low_high), grid, STORED[dtype])
    return dequantize(np.arange(int(low), int(high) + 1), grid).astype(np.float64)


def _judged(link: Link, y: Tensor, dtype: str, range_of: Range) -> tuple[bool, bool]:
    """Return whether a table has room for a function, and whether steps of the root are fine
    enough for it."""
    given, wanted = (activation_quantization(*range_of(t.name, BITS[dtype]), dtype)
                     for t in (link.root, y))
    stored = STORED[dtype]
    with np.errstate(all="ignore"):
        numbers = _grid(link.root, dtype, range_of)
        values = np.clip(np.asarray(link.function(numbers), np.float64),
                         *dequantize(np.array(limits(stored)), wanted))
    if not np.isfinite(values).all():
        return False, False
    low, high = range_of(y.name, BITS[dtype])
    smooth = np.abs(np.diff(values)).max(initial=0) <= max(COARSE * (high - low), wanted.step)
    fits = dtype != "int16" or tables.interpolated(
        link.function, given, Tensor(y.name, y.shape, stored, quantization=wanted)) is not None
    return fits, bool(smooth)


__all__ = ["COARSE", "keep_exact"]
