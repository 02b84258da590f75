"""Cut ops into strips of rows: slices of the rows that a strip needs, the ops, concats of rows.

Slices and concats of rows become views, so that only what one strip needs exists at a time.
"""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.tools.graph import Boundary, Graph, Op, Tensor, full_options
from edgerun.tools.patch.rows import (
    ROW_AXIS, Span, can_cut, height, hull, is_image, options, possible, reads)


@dataclass(frozen=True)
class Stage:
    """Neighbouring ops that run strip by strip.

    Attributes:
        first, last: numbers of the ops, both included.
        strips: how many.
        streamed: the graph inputs that only these ops read arrive in strips too.
    """
    first: int
    last: int
    strips: int
    streamed: bool = False


def results(graph: Graph, first: int, last: int) -> list[Tensor]:
    """Return the tensors that ops write and others, or the caller, read."""
    inside = graph.ops[first:last + 1]
    outside = {t for op in (*graph.ops[:first], *graph.ops[last + 1:]) for t in op.inputs}
    outside |= {boundary.tensor for boundary in graph.outputs}
    return [t for op in inside for t in op.outputs if t in outside]


def own_rows(tensor: Tensor, strip: int, strips: int) -> Span:
    """Return the rows of a result that a strip writes."""
    rows = height(tensor)
    return strip * rows // strips, (strip + 1) * rows // strips


def demands(ops: list[Op], results_: list[Tensor], strip: int, strips: int
            ) -> dict[Tensor, Span] | None:
    """Return the rows that a strip needs of every tensor; None if it cannot be computed so.

    Args:
        ops: that run strip by strip, in order.
        results_: of them, see results().
    """
    needs: dict[Tensor, Span] = {}
    for tensor in results_:
        rows = own_rows(tensor, strip, strips)
        if rows[0] < rows[1]:
            needs[tensor] = rows
    for op in reversed(ops):
        rows = needs.get(op.outputs[0])
        if rows is None:
            continue
        if not possible(op, rows):
            return None
        for tensor, span in zip(op.inputs, reads(op, rows)):
            if span is not None:
                needs[tensor] = hull(needs.get(tensor), span)
    return needs


def streamable(graph: Graph, first: int, last: int) -> list[Boundary]:
    """Return the graph inputs that only some ops read, and not whole."""
    inside = {*graph.ops[first:last + 1]}
    users = graph.consumers()
    return [boundary for boundary in graph.inputs
            if is_image(boundary.tensor) and height(boundary.tensor) > 1 and not boundary.pieces
            and users.get(boundary.tensor) and {*users[boundary.tensor]} <= inside
            and not graph.is_output(boundary.tensor)]


class _Writer:
    """Appends the strips of a stage to a graph."""

    def __init__(self, graph: Graph, ops: list[Op], streamed: list[Boundary]):
        self.graph, self.ops = graph, ops
        self.boundaries = {boundary.tensor: boundary for boundary in streamed}
        self.names: dict[str, str] = {}
        self._have: dict[Tensor, tuple[Tensor, Span]] = {}
        self._cut: dict[tuple[Tensor, Span], Tensor] = {}

    def strip(self, number: int, needs: dict[Tensor, Span]) -> None:
        """Append the ops of a strip."""
        self._have, self._cut = {}, {}
        for tensor, boundary in self.boundaries.items():
            rows = needs.get(tensor)
            if rows is None:
                continue
            piece = Tensor(self.graph.unique(f"{tensor.name} strip {number + 1}"),
                           _shape(tensor, rows), tensor.dtype, quantization=tensor.quantization)
            boundary.pieces.append((piece, rows[0]))
            self._have[tensor] = piece, rows
        for op in self.ops:
            y = op.outputs[0]
            rows = needs.get(y)
            if rows is None:
                continue
            inputs = [t if span is None else self.rows(t, span)
                      for t, span in zip(op.inputs, reads(op, rows))]
            name = f"{op.name or y.name} strip {number + 1}"
            made = self.graph.insert(len(self.graph.ops), op.code, inputs, name, y.quantization,
                                     **options(op, rows)).outputs[0]
            made.dtype = y.dtype  # an op may write another type than it infers
            if made.shape != _shape(y, rows):
                raise AssertionError(f"{op}: rows {rows} became {made.shape}")
            self.names[made.name] = y.name
            self._have[y] = made, rows

    def rows(self, tensor: Tensor, span: Span) -> Tensor:
        """Return some rows of a tensor of which the strip, or the graph, has these and others."""
        held, rows = self._have.get(tensor, (tensor, (0, height(tensor))))
        if rows == span:
            return held
        if (tensor, span) not in self._cut:
            starts = [0] * len(held.shape)
            starts[ROW_AXIS] = span[0] - rows[0]
            cut = self.graph.add(
                "slice", [held], f"{held.name} rows {span[0]} to {span[1] - 1}",
                tensor.quantization, starts=starts, steps=[1] * len(starts),
                sizes=_shape(tensor, span))
            cut.dtype = tensor.dtype
            self.names[cut.name] = tensor.name
            self._cut[tensor, span] = cut
        return self._cut[tensor, span]


def _shape(tensor: Tensor, rows: Span) -> tuple[int, ...]:
    return (*tensor.shape[:ROW_AXIS], rows[1] - rows[0], *tensor.shape[ROW_AXIS + 1:])


def cut(graph: Graph, stage: Stage) -> dict[str, str]:
    """Make the ops of a stage run strip by strip; the graph computes the same numbers.

    Args:
        graph: changed in place. Its tensors that others read stay; those in between are gone.
        stage: of ops that can_cut() allows.

    Returns:
        name of a new tensor -> name of the tensor whose rows it has.

    Raises:
        ValueError: the stage cannot be cut so.
    """
    ops, after = graph.ops[stage.first:stage.last + 1], graph.ops[stage.last + 1:]
    wanted = results(graph, stage.first, stage.last)
    strips = [demands(ops, wanted, k, stage.strips) for k in range(stage.strips)]
    if not all(map(can_cut, ops)) or None in strips or not wanted:
        raise ValueError(f"{stage}: its ops cannot run strip by strip")
    streamed = streamable(graph, stage.first, stage.last) if stage.streamed else []
    graph.ops = graph.ops[:stage.first]
    writer = _Writer(graph, ops, streamed)
    parts: dict[Tensor, list[Tensor]] = {tensor: [] for tensor in wanted}
    for number, needs in enumerate(strips):
        writer.strip(number, needs)
        for tensor in wanted:
            rows = own_rows(tensor, number, stage.strips)
            if rows[0] < rows[1]:
                parts[tensor].append(writer.rows(tensor, rows))
    for tensor in wanted:
        graph.ops.append(Op("concat", f"{tensor.name} strips", list(parts[tensor]), [tensor],
                            full_options("concat", {"axis": ROW_AXIS})))
    graph.ops += after
    for boundary in streamed:
        boundary.tensor = boundary.pieces[0][0]
    return writer.names
