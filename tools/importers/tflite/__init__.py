"""The TFLite importer: subgraph 0 of a .tflite file as a graph.

source.py reads and checks the file, context.py holds what the conversion functions share, and the
other modules have one function per TFLite op. To add an op, write its function and its line in
RULES there.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from edgerun import dtypes
from edgerun.errors import EdgerunError, InputError, ModelError, UnsupportedError
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.importers.tflite import (
    compute, elementwise, indexing, movement, recurrent)
from edgerun.tools.importers.tflite.context import Context, Rule
from edgerun.tools.importers.tflite.host import HOST, at_the_end
from edgerun.tools.importers.tflite.source import (
    DAMAGE, NUMPY, QUANTIZED, SourceModel, SourceOp, SourceTensor, read)

RULES: dict[str, Rule] = {**compute.RULES, **elementwise.RULES, **indexing.RULES,
                         **movement.RULES, **recurrent.RULES}


def load(path: Path, shapes: dict[str, tuple[int, ...]]) -> Graph:
    """Read subgraph 0 of a .tflite file.

    Args:
        path: the file.
        shapes: input name -> shape, for inputs with dynamic dimensions or to override one.

    Returns:
        The graph, fp32 and int32 or bool, with dequantize and quantize where the file's tensors are
        quantized; names, shapes and dtypes at its boundary are those of the file's tensors.

    Raises:
        InputError: the file cannot be read, or `shapes` does not fit the inputs.
        ModelError: the file is not a TFLite model, or is damaged.
        UnsupportedError: the model needs ops that edgerun has not; the message lists all of them.
    """
    path = Path(path)
    source = read(path)
    graph = Graph(path.stem, path.name, notes=list(source.notes), source_ops=len(source.ops))
    names = _unique(source, source.inputs, "input", graph.notes)
    input_shapes = _input_shapes(source, names, shapes, graph.notes)
    _check_supported(source)
    context = Context(source, graph)
    for index, name, shape in zip(source.inputs, names, input_shapes):
        tensor = source.tensors[index]
        context.values[index] = graph.input(name, shape, _dtype(tensor))
        context.values[index].dtype = _device_dtype(tensor)
        if tensor.integer_quantized:
            context.values[index].quantization = tensor.quantization
    for op in source.ops:
        if op.type not in HOST:
            for index, tensor in zip(op.outputs, _convert(context, op)):
                context.values[index] = tensor
    _add_outputs(context)
    _drop_unread(graph)
    _note_hybrid(source, graph.notes)
    _note_half(source, graph.notes)
    return graph


def _add_outputs(context: Context) -> None:
    source, graph = context.source, context.graph
    names = _unique(source, source.outputs, "output", graph.notes)
    host = [op for op in source.ops if op.type in HOST]
    later = {index for op in host for index in op.outputs}
    for index, name in zip(source.outputs, names):
        tensor = source.tensors[index]
        if index in later:
            continue
        if index not in context.values:
            context.values[index] = context.constant(tensor)
        graph.output(name, context.values[index], _dtype(tensor))
    called = dict(zip(reversed(source.outputs), reversed(names)))
    for op in host:
        HOST[op.type](context, op, [called.get(index, source.tensors[index].name)
                                    for index in op.outputs])
    if host:
        graph.results = names


def _drop_unread(graph: Graph) -> None:
    """Remove real numbers that no op reads: it moved the integers, or needed a shape only."""
    needed = {boundary.tensor for boundary in graph.outputs}
    needed.update(tensor for op in graph.ops for tensor in op.inputs if tensor is not None)
    graph.ops = [op for op in graph.ops if op.code != "dequantize" or op.outputs[0] in needed]


def _dtype(tensor: SourceTensor) -> str:
    return dtypes.name_of(np.dtype(NUMPY[tensor.type]))


def _device_dtype(tensor: SourceTensor) -> str:
    """Return the dtype in the graph, where floats are fp32 until the packer chooses."""
    dtype = dtypes.device_dtype(_dtype(tensor))
    return "fp32" if dtype == "fp16" else dtype


def _unique(source: SourceModel, indices: list[int], what: str, notes: list[str]) -> list[str]:
    """Return the names of boundary tensors; TFLite allows one name, or one output, twice."""
    names: list[str] = []
    for index in indices:
        name, number = source.tensors[index].name, 1
        while name in names:
            name, number = f"{source.tensors[index].name}.{number}", number + 1
        if name != source.tensors[index].name:
            notes.append(f"more than one {what} is named {source.tensors[index].name!r}; "
                         f"one of them is now {name!r}")
        names.append(name)
    return names


def _input_shapes(source: SourceModel, names: list[str], shapes: dict[str, tuple[int, ...]],
                  notes: list[str]) -> list[tuple[int, ...]]:
    """Return the shape of every input: given, or the model's own with a batch of 1."""
    for name in shapes:
        if name not in names:
            raise InputError(f"{source.path}: there is no input {name!r} to give a shape, needed "
                             f"{' or '.join(map(repr, names))}")
    result = []
    for index, name in zip(source.inputs, names):
        tensor = source.tensors[index]
        rank = len(tensor.shape)
        if name in shapes:
            given = tuple(int(n) for n in shapes[name])
            if len(given) != rank or any(n < 1 for n in given):
                raise InputError(f"{source.path}: the shape {given} for the input {name!r}: "
                                 f"needed {rank} dimensions of at least 1, {_spelled(tensor)}")
            result.append(given)
            continue
        if set(tensor.dynamic) - {0}:
            example = ",".join("224" if axis in tensor.dynamic and axis else str(max(n, 1))
                               for axis, n in enumerate(tensor.shape))
            raise InputError(f"{source.path}: the input {name!r} has the dynamic shape "
                             f"{_spelled(tensor)}: needed its size, for example "
                             f"--shape {name}={example}")
        shape = tuple(1 if axis in tensor.dynamic else n for axis, n in enumerate(tensor.shape))
        if tensor.dynamic:
            notes.append(f"the input {name!r} has the dynamic shape {_spelled(tensor)}; "
                         "packed for a batch of 1 (--shape chooses another)")
        result.append(shape)
    return result


