"""The real graph that a model file stands for, and which of its tensors a tensor of the file is."""
from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgerun import model as files
from edgerun.dtypes import FLOAT
from edgerun.quantization import Quantization, dequantize
from edgerun.tools import quantize
from edgerun.tools.graph import Graph, Op, Tensor, copy_of
from edgerun.tools.pack import Stages, import_model
from edgerun.tools.passes import dead_code, fold
from edgerun.tools.precision import widen
from edgerun.tools.quantize.grids import WEIGHT_AXIS, weight_quantization
from edgerun.tools.quantize.strip import bypass

# What Graph.quantize, Graph.dequantize and the choice of storage put behind a tensor's name; a
# number makes it unique.
SUFFIX = re.compile(r"\.(q|real|fp16|fp32)(\.\d+)?$")


def real_name(name: str, known: Mapping[str, object]) -> str | None:
    """Return the name of the real tensor that a tensor of a file stores, None if there is none.

    Args:
        name: of the tensor in the file.
        known: names of real tensors.
    """
    while name not in known:
        shorter = SUFFIX.sub("", name)
        if shorter == name:
            return None
        name = shorter
    return name


@dataclass(frozen=True)
class Match:
    """What a tensor of the file is in the reference.

    Attributes:
        exact: name of the real tensor, as it is computed.
        real: name of the same, clamped to what the integers of a quantized source can hold.
    """
    exact: str
    real: str


