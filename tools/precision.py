"""Choose the storage type of every tensor."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun import dtypes
from edgerun.ops import OPS
from edgerun.tools import plan as planner
from edgerun.tools.graph import Boundary, Graph, Op, Tensor, Views, root_of

# Inputs that stay fp32 whatever the precision: they start or scale an fp32 accumulator.
# Inputs of layers: 2 is the bias, 5 what integers are multiplied by.
FP32_INPUTS = {**dict.fromkeys(("conv2d", "depthwise_conv2d", "conv_transpose2d", "dense"), {2, 5}),
               **dict.fromkeys(("lstm", "gru", "xnor_conv2d", "xnor_dense"), {2}),
               "fastfood": {5}, "route": {0}, "blend": {0, 2}}
MOST_HALF = float(np.finfo(np.float16).max)  # 65504
EXACT_INPUT_COST = 0.01  # of all weights: what the constants beside an fp32 input may add in bytes


def widen(graph: Graph) -> str:
    """Make every float tensor of an imported graph fp32, which is what passes compute in.

    Returns:
        The precision of the source model's arithmetic: "fp16" if all its float tensors were, else
        "fp32" (with a note, if some were fp16).
    """
    floats = [tensor for tensor in graph.tensors() if tensor.dtype in dtypes.FLOAT]
    half = [tensor for tensor in floats if tensor.dtype == "fp16"]
    for tensor in half:
        _store_as(tensor, "fp32")
    for op in graph.ops:
        if op.code in ("cast", "dequantize") and op.options["dtype"] == "fp16":
            op.options["dtype"] = "fp32"
    if half and len(half) < len(floats):
        graph.notes.append(f"{len(half)} of {len(floats)} float tensors of the source model are "
                           "fp16: all are kept in fp32 unless --precision fp16 is given")
    return "fp16" if half and len(half) == len(floats) else "fp32"


def convert(graph: Graph, precision: str, views: Views,
            exact_inputs: bool = True, storage: Mapping[str, str] | None = None) -> None:
    """Give every float tensor its storage type.

    An op reads its float inputs in one type, constants included, and writes that type; where a
    reader wants another, an op that can (OpDef.mixed) writes what its readers want, else a cast
    goes between.

    Args:
        graph: fp32 tensors as imported, reshapes already turned into views.
        precision: of ops that `storage` does not name: "fp32" leaves them; "fp16" converts all but
            biases, which are fp32.
        views: where the reshaped tensors lie.
        exact_inputs: at fp16, keep an input of the graph in fp32 where that costs no arena.
        storage: name of an op's first output -> "fp32" or "fp16".
    """
    _Storage(graph, precision, views, storage or {}).apply(exact_inputs)


class _Storage:
    """The types that the ops of a graph want."""

    def __init__(self, graph: Graph, precision: str, views: Views,
                 storage: Mapping[str, str]):
        self.graph, self.precision, self.views, self.storage = graph, precision, views, storage
        self.reads: dict[Op, str] = {}  # the float type an op reads, where that is settled
        for op in graph.ops:
            if _writes_real(op) and _operands(op):
                self.reads[op] = self.given(op)

    def given(self, op: Op) -> str:
        return self.storage.get(op.outputs[0].name, self.precision)

    def wanted(self, op: Op, index: int) -> str | None:
        """Return the type in which an op reads a float input, None if it does not matter."""
        return "fp32" if _stays_fp32(op, index) else self.reads.get(op)

    def root(self, tensor: Tensor) -> Tensor:
        return root_of(self.views, tensor)

    def apply(self, exact_inputs: bool) -> None:
        readers = self._settle()
        full = self._store_constants()
        self._add_casts(readers)
        for op in self.graph.ops:
            if op.code == "cast" and op.options["dtype"] in dtypes.FLOAT:
                op.options["dtype"] = op.outputs[0].dtype
        if self.precision == "fp16" and exact_inputs:
            for boundary in self.graph.inputs:
                _widen_input(self.graph, boundary, full, self.views)

    def _settle(self) -> dict[Tensor, set[str]]:
        """Choose the type of every tensor that is no constant.

        Returns:
            root tensor -> the types that its readers want.
        """
        wants: dict[Tensor, set[str]] = {}
        for op in self.graph.ops:
            for index, x in _floats(op):
                kind = self.wanted(op, index)
                if not x.constant and kind is not None:
                    wants.setdefault(self.root(x), set()).add(kind)
        writers = self.graph.producers()
        roots = {view.root for view in self.views.values()}
        everything = {*self.graph.tensors(), *self.views, *roots}
        for tensor in everything:
            if tensor.dtype in dtypes.FLOAT and not tensor.constant:
                root = self.root(tensor)
                tensor.dtype = self._chosen(root, writers.get(root), wants.get(root, set()))
        for op in self.graph.ops:  # what compares or counts real numbers takes them as they are
            types = {x.dtype for index, x in _operands(op) if not x.constant}
            if op not in self.reads and types:
                self.reads[op] = types.pop() if len(types) == 1 else "fp32"
        return wants

    def _chosen(self, root: Tensor, writer: Op | None, wants: set[str]) -> str:
        if writer is None or writer not in self.reads:  # a copy of the caller's, or a conversion
            if writer is not None and not (OPS[writer.code].mixed or writer.code == "cast"):
                return OPS[writer.code].infer(writer)[0][1]
            if wants:
                return max(wants)  # "fp32" if there are both
        elif len(wants) == 1 and OPS[writer.code].mixed:
            return next(iter(wants))
        return self.given(writer) if writer is not None else self.precision

    def _store_constants(self) -> dict[Tensor, np.ndarray]:
        """Store every constant as its readers want, as two constants if they do not agree.

        Returns:
            constant -> its values in fp32.
        """
        wants: dict[Tensor, set[str]] = {}
        for op in self.graph.ops:
            for index, x in _floats(op):
                if x.constant:
                    wants.setdefault(x, set()).add(self.wanted(op, index) or self.precision)
        copies: dict[Tensor, Tensor] = {}
        for op in self.graph.ops:
            for index, x in _floats(op):
                if x.constant and len(wants[x]) == 2 and (
                        self.wanted(op, index) or self.precision) == "fp16":
                    if x not in copies:
                        copies[x] = self.graph.constant(x.data, x.name)
                    op.inputs[index] = copies[x]
        wants |= {copy: {"fp16"} for copy in copies.values()}
        full = {}
        for tensor in self.graph.tensors():
            if tensor.constant and tensor.dtype in dtypes.FLOAT:
                full[tensor] = tensor.data
                kinds = wants.get(tensor, {self.precision})
                _store_as(tensor, "fp32" if "fp32" in kinds else "fp16")
        return full

    def _add_casts(self, wants: dict[Tensor, set[str]]) -> None:
        """Put a cast in front of the first op that reads a tensor in another type than its own."""
        old, self.graph.ops = self.graph.ops, []
        casts: dict[Tensor, Tensor] = {}

        def cast(x: Tensor, dtype: str) -> Tensor:
            if x not in casts:
                casts[x] = self.graph.add("cast", [x], f"{x.name}.{dtype}", dtype=dtype)
            return casts[x]

        for op in old:
            for index, x in _floats(op):
                kind = self.wanted(op, index)
                if not x.constant and kind not in (None, x.dtype):
                    op.inputs[index] = cast(x, kind)
            self.graph.ops.append(op)
            for y in op.outputs:
                if y.dtype == "fp32" and wants.get(y) == {"fp16"}:
                    cast(y, "fp16")  # at once: nobody needs the longer ones any more


def _floats(op: Op) -> list[tuple[int, Tensor]]:
    """Return the inputs of an op that are real numbers, with their indices."""
    return [(i, x) for i, x in enumerate(op.inputs) if x is not None and x.dtype in dtypes.FLOAT]


def _operands(op: Op) -> list[tuple[int, Tensor]]:
    """Return the real inputs that are stored as the op wants, all in one type."""
    return [(i, x) for i, x in _floats(op) if not _stays_fp32(op, i)]


def _stays_fp32(op: Op, index: int) -> bool:
    """Whether an input starts or scales a sum, or stands beside quantized numbers."""
    first = op.inputs[0]
    return index in FP32_INPUTS.get(op.code, ()) or (
        first is not None and first.dtype in dtypes.QUANTIZED)


def _writes_real(op: Op) -> bool:
    return any(y.dtype in dtypes.FLOAT for y in op.outputs)


def halves(values: np.ndarray) -> np.ndarray:
    """Return constants in fp16, finite where they were finite."""
    # Attention masks multiply by -1e9 or the like. As an infinity, 0 times it would be NaN.
    values = np.where(np.isinf(values), values, np.clip(values, -MOST_HALF, MOST_HALF))
    return values.astype(np.float16)


def _store_as(tensor: Tensor, dtype: str) -> None:
    tensor.dtype = dtype
    if tensor.constant:
        tensor.data = (halves(tensor.data) if dtype == "fp16"
                       else tensor.data.astype(dtypes.numpy_dtype(dtype)))


def _widen_input(graph: Graph, boundary: Boundary, full: dict[Tensor, np.ndarray],
                 views: Views) -> None:
    """Keep an fp32 input in fp32 if that is free: no larger arena, hardly more weights.

    Rounding the input perturbs everything behind it, and a network that normalizes small contrasts
    amplifies that more than any later rounding.
    """
    held = boundary.tensors
    users = graph.consumers()
    readers = [op for x in held for op in users.get(x, [])]
    if (boundary.dtype != "fp32" or any(x.dtype != "fp16" for x in held)
            or any(view.root in held for view in views.values())
            or not readers or any(map(graph.is_output, held))
            or not all(_reads_wide(op, held) for op in readers)):
        return
    constants = {t for op in readers for t in op.inputs
                 if t is not None and t.constant and t.dtype == "fp16"}
    if any(user not in readers for t in constants for user in users[t]):
        return
    weights = sum(t.bytes for t in graph.tensors() if t.constant)
    if sum(t.bytes for t in constants) > EXACT_INPUT_COST * weights:
        return
    before = _bound(graph, views)
    for x in held:
        x.dtype = "fp32"
    if _bound(graph, views) > before:
        for x in held:
            x.dtype = "fp16"
        return
    for tensor in constants:
        tensor.dtype, tensor.data = "fp32", full[tensor]


def _reads_wide(op: Op, held: list[Tensor]) -> bool:
    """Whether the op can read one of some tensors in fp32 and write fp16: all its other inputs are
    constants."""
    return OPS[op.code].mixed and any(t in held for t in op.inputs) and all(
        t in held or t is None or t.constant for t in op.inputs)


def _bound(graph: Graph, views: Views) -> int:
    blocks, scratch = planner.blocks_of(graph, views)
    return planner.lower_bound([*blocks.values(), *scratch.values()])[0]
