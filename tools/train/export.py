"""A trained network as ONNX: weights as BitPlanes, activations as QuantizeLinear or Binarize."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgerun.errors import UnsupportedError
from edgerun.tools.planes import onnx as planes_onnx
from edgerun.tools.train import activations
from edgerun.tools.train.codes import Codes
from edgerun.tools.train.layers import Conv, Dense, affine

OPSET = 13
SILENT = (nn.Identity, nn.Dropout)  # at evaluation


class Writer:
    """Collects the nodes of an ONNX graph; a module with to_onnx(writer, x) writes itself."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        """Add an initializer; returns its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(
            np.shape(value)), name))
        return name

    def add(self, op: str, inputs: Sequence[str], **attributes) -> str:
        """Add a node with one output, which is named by its op and number; returns the output."""
        y = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [y], name=y, **attributes))
        return y

    def rounded(self, x: str, how: activations.Quantization) -> str:
        """Round a tensor to integers and back, which the packer understands as integers."""
        dtype = np.int8 if how.signed else np.uint8
        least = -how.levels - 1 if how.signed else 0
        if how.levels != np.iinfo(dtype).max:  # the integers of the dtype are more than the levels
            ends = (how.scale * (end - how.zero_point) for end in (least, how.levels))
            x = self.add("Clip", [x, *(self.constant(f"{x}.{name}", np.float32(end))
                                       for name, end in zip(("least", "most"), ends))])
        grid = [self.constant(f"{x}.scale", np.float32(how.scale)),
                self.constant(f"{x}.zero", dtype(how.zero_point))]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, *grid]), *grid])

    def layer(self, x: str, layer: Conv | Dense, norm: nn.Module | None) -> str:
        """Write a layer with the normalization behind it folded in."""
        name = f"layer{len(self.nodes)}"
        w = layer.weight.detach().cpu().numpy()
        bias = np.zeros(len(w)) if layer.bias is None else layer.bias.detach().double().numpy()
        stored = layer.scheme.codes(layer.weight)
        if stored is None:
            factor, shift = affine(norm, 0) if norm is not None else (np.ones(len(w)), 0.0)
            each = factor.reshape(-1, *(1,) * (w.ndim - 1))
            inputs = [self.constant(f"{name}.w", (w * each).astype(np.float32)),
                      self.constant(f"{name}.b", (bias * factor + shift).astype(np.float32))]
        else:
            stored, biases = folded(stored, bias, norm)
            node, constants = planes_onnx.bit_planes(
                name, stored.codes, stored.bits, stored.scale, stored.offset, biases, stored.signs,
                table=stored.table)
            self.nodes.append(node)
            self.constants.extend(constants)
            inputs = list(node.output)
        if isinstance(layer, Dense):
            return self.add("Gemm", [x, *inputs], transB=1)
        return self.add("Conv", [x, *inputs], kernel_shape=list(layer.kernel_size),
                        strides=list(layer.stride), pads=list(layer.padding) * 2)


def folded(stored: Codes, bias: np.ndarray, norm: nn.Module | None) -> tuple[Codes, np.ndarray]:
    """Return codes, and biases [bits + 1, OC], of a layer with the normalization behind it.

    A factor below 0 turns the codes of its channel over, so that scales stay positive: in two's
    complement -(q + o) is ~q + (1 - o) for every prefix, of signed magnitudes it is -q - o.
    """
    rows = [affine(norm, planes) if norm is not None else (np.ones_like(bias), np.zeros_like(bias))
            for planes in range(stored.bits + 1)]
    factors, shifts = (np.stack(values) for values in zip(*rows))
    biases = (factors * bias + shifts).astype(np.float32)
    turned = factors[-1] < 0
    if (turned & (factors >= 0)).any() or (~turned & (factors < 0)).any():
        raise UnsupportedError("a normalization's factors differ in sign between the precisions")
    codes, offset, table = stored.codes.copy(), stored.offset.copy(), stored.table
    if turned.any():
        if table:
            if tuple(-value for value in reversed(table)) != table:
                raise UnsupportedError("a table that is not symmetric meets a factor below 0")
            codes[turned] = len(table) - 1 - codes[turned]
            offset[:, turned] *= -1
        elif stored.signs == "twos":
            codes[turned] = ~codes[turned]
            offset[:, turned] = 1 - offset[:, turned]
        else:
            codes[turned] = -codes[turned]
            offset[:, turned] *= -1
    scale = (stored.scale * np.abs(factors)).astype(np.float32)
    scale[1:] = np.maximum(scale[1:], np.finfo(np.float32).tiny)  # a factor of 0 stays a scale
    return Codes(codes, stored.bits, stored.signs, scale, offset, table), biases


def _flat(network: nn.Module) -> Iterator[nn.Module]:
    if isinstance(network, nn.Sequential):
        for part in network:
            yield from _flat(part)
    elif not isinstance(network, SILENT):
        yield network


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) or hasattr(module, "fold")


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value] * 2 if isinstance(value, int) else list(value)


def append(writer: Writer, network: nn.Module, x: str) -> str:
    """Write a network's modules, one behind the other; returns the name of the output.

    Raises:
        UnsupportedError: a module that has no form in ONNX here.
    """
    modules = list(_flat(network))
    for number, module in enumerate(modules):
        if isinstance(module, (Conv, Dense)):
            behind = modules[number + 1] if number + 1 < len(modules) else None
            x = writer.layer(x, module, behind if behind is not None and _is_norm(behind) else None)
        elif _is_norm(module) and number and isinstance(modules[number - 1], (Conv, Dense)):
            continue  # folded
        elif hasattr(module, "to_onnx"):
            x = module.to_onnx(writer, x)
        elif isinstance(module, activations.Sign):
            y = f"binarize{len(writer.nodes)}"
            writer.nodes.append(planes_onnx.binarize(x, y))
            x = y
        elif isinstance(module, activations.Activations):
            how = module.quantization()
            x = x if how is None else writer.rounded(x, how)
        elif isinstance(module, nn.ReLU):
            x = writer.add("Relu", [x])
        elif isinstance(module, nn.Flatten):
            x = writer.add("Flatten", [x])
        elif (isinstance(module, nn.MaxPool2d) and not any(_pair(module.padding))
              and not module.ceil_mode and not module.return_indices):
            x = writer.add("MaxPool", [x], kernel_shape=_pair(module.kernel_size),
                           strides=_pair(module.stride), dilations=_pair(module.dilation))
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size == 1:
            x = writer.add("GlobalAveragePool", [x])
        else:
            raise UnsupportedError(f"{module}: cannot be written as ONNX")
    return x


def write(network: nn.Module, path: str | Path, shape: Sequence[int], name: str = "image",
          output: str = "logits", classes: int = 10) -> None:
    """Write a network as ONNX, batch 1: `name` [1, *shape] fp32 -> `output` [1, classes].

    Raises:
        UnsupportedError: a module that has no form in ONNX here.
    """
    writer = Writer()
    y = append(writer, network.eval(), name)
    writer.nodes.append(helper.make_node("Identity", [y], [output]))
    graph = helper.make_graph(
        writer.nodes, Path(path).stem,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, classes])], writer.constants)
    onnx.save(helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", OPSET), planes_onnx.OPSET]),
        path)
