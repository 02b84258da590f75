"""Import Caffe networks (prototxt and caffemodel, layers of both versions) into the graph."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgerun.errors import EdgerunError, InputError, ModelError, UnsupportedError
from edgerun.tools.graph import Graph
from edgerun.tools.importers.caffe import host, layers, movement, pointwise
from edgerun.tools.importers.caffe.context import Context, Value, Weights
from edgerun.tools.importers.caffe.source import Layer, Source, read, read_weights

TABLE = {**layers.TABLE, **movement.TABLE, **pointwise.TABLE}
DATA = ("Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData",
        "AnnotatedData", "Python")  # what feeds a network; the first has a shape
# What only training, or a person at the screen, needs.
TRAINING = ("Accuracy", "Silence", "HDF5Output", "DetectionEvaluate")
# Least and most bottoms of a layer, None: any number; others have one.
BOTTOMS: dict[str, tuple[int, int | None]] = {
    "Concat": (1, None), "Eltwise": (1, None), "Scale": (1, 2), "Bias": (1, 2), "Crop": (2, 2),
    "PriorBox": (2, 2), "DetectionOutput": (1, None)}
WEIGHTED = ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution",
            "InnerProduct", "BatchNorm", "Scale", "Bias", "PReLU", "Normalize")


def load(path: str | os.PathLike, shapes: Mapping[str, Sequence[int]] | None = None,
         weights: str | os.PathLike | None = None, random_weights: int | None = None) -> Graph:
    """Import a Caffe network in its test phase.

    Args:
        path: .prototxt file.
        shapes: input name -> shape, where the prototxt gives none or another one is wanted.
        weights: .caffemodel file; default: the one of the same name beside the prototxt.
        random_weights: a seed; weights are random then, and no caffemodel is read.

    Returns:
        The graph with explicit transposes around ops that want images as NHWC. Outputs are the
        blobs that no layer reads.

    Raises:
        InputError: there are no weights, or `shapes` does not fit.
        ModelError: a file is damaged, or prototxt and weights do not match.
        UnsupportedError: lists every layer that edgerun has not.
    """
    path = Path(path)
    try:
        source = read(path)
        weighted = [layer for layer in source.layers if layer.type in WEIGHTED]
        if random_weights is None and (weighted or weights is not None):
            if weights is None:
                weights = path.with_suffix(".caffemodel")
                if not weights.is_file():
                    raise InputError(f"no weights: there is no {weights.name} beside it; give the "
                                     "caffemodel (--weights), or a seed for random weights "
                                     "(--random-weights)")
            read_weights(weights, weighted)
        return build(source, dict(shapes or {}), Weights(random_weights), path.name)
    except (InputError, ModelError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def build(source: Source, shapes: dict[str, Sequence[int]], weights: Weights, name: str = ""
          ) -> Graph:
    """Build the graph of a network; arguments as for load()."""
    body, inputs = _body(source)
    _require_known(body)
    graph = Graph(name=source.name, source=name, source_ops=len(source.layers))
    values: dict[str, Value] = {}
    for blob, shape in _shapes(inputs, shapes).items():
        values[blob] = graph.input(blob, shape, "fp32")
    ctx = Context(graph, weights)
    unread, last = dict.fromkeys(values), []
    for layer in body:
        for blob in layer.bottoms:
            unread.pop(blob, None)
        if layer.type in host.TABLE:
            unread |= dict.fromkeys(layer.bottoms)  # the host needs them; the caller may, too
            last.append(layer)
            continue
        for blob, value in zip(layer.tops, _apply(ctx, layer, values)):
            values[blob] = value
            unread[blob] = None
    for blob in unread:
        value = values[blob]
        if isinstance(value, np.ndarray):
            value = values[blob] = graph.constant(value, blob)
        graph.output(blob, value)
    if not graph.outputs:
        raise ModelError("has no output: every blob is read by a layer")
    for layer in last:
        _apply(ctx, layer, values, host.TABLE)
    if last:
        graph.results = [*(blob for layer in last for blob in layer.tops), *unread]
    return graph


def _body(source: Source) -> tuple[list[Layer], dict[str, tuple[int, ...] | None]]:
    """Return the layers that compute, and the inputs that they need with their shapes."""
    inputs = dict(source.inputs)
    fed: set[str] = set()  # what only training needs
    body = []
    for layer in source.layers:
        if layer.type in DATA and not layer.bottoms:
            param = layer.param("input" if layer.type == "Input" else "dummy_data")
            declared = [tuple(shape.dim) for shape in param.shape]
            for number, blob in enumerate(layer.tops):
                inputs[blob] = declared[min(number, len(declared) - 1)] if declared else None
        elif layer.type in TRAINING or layer.type.endswith("Loss"):
            fed.update(layer.bottoms)
        else:
            body.append(layer)
    used = {blob for layer in body for blob in layer.bottoms}
    return body, {blob: shape for blob, shape in inputs.items() if blob in used or blob not in fed}


def _require_known(body: Sequence[Layer]) -> None:
    """Require that there is a function for every layer.

    Raises:
        UnsupportedError: lists the types that have none.
    """
    unknown = Counter(layer.type for layer in body if layer.type not in (*TABLE, *host.TABLE))
    if unknown:
        listed = ", ".join(f"{kind} ({count} {'layer' if count == 1 else 'layers'}, first "
                           f"{next(layer.name for layer in body if layer.type == kind)!r})"
                           for kind, count in unknown.most_common())
        raise UnsupportedError(f"not supported: {listed}. Needed: a network without these layers")


def _shapes(inputs: Mapping[str, tuple[int, ...] | None], given: Mapping[str, Sequence[int]]
            ) -> dict[str, tuple[int, ...]]:
    unknown = [blob for blob in given if blob not in inputs]
    if unknown:
        raise InputError(f"a shape is given for {', '.join(map(repr, unknown))}, which is no "
                         f"input: the inputs are {', '.join(map(repr, inputs))}")
    shapes = {}
    for blob, declared in inputs.items():
        shape = tuple(int(n) for n in given.get(blob, declared or ()))
        if not shape or any(n < 1 for n in shape):
            what = list(shape) or "not in the prototxt"
            raise InputError(f"input {blob!r}: its shape is {what}, needed positive numbers, for "
                             f"example --shape {blob}=1,3,224,224")
        if declared is not None and len(declared) != len(shape):
            raise InputError(f"input {blob!r}: the shape {list(shape)} is given, the prototxt has "
                             f"{len(declared)} dimensions: {list(declared)}")
        shapes[blob] = shape
    return shapes


def _apply(ctx: Context, layer: Layer, values: Mapping[str, Value],
           table: Mapping[str, Callable] = TABLE) -> list[Value]:
    """Run the function of a layer; returns one value per top, none for one of the host."""
    try:
        missing = [blob for blob in layer.bottoms if blob not in values]
        if missing:
            raise ModelError(f"reads {missing[0]!r}, which no layer before it makes")
        if not layer.bottoms:
            raise ModelError("reads nothing")
        if layer.unknown:
            inside, _, field = layer.unknown[0].rpartition(".")
            raise ModelError(f"{f'its {inside}' if inside else 'it'} has a field {field!r}, which "
                             "is not known: correct its name, or remove it if it changes nothing")
        least, most = BOTTOMS.get(layer.type, (1, 1))
        if not least <= len(layer.bottoms) <= (most or len(layer.bottoms)):
            raise ModelError(f"reads {len(layer.bottoms)} blobs, needed "
                             + (str(least) if least == most else f"{least} to {most}"))
        ctx.layer, ctx.bottoms = layer, [values[blob] for blob in layer.bottoms]
        made = table[layer.type](ctx)
        made = made if isinstance(made, list) else [made]
        if table is TABLE and len(made) != len(layer.tops):
            raise ModelError(f"has {len(layer.tops)} tops, needed {len(made)}")
        return made
    except EdgerunError as error:
        kind = UnsupportedError if isinstance(error, UnsupportedError) else ModelError
        raise kind(f"{layer}: {error}") from None
