"""Small networks with weights in planes, as ONNX models."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerun.tools.planes import onnx as planes_onnx
from edgerun.tools.planes.integers import bounds

IMAGE = (1, 1, 12, 12)


class Network:
    """ONNX nodes, one behind the other."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values) -> str:
        """Add a constant; returns its name."""
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], y: str, **attributes) -> str:
        """Add a node; returns its output."""
        self.nodes.append(helper.make_node(op_type, list(inputs), [y], name=y, **attributes))
        return y

    def stored(self, x: str, scale: float, zero: int = 0, dtype=np.uint8) -> str:
        """Quantize and dequantize."""
        of = [self.constant(f"{x}.s", np.float32(scale)), self.constant(f"{x}.z", dtype(zero))]
        self.node("QuantizeLinear", [x, *of], f"{x}.q")
        return self.node("DequantizeLinear", [f"{x}.q", *of], f"{x}.r")

    def planes(self, name: str, shape: Sequence[int], bits: int, signs: str, axis: int = 0,
               bias: np.ndarray | None = None) -> list[str]:
        """Add BitPlanes of random codes; returns its outputs."""
        low, high = bounds(bits, signs)
        codes = self.rng.integers(low, high + 1, shape)
        scale = self.rng.uniform(0.2, 0.6, shape[axis]) / max(high, 1)
        offset = np.full(shape[axis], 0.5) if signs == "twos" else None
        node, held = planes_onnx.bit_planes(name, codes, bits, scale, offset, bias, signs, axis)
        self.nodes.append(node)
        self.initializers += held
        return list(node.output)

    def normalized(self, x: str, channels: int, y: str) -> str:
        """Add a batch normalization, some of whose factors are negative."""
        rng = self.rng
        values = (rng.uniform(-1.5, 1.5, channels), rng.normal(size=channels),
                  0.1 * rng.normal(size=channels), rng.uniform(0.5, 2, channels))
        return self.node("BatchNormalization", [x, *(
            self.constant(f"{y}.{what}", np.float32(v)) for what, v in zip("gbmv", values))], y)

    def model(self, output: str, shape: Sequence[int], image: Sequence[int] = IMAGE
              ) -> onnx.ModelProto:
        """Return the model, from "image" to an output."""
        graph = helper.make_graph(
            self.nodes, "planes",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)], self.initializers)
        return helper.make_model(graph, ir_version=10, opset_imports=[
            helper.make_opsetid("", 21), planes_onnx.OPSET])


def layers(bits: int = 4, signs: str = "twos", k: int = 8, quantized: bool = True,
           middle: int | None = None) -> onnx.ModelProto:
    """Return conv - BN - clip - pool - conv with a bias per prefix - relu - dense.

    Args:
        bits, signs: of the weights.
        k: bits of the activations.
        quantized: activations are; else all is real, but the weights.
        middle: bits of the second convolution; default as the others.
    """
    middle = bits if middle is None else middle
    net = Network()

    def stored(x: str, scale: float) -> str:
        return net.stored(x, scale) if quantized else x

    x = stored("image", 1 / 255)
    bias = 0.2 * net.rng.normal(size=(bits + 1, 6))
    y = net.node("Conv", [x, *net.planes("c1", (6, 1, 3, 3), bits, signs, bias=bias)], "y1",
                 pads=[1, 1, 1, 1])
    y = net.node("Clip", [net.normalized(y, 6, "n1"), net.constant("low", np.float32(0)),
                          net.constant("high", np.float32(1))], "a1")
    y = net.node("MaxPool", [stored(y, 1 / (2**k - 1))], "p1", kernel_shape=[2, 2], strides=[2, 2])
    bias = 0.1 * net.rng.normal(size=(middle + 1, 9))
    y = net.node("Conv", [y, *net.planes("c2", (9, 6, 3, 3), middle, signs, bias=bias)], "y2")
    y = net.node("Flatten", [stored(net.node("Relu", [y], "a2"), 0.02)], "f")
    y = net.node("MatMul", [y, *net.planes("d", (144, 5), bits, signs, axis=1)], "y3")
    net.node("Add", [y, net.constant("b3", net.rng.normal(size=5).astype(np.float32))], "out")
    return net.model("out", (1, 5))


def binary(plain: bool = False) -> onnx.ModelProto:
    """Return conv - BN - Binarize - binary conv - pool - BN - Binarize - binary dense.

    Args:
        plain: the weights of the binary convolution are an ordinary initializer.
    """
    net = Network(3)
    w = net.constant("w0", net.rng.normal(size=(35, 1, 3, 3)).astype(np.float32))
    y = net.normalized(net.node("Conv", ["image", w], "y0", pads=[1, 1, 1, 1]), 35, "n0")
    net.nodes.append(planes_onnx.binarize(y, "s0"))
    signs = np.where(net.rng.random((20, 35, 3, 3)) < 0.5, -1, 1)
    alpha = net.rng.uniform(0.05, 0.2, 20)
    if plain:
        net.constant("c1.w", (signs * alpha[:, None, None, None]).astype(np.float32))
    else:
        node, held = planes_onnx.bit_planes("c1", (signs - 1) // 2, 1, 2 * alpha, 0.5)
        net.nodes.append(node)
        net.initializers += held
    y = net.normalized(net.node("Conv", ["s0", "c1.w"], "y1", pads=[1, 1, 1, 1]), 20, "n1")
    y = net.node("MaxPool", [y], "p1", kernel_shape=[2, 2], strides=[2, 2])
    net.nodes.append(planes_onnx.binarize(net.normalized(y, 20, "n2"), "s1"))
    y = net.node("Flatten", ["s1"], "f")
    signs = np.where(net.rng.random((7, 720)) < 0.5, -1, 1)
    node, held = planes_onnx.bit_planes("d", (signs - 1) // 2, 1, 0.02, 0.5)
    net.nodes.append(node)
    net.initializers += held
    net.node("Gemm", [y, "d.w", net.constant("b", net.rng.normal(size=7).astype(np.float32))],
             "out", transB=1)
    return net.model("out", (1, 7))


def image(seed: int = 1, shape: Sequence[int] = IMAGE) -> np.ndarray:
    """Return an image of numbers between 0 and 1."""
    return np.random.default_rng(seed).random(shape, np.float32)