def _spelled(tensor: SourceTensor) -> str:
    return "[" + ", ".join("?" if axis in tensor.dynamic else str(n)
                           for axis, n in enumerate(tensor.shape)) + "]"


def _check_supported(source: SourceModel) -> None:
    """Raise one UnsupportedError that lists everything that cannot be imported."""
    missing: Counter[str] = Counter()
    example: dict[str, str] = {}
    for op in source.ops:
        if op.type in HOST and at_the_end(source, op):
            continue
        if op.type not in RULES:
            missing[op.type] += 1
            example.setdefault(op.type, op.name)
    problems = []
    if missing:
        problems.append("ops that edgerun has not: " + ", ".join(
            f"{count} {name} (for example the one that writes {example[name]!r})"
            for name, count in sorted(missing.items(), key=lambda item: (-item[1], item[0])))
            + "; export the model without them")
    for index in (*source.inputs, *source.outputs):
        if source.tensors[index].type not in NUMPY:
            problems.append(f"the input or output {source.tensors[index].name!r} of type "
                            f"{source.tensors[index].type}; needed one of {', '.join(NUMPY)}")
    for index in source.inputs:
        if source.tensors[index].integer_quantized and source.tensors[index].quantization.axis >= 0:
            problems.append(f"the input {source.tensors[index].name!r} has a scale per channel; "
                            "needed one")
    if problems:
        raise UnsupportedError(f"{source.path}: cannot be imported: " + "; and ".join(problems))


def _convert(context: Context, op: SourceOp) -> list[Tensor]:
    """Return the output tensors of one op.

    Raises:
        ModelError: its operands contradict each other.
        UnsupportedError: it is used in a way that edgerun has not.
    """
    rule = RULES[op.type]
    fewest, most = rule.inputs
    if not fewest <= len(op.inputs) <= most:
        raise context.damaged(op, f"{len(op.inputs)} inputs, needed {fewest} to {most}")
    try:
        built = rule.convert(context, op)
    except EdgerunError as error:
        if str(error).startswith(str(context.source.path)):
            raise
        raise type(error)(f"{context.source.path}: {op}: {error}") from error
    except DAMAGE as error:
        raise ModelError(f"{context.source.path}: {op}: its operands contradict each other: "
                         f"{type(error).__name__}: {error}") from error
    tensors = built if isinstance(built, list) else [built]
    if len(tensors) != len(op.outputs):
        raise context.damaged(op, f"{len(op.outputs)} outputs, needed {len(tensors)}")
    stored: list[Tensor] = []
    for index, tensor in zip(op.outputs, tensors):
        declared = context.source.tensors[index]
        if declared.integer_quantized and declared.type in NUMPY or (
                op.type == "QUANTIZE" and declared.type == "INT32"):
            stored.append(context.store(op, declared, tensor))
            continue
        if declared.type in QUANTIZED and context.integers(tensor).dtype == _dtype(declared):
            tensor = context.integers(tensor)  # moved; the file repeats its scale or does not
        stored.append(tensor)
        if declared.type not in NUMPY or _device_dtype(declared) != tensor.dtype:
            raise context.damaged(op, f"its output {declared.name!r} is declared {declared.type}, "
                                      f"but its inputs make it {tensor.dtype}")
    return stored


HYBRID = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL",
          "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM")


def _weights(op: SourceOp) -> int:
    """Return the number of the input that holds weights; an LSTM may have no input gate."""
    return 2 if op.type.endswith("LSTM") else 1


def _note_hybrid(source: SourceModel, notes: list[str]) -> None:
    hybrid = [op for op in source.ops if op.type in HYBRID and len(op.inputs) > 1
              and min(op.inputs[0], op.inputs[_weights(op)]) >= 0
              and source.tensors[op.inputs[_weights(op)]].integer_quantized
              and not source.tensors[op.inputs[0]].integer_quantized]
    rounded = sum(1 for op in hybrid if compute.rounds_rows(op))
    if rounded:
        notes.append(f"{rounded} ops have integer weights and float activations; the weights stay "
                     "integers, and every row of the activations is rounded to 8 bits, as TFLite "
                     "does (not with another --precision than source)")
    if len(hybrid) > rounded:
        notes.append(f"{len(hybrid) - rounded} ops have integer weights and float activations; the "
                     "weights stay integers and the activations exact, where TFLite rounds them "
                     "to int8")


def _note_half(source: SourceModel, notes: list[str]) -> None:
    half = sum(1 for tensor in source.tensors if tensor.type == "FLOAT16")
    if half:
        notes.append(f"{half} weight tensors are float16, which TFLite widens to compute; in fp32 "
                     "the file is twice as large as with --precision fp16")
