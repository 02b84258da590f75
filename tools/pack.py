"""Pack a source model into a model file: import, passes, precision, plan, write."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgerun import loader
from edgerun.errors import InputError, UnsupportedError
from edgerun.tools import blob, layout, lower, passes, plan as planner
from edgerun.tools.graph import Graph
from edgerun.tools.precision import convert, widen

PRECISIONS = ("source", "fp32", "fp16")


@dataclass(frozen=True)
class PackReport:
    """What packing did, in numbers.

    Attributes:
        path: the file written.
        precision: of the floats in the file.
        file_bytes, weight_bytes, arena_bytes, lower_bound_bytes: sizes in bytes.
        source_ops, ops: number of ops in the source model and in the file.
        passes: (name of the pass, ops before, ops after).
        notes: what the user should know, one sentence each.
    """
    path: str
    precision: str
    file_bytes: int
    weight_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    source_ops: int
    ops: int
    passes: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_model(path: str | os.PathLike,
                 shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """Read a source model into a graph, by its file extension.

    Raises:
        InputError: there is no such file, or its extension is not that of a known format.
        UnsupportedError: the model has ops that edgerun has not; the message lists every one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; needed a source model (.onnx or .tflite)")
    if path.suffix == ".onnx":
        from edgerun.tools.importers.onnx import load
    elif path.suffix == ".tflite":
        from edgerun.tools.importers.tflite import load
    else:
        raise InputError(f"{path}: the extension {path.suffix!r} is not a known model format, "
                         "needed .onnx or .tflite")
    return load(path, dict(shapes or {}))


def pack(source: str | os.PathLike, out: str | os.PathLike, precision: str = "source",
         shapes: Mapping[str, Sequence[int]] | None = None, vectors: Sequence = (),
         progress: Callable[[str], None] = lambda stage: None) -> PackReport:
    """Pack a source model into a model file.

    Args:
        source: .onnx or .tflite file.
        out: the .edge file to write; it appears whole or not at all.
        precision: "fp32"; "fp16" (storage of activations and weights; arithmetic and biases stay
            fp32); "source": fp16 if all float tensors of the model are, else fp32.
        shapes: input name -> shape, for inputs with dynamic dimensions.
        vectors: (inputs, outputs, tolerance) triples stored in the file for `edgerun verify`;
            arrays in the order of the model's inputs and outputs.
        progress: called with the name of each stage.

    Returns:
        PackReport.

    Raises:
        InputError: an argument is wrong.
        ModelError: the source model is damaged or contradicts itself.
        UnsupportedError: the model needs an op or a precision that edgerun has not.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"precision {precision!r} is not available, needed one of "
                               f"{', '.join(PRECISIONS)}")
    progress("import")
    graph = import_model(source, shapes)
    own = widen(graph)
    if precision == "source":
        precision = own
    steps = []
    for name, run_pass in passes.PIPELINE:
        progress(name)
        before = len(graph.ops)
        run_pass(graph)
        steps.append((name, before, len(graph.ops)))
    progress("lower")
    before = len(graph.ops)
    lower.apply(graph)
    steps.append(("lower", before, len(graph.ops)))
    progress("precision")
    aliases = passes.alias.apply(graph)
    convert(graph, precision, aliases)
    progress("plan")
    layout.apply(graph)
    plan = planner.plan(graph, aliases)
    progress("write")
    data = blob.encode(graph, plan, aliases, precision, list(vectors))
    model = loader.from_bytes(np.frombuffer(data, np.uint8), os.fspath(out))  # as a device will
    blob.write(out, data)
    return PackReport(
        os.fspath(out), precision, len(data), sum(len(s.data) for s in model.segments),
        plan.arena_bytes, plan.lower_bound_bytes, graph.source_ops, len(graph.ops), steps,
        graph.notes)
