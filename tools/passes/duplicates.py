"""Compute a value once: merge equal constants, and ops that do the same to the same tensors."""
from __future__ import annotations

from edgerun.tools.graph import Graph, Tensor


def apply(graph: Graph) -> None:
    """Merge constants with equal values, then ops with equal code, options and inputs."""
    merged: dict[Tensor, Tensor] = {}
    constants: dict[tuple, Tensor] = {}
    computed: dict[tuple, list[Tensor]] = {}
    kept = []
    for op in graph.ops:
        op.inputs = [_one(tensor, merged, constants) for tensor in op.inputs]
        key = (op.code, tuple(map(id, op.inputs)), tuple(sorted(op.options.items())),
               tuple(t.quantization and t.quantization.key for t in op.outputs))
        first = computed.setdefault(key, op.outputs)
        if first is op.outputs:
            kept.append(op)
        else:
            merged.update(zip(op.outputs, first))
    graph.ops = kept
    for boundary in graph.outputs:
        boundary.tensor = merged.get(boundary.tensor, boundary.tensor)


def _one(tensor: Tensor | None, merged: dict[Tensor, Tensor],
         constants: dict[tuple, Tensor]) -> Tensor | None:
    if tensor is None:
        return None
    if not tensor.constant:
        return merged.get(tensor, tensor)
    if tensor not in merged:
        key = (tensor.shape, tensor.dtype, tensor.layout, tensor.data.tobytes(),
               tensor.quantization and tensor.quantization.key)
        merged[tensor] = constants.setdefault(key, tensor)
    return merged[tensor]
