"""Write ONNX models with a mixture of experts: edgerun::MixtureOfExperts (version 1).

    y = MixtureOfExperts(x)  with the attributes
        gate     graph: x -> gates [batch, E], as of a softmax; outputs behind it are of training
        experts  E graphs: x of one sample -> its result, real numbers, [1, ...] of one shape
        k        how many experts run for a sample

Of every sample the k experts of the largest gates run, the lower index first among equal ones; y is
the sum of what they say, weighted by their gates divided by the sum of those. A second input, if it
is given, is what the gate reads.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from edgerun.tools.importers.onnx.mixture import DOMAIN, OP, silent

OPSET, IR = 13, 8


class Part:
    """A graph being written: nodes one after the other, with their weights.

    Attributes:
        last: name of what the last node gives; what the next one reads.
    """

    def __init__(self, name: str, shape: Sequence[int]):
        """Start a graph with one input of fp32 numbers.

        Args:
            name: of the graph; the names of its tensors begin with it.
            shape: of the input.
        """
        self.name, self.last = name, f"{name}_x"
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, list(shape))

    def add(self, op: str, *weights: np.ndarray, reads: str | None = None, domain: str = "",
            **attributes) -> str:
        """Append a node; returns the name of its output.

        Args:
            op: its type.
            weights: its inputs behind the first.
            reads: its first input; default: what the node before gives.
            domain: of the type.
            attributes: of the node.
        """
        name = f"{self.name}_{len(self._nodes)}"
        names = [f"{name}_w{number}" for number in range(len(weights))]
        self._weights += map(numpy_helper.from_array, weights, names)
        self._nodes.append(helper.make_node(op, [reads or self.last, *names], [name], name=name,
                                            domain=domain, **attributes))
        self.last = name
        return name

    def join(self, op: str, *reads: str) -> str:
        """Append a node that reads outputs of others; returns the name of its output."""
        name = f"{self.name}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(reads), [name], name=name))
        self.last = name
        return name

    def graph(self, output: str | None = None) -> onnx.GraphProto:
        """Return the graph; its output is what the last node gives, under a name if one is given.
        """
        if output is not None:
            self._nodes.append(helper.make_node("Identity", [self.last], [output], name=output))
            self.last = output
        info = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        return helper.make_graph(self._nodes, self.name, [self._input], [info], self._weights)


def model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return a model of a graph that may hold mixtures of experts."""
    return helper.make_model(graph, ir_version=IR, opset_imports=[
        helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)])


def attributes(gate: onnx.GraphProto, experts: Sequence[onnx.GraphProto], k: int
               ) -> Mapping[str, object]:
    """Return the attributes of a mixture for Part.add(OP, domain=DOMAIN, ...).

    Args:
        gate, experts: of one input each, see above; their tensors have names of their own.
        k: experts that run for a sample.
    """
    return {"gate": gate, "experts": list(experts), "k": k}


def join(trunk: onnx.ModelProto, gate: onnx.ModelProto, experts: Sequence[onnx.ModelProto],
         head: onnx.ModelProto, k: int) -> onnx.ModelProto:
    """Return one model of several: head(mixture(trunk(x))).

    Args:
        trunk, gate, experts, head: of one input and one output each (a gate may have more), as
            exporters write them, of one opset; the experts for one sample.
        k: experts that run for a sample.
    """
    first = compose.add_prefix(trunk, "trunk/")
    last = compose.add_prefix(head, "head/")
    inner = [compose.add_prefix(part, f"{name}/").graph for name, part in (
        ("gate", gate), *((f"expert{number}", part) for number, part in enumerate(experts)))]
    node = helper.make_node(OP, [first.graph.output[0].name], [last.graph.input[0].name],
                            name="mixture", domain=DOMAIN, **attributes(inner[0], inner[1:], k))
    found = onnx.ModelProto()
    found.CopyFrom(first)
    found.graph.node.append(node)
    found.graph.node.extend(last.graph.node)
    found.graph.initializer.extend(last.graph.initializer)
    del found.graph.output[:]
    found.graph.output.extend(last.graph.output)
    found.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return found


def halved(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose fp32 weights are stored in fp16, and widened when it is imported."""
    found = onnx.ModelProto()
    found.CopyFrom(source)
    _halve(found.graph)
    return found


def _halve(graph: onnx.GraphProto) -> None:
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            stored = numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name],
                                          to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(stored, f"{tensor.name}.half"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _halve(inner)


def unfolded(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of one sample in plain ONNX: every expert is computed, for other runtimes.

    Args:
        source: the first dimension of what its mixtures read is 1.
    """
    found = onnx.ModelProto()
    found.CopyFrom(source)
    del found.graph.node[:]
    for number, node in enumerate(source.graph.node):
        if (node.domain, node.op_type) == (DOMAIN, OP):
            _unfold(found.graph, node, f"{node.name or OP}{number}")
        else:
            found.graph.node.append(node)
    return found


def _unfold(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> None:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    experts, k = given["experts"], given["k"]

    def constant(what: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, f"{name}.{what}"))
        return f"{name}.{what}"

    def add(op: str, reads: Sequence[str], what: str, count: int = 1, **options) -> str:
        outputs = [f"{name}.{what}", *(f"{name}.{what}{n}" for n in range(1, count))]
        graph.node.append(helper.make_node(op, list(reads), outputs, name=f"{name}.{what}",
                                           **options))
        return outputs[0]

    def inner(part: onnx.GraphProto, reads: str) -> str:
        add("Identity", [reads], f"into {part.input[0].name}")
        graph.node[-1].output[0] = part.input[0].name
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
        return part.output[0].name

    gates = inner(silent(given["gate"]), node.input[-1])
    add("TopK", [gates, constant("k", np.array([k], np.int64))], "top", 2, axis=1)
    total = add("ReduceSum", [f"{name}.top", constant("axis", np.array([1], np.int64))], "total")
    weights = add("ScatterElements", [
        constant("zeros", np.zeros((1, len(experts)), np.float32)), f"{name}.top1",
        add("Div", [f"{name}.top", total], "share")], "weights", axis=1)
    y = None
    for number, expert in enumerate(experts):
        said = inner(expert, node.input[0])
        weight = add("Gather", [weights, constant(f"e{number}", np.array(number, np.int64))],
                     f"w{number}", axis=1)
        said = add("Mul", [said, add("Squeeze", [weight], f"s{number}")], f"said{number}")
        y = said if y is None else add("Add", [y, said], f"y{number}")
    add("Identity", [y], "y")
    graph.node[-1].output[0] = node.output[0]