@dataclass
class Reference:
    """A source model in fp32, optimized as it was for the file.

    Attributes:
        graph: real numbers only, where the file has integers too.
        twins: integer tensor of a quantized source -> what it stands for.
        added: names of tensors that only twins lead to: the file may have others of these names.
        inputs: input -> what its integers mean, where the source model wants integers.
    """
    graph: Graph
    twins: dict[str, Match] = field(default_factory=dict)
    inputs: dict[str, Quantization] = field(default_factory=dict)
    added: frozenset[str] = frozenset()

    def __post_init__(self):
        self._tensors = {t.name: t for t in self.graph.tensors() if not t.constant}
        self._named = {name: t for name, t in self._tensors.items() if name not in self.added}
        self._producers = self.graph.producers()
        self._consumers = self.graph.consumers()
        names = Counter((op.code, op.name) for op in self.graph.ops)
        self._ops = {(op.code, op.name): op for op in self.graph.ops
                     if names[op.code, op.name] == 1}

    def sample(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return inputs of the file as those of the reference."""
        return {name: dequantize(array, self.inputs[name]) if name in self.inputs else array
                for name, array in inputs.items()}

    def find(self, tensor: files.Tensor, op: files.Op | None = None) -> Match | None:
        """Return what a tensor of a file is, None if the reference computes no such thing.

        Args:
            tensor: of the file.
            op: that writes it; None for an input.
        """
        found = self.twins.get(tensor.name)
        if found is None:
            name = real_name(tensor.name, self._named)
            same = name == tensor.name
            if name is None and op is not None and (op.code, op.name) in self._ops:
                name, same = self._ops[op.code, op.name].outputs[0].name, True
            if name is not None and same and op is not None and tensor.quantization is None:
                name = self._fused(name, op)
            if name is None or self._tensors[name].dtype not in FLOAT:
                return None
            found = Match(name, name)
        return found if self._tensors[found.real].shape == tensor.shape else None

    def _fused(self, name: str, op: files.Op) -> str | None:
        """Return the tensor that an op of the file writes, which may have taken in a residual and
        an activation that are ops in the reference."""
        mine = self._producers.get(self._tensors[name])
        for _ in range(3):
            if mine is None:
                return None
            if _activation(mine) == _activation(op) and _residual(mine) == _residual(op):
                return mine.outputs[0].name
            users = self._consumers.get(mine.outputs[0], [])
            if len(users) != 1 or users[0].code not in ("unary", "binary"):
                return None
            mine = self._joined(mine, users[0])
        return None

    def _joined(self, first: Op, second: Op) -> Op | None:
        """Return an op that stands for two."""
        options = dict(first.options)
        inputs = first.inputs + [None] * (4 - len(first.inputs))
        if second.code == "binary":
            if second.options["kind"] != "add" or _residual(first) or _activation(first)[0]:
                return None
            inputs[3] = next(x for x in second.inputs if x is not first.outputs[0])
            kind, alpha, beta = _activation(second)
        else:
            if _activation(first)[0]:
                return None
            kind, alpha, beta = (second.options[k] for k in ("kind", "alpha", "beta"))
        options |= {"activation": kind, "alpha": alpha, "beta": beta}
        return Op(first.code, first.name, inputs, second.outputs, options)


def _activation(op: Op | files.Op) -> tuple[str, float, float]:
    kind = op.options.get("activation") or ""
    if not kind:
        return "", 0.0, 0.0
    alpha, beta = np.float32([op.options["alpha"], op.options["beta"]])  # as a file stores them
    return kind, float(alpha), float(beta)


def _residual(op: Op | files.Op) -> bool:
    return op.code in WEIGHT_AXIS and len(op.inputs) > 3 and op.inputs[3] is not None


def reference_of(source: str | os.PathLike, model: files.Model) -> Reference:
    """Import the source model of a file again, and optimize it as it was for the file.

    Args:
        source: .onnx or .tflite file.
        model: the file; its inputs give the shapes.

    Raises:
        InputError, ModelError, UnsupportedError: as edgerun.tools.pack.import_model.
    """
    graph = import_model(source, {info.name: info.shape for info in model.inputs})
    widen(graph)
    integers = bool(model.ranges) or any(t.quantization is not None and not t.constant
                                         for t in model.tensors)
    stages = Stages(graph)
    exact = quantize.quantized(graph)
    if exact and model.precision != "source":
        stages.run("strip", quantize.strip)
        exact = False
    stages.optimize(integers)
    if exact:
        return _stripped(graph)
    return Reference(_equalized(graph, model) if integers else graph)


def _stripped(graph: Graph) -> Reference:
    """Return the real numbers of a graph that was optimized with its integers in it."""
    inputs, conversions = {}, []
    for boundary in graph.inputs:
        x = boundary.tensor
        if x.quantization is None:
            continue
        inputs[boundary.name] = x.quantization
        boundary.tensor = Tensor(graph.unique(f"{x.name}.real"), x.shape, "fp32")
        boundary.dtype = "fp32"
        # so that what reads the integers can be led to the real numbers
        conversions.append(Op("quantize", x.name, [boundary.tensor], [x], {"dtype": x.dtype}))
    graph.ops[:0] = conversions
    names = {op.inputs[0]: [] for op in graph.ops if op.code == "dequantize"}
    for op in graph.ops:
        if op.code == "dequantize":
            names[op.inputs[0]].append(op.outputs[0].name)
    before = {tensor.name for tensor in graph.tensors()}
    twins = bypass(graph)
    for boundary in graph.outputs:
        if boundary.tensor in twins:
            boundary.tensor, boundary.dtype = twins[boundary.tensor].real, "fp32"
    dead_code.apply(graph)
    fold.apply(graph, reals=True)
    left = set(graph.tensors())
    matches = {}
    for q, twin in twins.items():
        if twin.real in left and twin.exact in left:
            match = Match(twin.exact.name, twin.real.name)
            matches[q.name] = match
            matches |= dict.fromkeys(names.get(q, ()), Match(twin.real.name, twin.real.name))
    return Reference(graph, matches, inputs,
                     frozenset(t.name for t in left if t.name not in before))


def _equalized(graph: Graph, model: files.Model) -> Graph:
    """Return the graph whose weights are those of the file: equalized, if the file's were."""
    other = copy_of(graph)
    if not quantize.equalize(other):
        return graph
    return min((graph, other), key=lambda candidate: _distance(candidate, model))


def _distance(graph: Graph, model: files.Model) -> float:
    """Return how far the scales of the file's weights are from those of a graph."""
    layers = {(op.code, op.name): op for op in graph.ops if op.code in WEIGHT_AXIS}
    total = 0.0
    for op in model.ops:
        mine = layers.get((op.code, op.name))
        w = op.inputs[1] if mine is not None else None
        if w is None or w.quantization is None or not mine.inputs[1].constant:
            continue
        dtype = "int8" if w.dtype == "int8" else "int16"
        scale = weight_quantization(mine.inputs[1].data, WEIGHT_AXIS[op.code], dtype).scale
        if scale.shape == w.quantization.scale.shape:
            total += float(np.abs(np.log(w.quantization.scale / scale)).sum())
    return total


__all__ = ["Match", "Reference", "real_name", "reference_of"]
