"""edgerun::MixtureOfExperts: graphs inside of a node, of which a sample runs some."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import helper

from edgerun.errors import ModelError
from edgerun.tools import mixture
from edgerun.tools.importers.onnx.context import Context, Node, Value, need

DOMAIN, OP = "edgerun", "MixtureOfExperts"
NOISE = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
# Ops that give zeros for zeros in their first input.
KEEP_ZEROS = ("Identity", "Cast", "Dropout", "Expand", "Reshape", "Unsqueeze", "Squeeze",
              "Transpose", "Relu", "Neg", "Conv")
Run = Callable[[onnx.GraphProto, Sequence[Value]], list[Value]]


def imported(ctx: Context, node: Node, run: Run) -> list[Value]:
    """Return the sum of what the chosen experts say; balance heads, which only training reads, and
    noise of mean 0 are left out.

    Args:
        ctx: builds the graph.
        node: MixtureOfExperts(x, g): the gate reads g, x if that is not given; attributes gate, a
            graph of one input whose first output is [batch, experts]; experts, graphs of one input
            with the first dimension 1 and one output each; k.
        run: imports a graph with values of its inputs; returns its outputs.

    Raises:
        ModelError: the attributes and inputs contradict each other.
        UnsupportedError: an expert holds a mixture of experts itself.
    """
    gate, experts, k = node.attr("gate"), node.attr("experts"), node.attr("k")
    if gate is None or not experts or not isinstance(k, int):
        raise ModelError("has no gate, no experts or no k")
    for what, graph in (("its gate", gate), *((f"expert {n}", e) for n, e in enumerate(experts))):
        if len(graph.input) != 1 or not graph.output:
            raise ModelError(f"{what} has {len(graph.input)} inputs and {len(graph.output)} "
                             "outputs, needed one input and an output")
        need(not any(inner.op_type == OP for inner in graph.node),
             f"{what} holds a mixture of experts itself")
    if any(value is not None and value.lost for value in node.inputs):
        return [Value(lost=True) for _ in node.outputs]
    if not 1 <= k <= len(experts):
        raise ModelError(f"chooses {k} of {len(experts)} experts, needed 1 to {len(experts)}")
    x = ctx.tensor(0)
    need(len(x.shape) > 0, "reads a scalar, needed samples")
    found = run(silent(gate), [node.value(1 if node.given(1) else 0)])[0]
    ctx.node = node
    if found.lost:
        return [Value(lost=True)]
    need(not found.known, "its gates do not depend on the input")
    gates, batch = found.tensor, x.shape[0]
    if gates.shape != (batch, len(experts)):
        raise ModelError(f"its gate gives {gates.shape}, needed one number for each of the {batch} "
                         f"samples and {len(experts)} experts: {(batch, len(experts))}")
    route = mixture.add(ctx.graph, gates, k, (batch,), node.name)
    y = None
    for number, expert in enumerate(experts):
        slot = mixture.slot(ctx.graph, route, number)
        sample = x if slot is None else ctx.add("gather", [x, slot], axis=0)
        said = run(expert, [Value(tensor=sample)])[0]
        ctx.node = node
        if said.lost:
            return [Value(lost=True)]
        result = said.tensor if said.tensor is not None else ctx.constant(said.array)
        if result.dtype not in ("fp32", "fp16") or result.shape[:1] != (1,):
            raise ModelError(f"expert {number} gives {result.shape} {result.dtype}, needed real "
                             "numbers for one sample, [1, ...]")
        if y is None:
            y = mixture.shaped(route, (batch, *result.shape[1:]))
        if (1, *y.shape[1:]) != result.shape:
            raise ModelError(f"expert {number} gives {result.shape}, expert 0 "
                             f"{(1, *y.shape[1:])}: needed the same of all")
        y = mixture.blend(ctx.graph, route, y, result, number, slot)
    return [Value(tensor=y)]


def silent(gate: onnx.GraphProto) -> onnx.GraphProto:
    """Return a gate without noise of mean 0, and what it is multiplied by.

    Raises:
        UnsupportedError: noise has another mean.
    """
    zeros: set[str] = set()
    nodes = []
    for node in gate.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = [name for name in node.input if name not in zeros]
        if node.op_type in NOISE:
            mean = (attributes.get("mean", 0.0) if "Normal" in node.op_type else
                    attributes.get("low", 0.0) + attributes.get("high", 1.0))
            need(mean == 0, f"its gate has noise of the mean {mean}, needed 0")
            zeros.update(node.output)
        elif node.op_type == "Mul" and len(given) < len(node.input) or (
                node.op_type in KEEP_ZEROS and node.input and node.input[0] in zeros
                and (node.op_type != "Conv" or len(node.input) < 3)):
            zeros.update(node.output)
        elif node.op_type in ("Add", "Sub") and len(given) == 1 and (
                node.op_type == "Add" or node.input[0] == given[0]):
            nodes.append(helper.make_node("Identity", given, list(node.output), name=node.name))
        else:
            nodes.append(node)
    need(all(name not in zeros for node in nodes for name in node.input)
         and all(output.name not in zeros for output in gate.output),
         "its gate does more with noise than to add it, or to multiply by it")
    found = onnx.GraphProto()
    found.CopyFrom(gate)
    del found.node[:]
    found.node.extend(nodes)
    del found.output[1:]  # of a balance loss
    return found
