"""Write a planned graph as a model file, driven by schema/edgerun.fbs."""
from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

import flatbuffers
import numpy as np

from edgerun import __version__, dtypes, flat
from edgerun.files import replacing
from edgerun.flat_writer import Offset, encode_table
from edgerun.memory import SLACK
from edgerun.model import PAGE, VERSION, Range
from edgerun.ops import OPS
from edgerun.tools import mixture
from edgerun.tools.graph import Graph, Tensor, Views, root_of
from edgerun.tools.plan import ALIGNMENT, Plan, aligned


MODE = "high"  # of a graph that names none: all planes count


class Calibration(Protocol):
    """What a file may keep of a calibration; see edgerun.tools.calibrate."""
    ranges: Mapping[str, Range]
    observer: str
    samples: int


def aligned_bytes(builder: flatbuffers.Builder, data: np.ndarray, alignment: int) -> Offset:
    """Write a byte vector whose first byte lands on a multiple of `alignment` of the file."""
    builder.StartVector(1, len(data), alignment)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.head:builder.head + len(data)] = data.tobytes()
    return Offset(builder.EndVector())


def segments_of(tensors: list[Tensor], experts: Mapping[Tensor, int] | None = None
                ) -> tuple[dict[str, np.ndarray], dict[Tensor, int]]:
    """Lay constants out, one segment per dtype.

    What only one expert reads follows what others need. A page and more of it starts on a page, and
    shares none with others, not even for whole vectors loaded behind its end; less lies within one.

    Args:
        tensors: in the order of the file; those of bits are left out.
        experts: constant -> number of the expert that reads it, if no other op does.

    Returns:
        dtype -> bytes (uint8, padded for whole-vector loads), and tensor -> byte offset in it.
    """
    groups: dict[str, dict[int, dict[bytes, list[Tensor]]]] = {}
    owner: dict[tuple[str, bytes], int] = {}
    for tensor in tensors:
        if tensor.constant and tensor.dtype != "bits":
            payload = np.ascontiguousarray(tensor.data, dtypes.numpy_dtype(tensor.dtype)).tobytes()
            group = owner.setdefault((tensor.dtype, payload), (experts or {}).get(tensor, -1))
            held = groups.setdefault(tensor.dtype, {-1: {}}).setdefault(group, {})
            held.setdefault(payload, []).append(tensor)  # equal constants are stored once
    segments: dict[str, np.ndarray] = {}
    places: dict[Tensor, int] = {}
    for dtype, held in groups.items():
        data, apart = bytearray(), False
        for group, payloads in held.items():
            size = sum(aligned(len(payload)) for payload in payloads)
            if group != -1 and (apart or -len(data) % PAGE < size):
                data += bytes(SLACK)
                data += bytes(-len(data) % PAGE)
            apart = group != -1 and size >= PAGE
            for payload, same in payloads.items():
                places |= dict.fromkeys(same, len(data))
                data += payload + bytes(-len(payload) % ALIGNMENT)
        data += bytes(SLACK)
        segments[dtype] = np.frombuffer(data, np.uint8)
    return segments, places


def bits_of(graph: Graph) -> tuple[list[np.ndarray], dict[Tensor, int]]:
    """Lay the constants of bits out: what the first planes need, what the second ones add, ...

    A lower precision is a prefix, so its last page alone may hold planes that it does not need. A
    whole vector that is loaded behind the last plane of a part may reach into the next part; where
    that starts on a page, spare bytes lie between them.

    Returns:
        The bytes of each part (uint8), and tensor -> byte offset in the segment.
    """
    number: dict[Tensor, int] = {}  # of the first part that needs it
    for op in graph.ops:
        planes = {index: k for k, held in enumerate(OPS[op.code].planes(op)) for index in held}
        for index, tensor in enumerate(op.inputs):
            if tensor is not None and tensor.constant and tensor.dtype == "bits":
                number[tensor] = min(number.get(tensor, 255), planes.get(index, 0))
    for boundary in graph.outputs:
        if boundary.tensor.constant and boundary.tensor.dtype == "bits":
            number.setdefault(boundary.tensor, 0)
    groups: list[list[bytes]] = [[] for _ in range(max(number.values(), default=-1) + 1)]
    within: dict[Tensor, tuple[int, int]] = {}
    known: dict[bytes, tuple[int, int]] = {}
    ends = [0] * len(groups)
    for tensor, group in sorted(number.items(), key=lambda pair: pair[1]):  # stable: by op
        payload = np.ascontiguousarray(tensor.data, dtypes.numpy_dtype("bits")).tobytes()
        if payload not in known:  # equal ones are stored once: with the first planes that need them
            known[payload] = group, ends[group]
            padded = payload + bytes(aligned(len(payload)) - len(payload))
            groups[group].append(padded)
            ends[group] += len(padded)
        within[tensor] = known[payload]
    starts, found = [0], []
    for held in groups:
        data = b"".join(held)
        if not data or len(found) + 1 == len(groups) or (starts[-1] + len(data)) % PAGE == 0:
            data += bytes(aligned(SLACK))
        starts.append(starts[-1] + len(data))
        found.append(np.frombuffer(data, np.uint8))
    return found, {tensor: starts[group] + at for tensor, (group, at) in within.items()}


