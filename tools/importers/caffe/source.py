"""Read a Caffe network: layers of the test phase in one form, with their weights."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from edgerun.errors import InputError, ModelError
from edgerun.tools.importers.caffe import unknown
from edgerun.tools.importers.caffe.messages import Net

TEST = "TEST"
# Layers of version 1 by the names of version 2, where they are not only spelt in another way.
V1_NAMES = {"ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "DUMMY_DATA": "DummyData",
            "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col",
            "INNER_PRODUCT": "InnerProduct", "LRN": "LRN", "MVN": "MVN", "RELU": "ReLU",
            "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH"}


@dataclass
class Layer:
    """A layer.

    Attributes:
        name, type: as in version 2 of the format.
        bottoms, tops: names of what it reads and writes; the same name twice is in place.
        message: its parameters, see param().
        blobs: its weights.
        unknown: parameters that are not known, see unknown.of_layers().
    """
    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    message: Any
    blobs: list[np.ndarray] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.type} {self.name!r}"

    def param(self, name: str) -> Any:
        """Return the message `<name>_param`, with its defaults."""
        return getattr(self.message, f"{name}_param")


@dataclass
class Source:
    """A network: its name, the shapes of declared inputs, and the layers in their order."""
    name: str
    inputs: dict[str, tuple[int, ...] | None]
    layers: list[Layer]


def read(path: Path) -> Source:
    """Read a prototxt.

    Raises:
        ModelError: it is no description of a network.
    """
    net, problem, found = _parse(path)
    messages = net.layer or net.layers
    found = found or [[] for _ in messages]
    if len(found) != len(messages):  # in syntax that only protobuf follows
        raise ModelError(problem)
    layers = [_layer(message, names) for message, names in zip(messages, found)
              if _included(message, net.state)]
    if not layers:
        raise ModelError(problem or "is not a Caffe network: it has no layers")
    return Source(net.name or path.stem, _inputs(net), layers)


def _parse(path: Path) -> tuple[Any, str, list[list[str]]]:
    """Return the network, the first that is unknown in it, and what is unknown in each layer.

    That matters only if the layers are of the test phase, and known.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"is not a readable prototxt: {error}") from None
    try:
        return text_format.Parse(text, Net()), "", []
    except text_format.ParseError as error:
        problem = str(error).replace("edgerun_caffe.", "")
    try:
        net = text_format.Parse(text, Net(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ModelError(f"is not a readable prototxt: {error}".replace("edgerun_caffe.", "")
                         ) from None
    found = unknown.of_layers(text, Net.DESCRIPTOR, "layer" if net.layer else "layers")
    return net, problem, found


def _layer(message: Any, unknown_fields: list[str]) -> Layer:
    kind = message.type
    if not isinstance(kind, str):
        name = message.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[kind].name
        kind = V1_NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
    return Layer(message.name, kind, list(message.bottom), list(message.top), message,
                 unknown=unknown_fields)


def _included(message: Any, state: Any) -> bool:
    """Whether a layer belongs to the test phase; see Net::FilterNet of Caffe."""
    def meets(rule: Any) -> bool:
        return ((not rule.HasField("phase") or rule.phase == 1)
                and (not rule.HasField("min_level") or state.level >= rule.min_level)
                and (not rule.HasField("max_level") or state.level <= rule.max_level)
                and all(stage in state.stage for stage in rule.stage)
                and not any(stage in state.stage for stage in rule.not_stage))

    if message.include:
        return any(meets(rule) for rule in message.include)
    return not any(meets(rule) for rule in message.exclude)


def _inputs(net: Any) -> dict[str, tuple[int, ...] | None]:
    """Return the inputs that are declared before the layers."""
    if net.input_shape:
        shapes = [tuple(shape.dim) for shape in net.input_shape]
    else:
        shapes = [tuple(net.input_dim[i:i + 4]) for i in range(0, len(net.input_dim), 4)]
    return {name: shapes[number] if number < len(shapes) else None
            for number, name in enumerate(net.input)}


def read_weights(path: str | os.PathLike, layers: Sequence[Layer]) -> None:
    """Give the layers their weights, by name.

    Raises:
        InputError: there is no such file.
        ModelError: it is no caffemodel, or has none of the layers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, needed the weights (.caffemodel)")
    net = Net()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{path}: is not a readable caffemodel: {error}") from None
    found = {message.name: message for message in (net.layer or net.layers)}
    if not found:
        raise ModelError(f"{path}: is not a caffemodel: it has no layers")
    for layer in layers:
        if layer.name in found:
            layer.blobs = [_array(blob, path, layer) for blob in found[layer.name].blobs]
    if layers and not any(layer.blobs for layer in layers):
        some = ", ".join(repr(name) for name in list(found)[:5])
        raise ModelError(f"{path}: holds weights of none of the layers: its layers are {some} ...; "
                         "needed the caffemodel of this prototxt")


def _array(blob: Any, path: Path, layer: Layer) -> np.ndarray:
    values = np.array(blob.data or blob.double_data, np.float32)
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    if any(n < 0 for n in shape) or int(np.prod(shape, dtype=object)) != values.size:
        raise ModelError(f"{path}: weights of layer {layer.name!r} have {values.size} elements, "
                         f"their shape is {shape}")
    return values.reshape(shape)
