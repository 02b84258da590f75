"""Walk the nodes of an ONNX graph in order: fold what is known, collect what is not supported."""
from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.importers.onnx import functions, host, loop, mixture, quantized, scan
from edgerun.tools.importers.onnx.context import Context, Node, Refused, Value, contents
from edgerun.tools.importers.onnx.table import DOMAINS

Scope = MutableMapping[str, Value]
UNROLLED = {"Loop": loop.unrolled, "Scan": scan.unrolled}
MOST_INNER = 16_384  # nodes of all branches and steps: loops may be inside of loops


@dataclass
class Problem:
    """Nodes that cannot be imported for one reason ("" means: the op is not known)."""
    op_type: str
    reason: str
    first: str
    count: int = 1

    def __str__(self) -> str:
        where = f"{self.op_type} ({self.count} node{'s' * (self.count > 1)}, first {self.first!r})"
        return f"{where}: {self.reason}" if self.reason else where


class Walker:
    """Imports nodes into a graph.

    Attributes:
        problems: what is not supported so far; the graph is worthless once there is one.
    """

    def __init__(self, graph: Graph, model: onnx.ModelProto):
        self.graph = graph
        self.model = model
        self.opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version
                       for entry in model.opset_import}
        self.context = Context(graph)
        self.problems: dict[tuple[str, str], Problem] = {}
        self._inner = 0  # nodes of branches and steps so far
        self._shapes: dict[str, tuple[tuple[int, ...], str]] | None = None

    def run(self, nodes: Iterable[onnx.NodeProto], scope: Scope, results: Iterable[str]) -> None:
        """Import nodes; their outputs are added to the scope.

        Args:
            nodes: in order.
            scope: values by name.
            results: names of outputs that are read by others than these nodes.

        Raises:
            ModelError: a node contradicts itself, or reads a value that no node before it makes.
        """
        nodes = list(nodes)
        read = {*results, *_names_read(nodes)}
        for proto in nodes:
            inputs = [self._lookup(proto, name, scope) if name else None for name in proto.input]
            domain = "" if proto.domain == "ai.onnx" else proto.domain
            if domain not in self.opsets:
                raise ModelError(f"{proto.op_type} {proto.name!r}: the model names no version of "
                                 f"its domain {domain!r}")
            node = Node(proto, self.opsets[domain], inputs)
            node.outputs = [name if name in read else "" for name in node.outputs]
            for name, value in zip(node.outputs, self._import(node, scope)):
                if name:
                    scope[name] = value

    @staticmethod
    def _lookup(proto: onnx.NodeProto, name: str, scope: Scope) -> Value:
        if name not in scope:
            raise ModelError(f"{proto.op_type} {proto.name!r}: reads {name!r}, which nothing "
                             "before it makes")
        return scope[name]

    def _import(self, node: Node, scope: Scope) -> list[Value]:
        self.context.node = node
        function = DOMAINS.get(node.domain, {}).get(node.op_type)
        lost = any(value is not None and value.lost for value in node.inputs)
        late = [value.host for value in node.inputs if value is not None and value.host]
        if late:
            self._problem(node, f"reads what {late[0].code} {late[0].name!r} finds, which the host "
                                "computes after the graph")
            return [Value(lost=True) for _ in node.outputs]
        if not lost and host.foldable(node):
            try:
                arrays = host.evaluate(node)
            except ModelError:  # onnx's reference lacks some attributes of ops known here
                if function is None:
                    raise
                arrays = None
            if arrays is not None:
                kept = quantized.kept_integers(node)
                return [Value(array=array, integers=kept) for array in arrays]
        if function is None and node.domain == "" and node.op_type == "If":
            return self._if(node, scope)
        try:
            if lost and (function is not None or functions.defined(node)):
                return self._guess(node)
            if function is None and node.domain == "" and node.op_type in UNROLLED:
                return UNROLLED[node.op_type](self.context, node, lambda body, values: self._body(
                    body, values, scope))
            if (node.domain, node.op_type) == (mixture.DOMAIN, mixture.OP):
                return self._values(node, mixture.imported(
                    self.context, node, lambda body, values: self._body(body, values, scope)))
            if function is None:
                return self._expand(node)
            result = function(self.context, node)
        except UnsupportedError as error:
            self._problem(node, str(error))
            return self._guess(node)
        except (ModelError, Refused) as error:
            if self.problems:  # the shapes are guesses
                return self._guess(node)
            if isinstance(error, ModelError) or functions.contradicts(node):
                raise ModelError(f"{node}: {error}") from None
            self._problem(node, str(error))
            return self._guess(node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if not functions.contradicts(node):
                raise  # a mistake of the importer
            raise ModelError(f"{node}: its attributes or inputs are wrong: {error}") from None
        return self._values(node, result)

    def _values(self, node: Node, result) -> list[Value]:
        results = result if isinstance(result, list) else [result]
        values = [r if isinstance(r, Value) else
                  Value(tensor=r) if isinstance(r, Tensor) else Value(array=r) for r in results]
        for index in range(len(values), len(node.outputs)):
            if node.used(index):
                self._problem(node, f"its output {index} is read")
            values.append(Value(lost=True))
        return values

    def _problem(self, node: Node, reason: str) -> None:
        op_type = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        problem = self.problems.get((op_type, reason))
        if problem is None:
            self.problems[op_type, reason] = Problem(op_type, reason, node.name)
        else:
            problem.count += 1

    def _if(self, node: Node, scope: Scope) -> list[Value]:
        condition = node.value(0)
        if condition.lost:
            return self._guess(node)
        if not condition.known:
            self._problem(node, "its condition is computed at run time, needed a constant")
            return self._guess(node)
        if np.size(condition.array) != 1:
            raise ModelError(f"{node}: its condition has {np.size(condition.array)} elements, "
                             "needed 1")
        taken = bool(np.asarray(condition.array).item())
        branch = node.attr("then_branch" if taken else "else_branch")
        if branch is None:
            raise ModelError(f"{node}: has no {'then' if taken else 'else'}_branch")
        return self._body(branch, [], scope)

    def _body(self, body: onnx.GraphProto, values: Sequence[Value], scope: Scope) -> list[Value]:
        """Import a graph inside of a node, with values of its inputs; returns its outputs."""
        node = self.context.node
        self._inner += len(body.node)
        if self._inner > MOST_INNER:
            raise UnsupportedError(f"its branches and steps have more than {MOST_INNER} nodes")
        inner: Scope = ChainMap({}, scope)
        add_initializers(body, inner)
        inner.update({info.name: value for info, value in zip(body.input, values)})
        self.run(body.node, inner, [output.name for output in body.output])
        return [self._lookup(node.proto, output.name, inner) for output in body.output]

    def _expand(self, node: Node) -> list[Value]:
        """Import a node of an op that ONNX defines by other ops.

        Raises:
            UnsupportedError: ONNX gives no such definition.
        """
        body = functions.body(node) if functions.defined(node) else None
        if body is None:
            raise UnsupportedError("")
        scope: Scope = {name: value for name, value in zip(body.input, node.inputs)
                        if value is not None}
        outer, self.opsets = self.opsets, {
            **self.opsets, node.domain: node.opset,
            **{entry.domain: entry.version for entry in body.opset_import}}
        try:
            self.run(functions.prepared(body, node, scope), scope, body.output)
        finally:
            self.opsets = outer
        return [scope.get(name, Value(lost=True)) for name in body.output][:len(node.outputs)]

    def _guess(self, node: Node) -> list[Value]:
        """Stand in for the outputs of a node that is not supported, so that the rest is checked."""
        if self._shapes is None:
            self._shapes = functions.inferred_shapes(self.model, self.graph)
        values = []
        for name in node.outputs:
            shape, dtype = self._shapes.get(name, ((), ""))
            values.append(Value(tensor=Tensor(f"guess of {name}", shape, dtype)) if dtype
                          else Value(lost=True))
        return values


def _names_read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names that nodes read, those inside of their branches too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _names_read(graph.node)
                yield from (output.name for output in graph.output)


def add_initializers(graph: onnx.GraphProto, scope: Scope) -> None:
    """Add the constants of an ONNX graph to a scope.

    Raises:
        ModelError: one is damaged.
    """
    for tensor in graph.initializer:
        scope[tensor.name] = Value(array=contents(tensor, f"initializer {tensor.name!r}"))
    for sparse in graph.sparse_initializer:
        node = helper.make_node("Constant", [], [sparse.values.name], sparse_value=sparse)
        scope[sparse.values.name] = Value(array=host.evaluate(Node(node, 13, []))[0])