def encode(graph: Graph, plan: Plan, views: Views, precision: str,
           vectors: list[tuple[list[np.ndarray], list[np.ndarray], float]] | None = None,
           calibration: Calibration | None = None) -> bytes:
    """Return the bytes of a model file.

    Args:
        graph: after the layout pass.
        plan: offsets of every arena tensor.
        views: where the tensors lie that have no bytes of their own.
        precision: what the packer was asked for.
        vectors: (inputs, expected outputs, relative tolerance), in boundary order.
        calibration: ranges of the graph's real tensors before any of them was quantized.
    """
    tensors = graph.tensors()
    known = {id(tensor) for tensor in tensors}
    tensors += {id(view.root): view.root for tensor, view in views.items()
                if id(tensor) in known and id(view.root) not in known}.values()
    index = {tensor: i for i, tensor in enumerate(tensors)}
    segments, places = segments_of(tensors, mixture.constants(graph))
    parts, inside = bits_of(graph)
    if parts:
        segments["bits"] = np.concatenate(parts)
        places |= inside
    order = list(segments)
    graph_bytes = _encode_graph(graph, plan, views, precision, tensors, index, order, places,
                                calibration)
    builder = flatbuffers.Builder(sum(map(len, segments.values())) + len(graph_bytes) + 64 * 1024)
    # a builder begins at the end of the file, with the segment that its last page holds least of
    written = {dtype: aligned_bytes(builder, segments[dtype], PAGE)
               for dtype in sorted(order, key=lambda dtype: -_padding(segments[dtype]))}
    encoded = {
        "version": VERSION, "producer": f"edgerun {__version__}",
        "graph": aligned_bytes(builder, np.frombuffer(graph_bytes, np.uint8), 8),
        "graph_crc32": zlib.crc32(graph_bytes),
        "segments": [{"dtype": dtype, "crc32": zlib.crc32(segments[dtype]), "data": written[dtype],
                      **({"parts": [{"bytes": len(part), "crc32": zlib.crc32(part)}
                                    for part in parts]} if dtype == "bits" else {})}
                     for dtype in order],
        "vectors": [_encode_vector(builder, *vector) for vector in vectors or ()],
    }
    builder.Finish(encode_table(builder, "Model", encoded), flat.schema().identifier)
    data = memoryview(builder.Output())
    return bytes(data[:len(data) - max(map(_padding, segments.values()), default=0)])


def _padding(data: np.ndarray) -> int:
    """Return how many bytes follow a segment up to the next page."""
    return -len(data) % PAGE


def _encode_vector(builder, inputs, outputs, tolerance: float) -> dict[str, Any]:
    crc = 0
    for array in (*inputs, *outputs):
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)

    def stored(arrays):
        return [{"data": aligned_bytes(
            builder, np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8), 64)}
            for a in arrays]

    return {"inputs": stored(inputs), "outputs": stored(outputs), "tolerance": tolerance,
            "crc32": crc}


def _quantization(tensor: Tensor) -> dict[str, Any] | None:
    q = tensor.quantization
    return q and {"scale": q.scale, "zero_point": q.zero_point, "axis": q.axis,
                  "rounding": q.rounding}


