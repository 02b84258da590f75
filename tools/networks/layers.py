"""The words that network shapes are written in, and how each becomes nodes of an ONNX graph.

A layer is a small frozen dataclass; a network is a list of them, each reading what the one before
wrote. Sizes left out mean what they mean in the papers: padding KERNEL // 2, stride 1, ReLU.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass(frozen=True)
class Conv:
    """A convolution with bias; batch normalization is folded into it."""
    channels: int
    kernel: int = 1
    stride: int = 1
    activation: str = "relu"  # a key of ACTIVATIONS, "" for none
    pad: int | None = None  # None: kernel // 2
    gain: float = 1.0  # of the weights: below 1 at the end of a residual branch


@dataclass(frozen=True)
class Depthwise:
    """A convolution of each channel by itself."""
    kernel: int = 3
    stride: int = 1
    activation: str = "relu"


@dataclass(frozen=True)
class Pool:
    """Pooling; `kind` is "Max" or "Average"."""
    kind: str
    kernel: int
    stride: int
    pad: int = 0
    ceil: bool = False


@dataclass(frozen=True)
class GlobalPool:
    """The mean over height and width, as a vector per image."""


@dataclass(frozen=True)
class Flatten:
    """All elements of an image as one vector, channels first."""


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: of vectors (Gemm), or of the last axis of sequences (MatMul)."""
    units: int
    activation: str = ""
    gain: float = 1.0


@dataclass(frozen=True)
class Residual:
    """activation(main(x) + shortcut(x)); an empty shortcut is x itself."""
    main: Sequence
    shortcut: Sequence = ()
    activation: str = ""


@dataclass(frozen=True)
class Branches:
    """The results of several lists of layers, concatenated along the channels."""
    parts: Sequence[Sequence]


@dataclass(frozen=True)
class Tokens:
    """[N, C, H, W] -> the sequence [N, H*W, C]."""


@dataclass(frozen=True)
class MeanToken:
    """The mean of a sequence: [N, T, C] -> [N, C]."""


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization over the last axis."""


@dataclass(frozen=True)
class Attention:
    """Self-attention of a sequence with `heads` heads, projections included (Vaswani et al.)."""
    heads: int
    gain: float = 1.0


ACTIVATIONS = ("", "relu", "relu6", "gelu")


class Writer:
    """Writes layers as ONNX nodes with seeded random weights.

    Weights are normal with variance 2 / fan-in before a rectifier and 1 / fan-in elsewhere (He et
    al., 2015), so that activations keep their size from layer to layer.
    """

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)
        self._count = 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, code: str, inputs: Sequence[str], **attributes) -> str:
        """Append a node; returns the name of its output."""
        name = f"{code.lower()}_{self._count}"
        self._count += 1
        self.nodes.append(helper.make_node(code, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: np.ndarray, role: str) -> str:
        """Append an initializer; returns its name."""
        name = f"{role}_{self._count}"
        self._count += 1
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weights(self, shape: tuple[int, ...], fan_in: int, activation: str, gain: float) -> str:
        """Append random weights."""
        deviation = gain * (2 / fan_in if activation else 1 / fan_in) ** 0.5
        values = self._random.standard_normal(shape, np.float32)
        values *= np.float32(deviation)
        return self.constant(values, "w")

    def bias(self, channels: int) -> str:
        """Append a small random bias."""
        return self.constant(self._random.standard_normal(channels, np.float32) / 10, "b")

    def activate(self, x: str, kind: str) -> str:
        """Append an activation, a key of ACTIVATIONS."""
        if kind == "":
            return x
        if kind == "relu":
            return self.node("Relu", [x])
        if kind == "relu6":
            low, high = (self.constant(np.float32(value), "limit") for value in (0, 6))
            return self.node("Clip", [x, low, high])
        if kind == "gelu":  # as exporters write it for this opset
            root, one, half = (self.constant(np.float32(value), "c") for value in (2**0.5, 1, 0.5))
            erf = self.node("Erf", [self.node("Div", [x, root])])
            return self.node("Mul", [self.node("Mul", [x, self.node("Add", [erf, one])]), half])
        raise ValueError(f"activation {kind!r}, needed one of {', '.join(map(repr, ACTIVATIONS))}")

    def write(self, layers: Sequence, x: str, shape: tuple[int, ...]
              ) -> tuple[str, tuple[int, ...]]:
        """Append a list of layers.

        Args:
            layers: read one after the other.
            x: name of the first one's input.
            shape: of it.

        Returns:
            Name and shape of the last one's output.
        """
        for layer in layers:
            x, shape = WRITERS[type(layer)](self, layer, x, shape)
        return x, shape


def _window(size: int, kernel: int, stride: int, pad: int, ceil: bool = False) -> int:
    span = size + 2 * pad - kernel
    out = (-(-span // stride) if ceil else span // stride) + 1
    if span < 0 or out < 1:
        raise ValueError(f"an image {size} wide is too small for a window of {kernel}")
    return out


def _conv(to: Writer, layer: Conv, x, shape):
    n, c, h, w = shape
    k, pad = layer.kernel, layer.kernel // 2 if layer.pad is None else layer.pad
    weights = to.weights((layer.channels, c, k, k), c * k * k, layer.activation, layer.gain)
    y = to.node("Conv", [x, weights, to.bias(layer.channels)], kernel_shape=[k, k],
                strides=[layer.stride] * 2, pads=[pad] * 4)
    size = (_window(h, k, layer.stride, pad), _window(w, k, layer.stride, pad))
    return to.activate(y, layer.activation), (n, layer.channels, *size)


def _depthwise(to: Writer, layer: Depthwise, x, shape):
    n, c, h, w = shape
    k, pad = layer.kernel, layer.kernel // 2
    weights = to.weights((c, 1, k, k), k * k, layer.activation, 1.0)
    y = to.node("Conv", [x, weights, to.bias(c)], kernel_shape=[k, k], group=c,
                strides=[layer.stride] * 2, pads=[pad] * 4)
    size = (_window(h, k, layer.stride, pad), _window(w, k, layer.stride, pad))
    return to.activate(y, layer.activation), (n, c, *size)


def _pool(to: Writer, layer: Pool, x, shape):
    k, s, pad = layer.kernel, layer.stride, layer.pad
    y = to.node(f"{layer.kind}Pool", [x], kernel_shape=[k, k], strides=[s, s], pads=[pad] * 4,
                ceil_mode=int(layer.ceil))
    return y, (*shape[:2], *(_window(size, k, s, pad, layer.ceil) for size in shape[2:]))


def _global_pool(to: Writer, layer: GlobalPool, x, shape):
    return (to.node("Flatten", [to.node("GlobalAveragePool", [x])], axis=1), shape[:2])


def _flatten(to: Writer, layer: Flatten, x, shape):
    return to.node("Flatten", [x], axis=1), (shape[0], int(np.prod(shape[1:])))


def _dense(to: Writer, layer: Dense, x, shape):
    c, units = shape[-1], layer.units
    if len(shape) == 2:
        weights = to.weights((units, c), c, layer.activation, layer.gain)
        y = to.node("Gemm", [x, weights, to.bias(units)], transB=1)
    else:
        weights = to.weights((c, units), c, layer.activation, layer.gain)
        y = to.node("Add", [to.node("MatMul", [x, weights]), to.bias(units)])
    return to.activate(y, layer.activation), (*shape[:-1], units)


def _residual(to: Writer, layer: Residual, x, shape):
    main, after = to.write(layer.main, x, shape)
    shortcut, same = to.write(layer.shortcut, x, shape)
    if after != same:
        raise ValueError(f"a residual branch of shape {after} is added to one of {same}")
    return to.activate(to.node("Add", [main, shortcut]), layer.activation), after


def _branches(to: Writer, layer: Branches, x, shape):
    names, shapes = zip(*(to.write(part, x, shape) for part in layer.parts))
    channels = sum(shape[1] for shape in shapes)
    return to.node("Concat", names, axis=1), (shape[0], channels, *shapes[0][2:])


def _reshape(to: Writer, x: str, shape: Sequence[int]) -> str:
    return to.node("Reshape", [x, to.constant(np.array(shape, np.int64), "shape")])


def _tokens(to: Writer, layer: Tokens, x, shape):
    n, c, h, w = shape
    return to.node("Transpose", [_reshape(to, x, (n, c, h * w))], perm=[0, 2, 1]), (n, h * w, c)


def _mean_token(to: Writer, layer: MeanToken, x, shape):
    return to.node("ReduceMean", [x], axes=[1], keepdims=0), (shape[0], shape[2])


def _layer_norm(to: Writer, layer: LayerNorm, x, shape):
    gamma = to.constant(np.ones(shape[-1], np.float32), "gamma")
    return to.node("LayerNormalization", [x, gamma, to.bias(shape[-1])], axis=-1), shape


def _attention(to: Writer, layer: Attention, x, shape):
    n, tokens, c = shape
    size = c // layer.heads

    def heads(perm: Sequence[int]) -> str:
        y, _ = _dense(to, Dense(c), x, shape)
        return to.node("Transpose", [_reshape(to, y, (n, tokens, layer.heads, size))],
                       perm=list(perm))

    query, key, value = heads((0, 2, 1, 3)), heads((0, 2, 3, 1)), heads((0, 2, 1, 3))
    scale = to.constant(np.float32(size ** -0.5), "scale")
    weights = to.node("Softmax", [to.node("Mul", [to.node("MatMul", [query, key]), scale])],
                      axis=-1)
    mixed = to.node("Transpose", [to.node("MatMul", [weights, value])], perm=[0, 2, 1, 3])
    return _dense(to, Dense(c, gain=layer.gain), _reshape(to, mixed, shape), shape)


WRITERS = {Conv: _conv, Depthwise: _depthwise, Pool: _pool, GlobalPool: _global_pool,
           Flatten: _flatten, Dense: _dense, Residual: _residual, Branches: _branches,
           Tokens: _tokens, MeanToken: _mean_token, LayerNorm: _layer_norm,
           Attention: _attention}


def to_onnx(name: str, layers: Sequence, shape: tuple[int, ...], seed: int) -> onnx.ModelProto:
    """Return a network as an ONNX model with the input "image" and the output "scores".

    Raises:
        ValueError: an image of that shape becomes smaller than a window on its way.
    """
    writer = Writer(seed)
    y, out = writer.write(layers, "image", shape)
    writer.nodes.append(helper.make_node("Identity", [y], ["scores"], name="scores"))
    graph = helper.make_graph(
        writer.nodes, name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, out)], writer.initializers)
    return helper.make_model(graph, producer_name="edgerun",
                             opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