def _encode_graph(graph: Graph, plan: Plan, views, precision, tensors, index, order,
                  places, calibration) -> bytes:
    def tensor_values(tensor: Tensor) -> dict[str, Any]:
        values = {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype,
                  "layout": tensor.layout, "quantization": _quantization(tensor)}
        if tensor.constant:
            return values | {"segment": order.index(tensor.dtype), "offset": places[tensor]}
        view = views.get(tensor)
        if view is not None:
            return values | {"alias_of": index[view.root], "pitch": view.pitch,
                             "offset": plan.offsets[view.root] + view.at}
        return values | {"offset": plan.offsets[tensor]}

    def op_values(op) -> dict[str, Any]:
        offset, size = plan.scratch.get(op, (0, 0))
        table = OPS[op.code].options
        return {"code": op.code, "name": op.name,
                "inputs": [-1 if t is None else index[t] for t in op.inputs],
                "outputs": [index[t] for t in op.outputs],
                "options": (table, op.options) if table else None,
                "scratch_offset": offset, "scratch_bytes": size}

    def boundary_values(boundary) -> dict[str, Any]:
        pieces = [{"tensor": index[piece], "row": row, "op": _first_reader(graph, piece, views)}
                  for piece, row in boundary.pieces]
        pieces.sort(key=lambda piece: piece["op"])
        return {"name": boundary.name, "shape": boundary.shape, "dtype": boundary.dtype,
                "tensor": pieces[0]["tensor"] if pieces else index[boundary.tensor],
                "perm": boundary.perm, **({"pieces": pieces} if pieces else {})}

    builder = flatbuffers.Builder(64 * 1024)
    builder.Finish(encode_table(builder, "Graph", {
        "tensors": [tensor_values(t) for t in tensors],
        "ops": [op_values(op) for op in graph.ops],
        "inputs": [boundary_values(b) for b in graph.inputs],
        "outputs": [boundary_values(b) for b in graph.outputs], **_host_values(graph),
        **_mode_values(graph, views, index), **mixture.values(graph, index),
        "plan": {"arena_bytes": plan.arena_bytes, "lower_bound_bytes": plan.lower_bound_bytes,
                 "peak_op": plan.peak_op, "alignment": ALIGNMENT, "proven": plan.proven},
        "name": graph.name, "source": graph.source, "target": graph.target, "precision": precision,
        **({} if graph.patch is None else {"patch": asdict(graph.patch)}),
        **({} if calibration is None else {
            "ranges": [asdict(entry) for entry in calibration.ranges.values()],
            "observer": calibration.observer, "samples": calibration.samples})}))
    return bytes(builder.Output())


def _mode_values(graph: Graph, views: Views, index: Mapping[Tensor, int]) -> dict[str, Any]:
    """Return the modes, and what the session writes for them."""
    planes = graph.planes()
    if not planes:
        return {}
    at = {tensor: views[tensor].at // dtypes.size("int32") for tensor in planes}
    modes = []
    for name, counts in (graph.modes or {MODE: {}}).items():
        numbers = [0] * len(at)
        for tensor, most in planes.items():
            numbers[at[tensor]] = counts.get(tensor, most)
        modes.append({"name": name, "planes": numbers})
    return {"modes": modes, "used": index[views[next(iter(planes))].root]}


def _host_values(graph: Graph) -> dict[str, Any]:
    """Return the host ops and the results, their values numbered."""
    names = [b.name for b in graph.outputs]
    names += [name for op in graph.host_ops for name, _, _ in op.outputs]
    number = {name: n for n, name in enumerate(names)}
    return {"results": [number[name] for name in graph.results], "host_ops": [
        {"code": op.code, "name": op.name, "inputs": [number[name] for name in op.inputs],
         "outputs": [{"name": name, "tensor": -1, "shape": shape, "dtype": dtype}
                     for name, shape, dtype in op.outputs],
         "options": [{"name": name, "value": value} for name, value in op.options.items()]}
        for op in graph.host_ops]}


def _first_reader(graph: Graph, piece: Tensor, views: Views) -> int:
    """Return the number of the first op that reads a tensor, or a view of it."""
    return next(number for number, op in enumerate(graph.ops)
                if any(t is not None and root_of(views, t) is piece for t in op.inputs))


def write(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary neighbour, then renamed.

    Raises:
        EdgerunError: the folder is missing or not writable, or the disk is full.
    """
    with replacing(path) as file:
        file.write(data)
