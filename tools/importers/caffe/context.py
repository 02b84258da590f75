"""What the functions of Caffe's layers work with: the layer, its tensors, its weights."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.importers.caffe.source import Layer

Value = Tensor | np.ndarray  # a tensor of the graph, or contents known at pack time


class Weights:
    """Weights from a caffemodel, or random ones for studies of memory and speed.

    Args:
        seed: of random weights; None: layers hold their own.
    """

    def __init__(self, seed: int | None):
        self._random = None if seed is None else np.random.default_rng(seed)

    def get(self, layer: Layer, index: int, shape: Sequence[int], fan_in: int = 0,
            fill: float = 0.0) -> np.ndarray:
        """Return a blob of a layer in the shape that the layer's parameters ask for.

        Args:
            layer: whose weights.
            index: of the blob.
            shape: needed; another shape of as many elements is accepted, as Caffe does for blobs of
                version 1.
            fan_in: random weights: elements that are summed up; 0: all are `fill`.
            fill: see fan_in.

        Raises:
            ModelError: there is no such blob, or it has another size.
        """
        shape = tuple(int(n) for n in shape)
        if self._random is not None:
            if not fan_in:
                return np.full(shape, fill, np.float32)
            return self._random.normal(0, math.sqrt(2 / fan_in), shape).astype(np.float32)
        if index >= len(layer.blobs):
            raise ModelError(f"has {len(layer.blobs)} arrays of weights in the caffemodel, needed "
                             f"at least {index + 1}: the prototxt and the weights do not match")
        blob = layer.blobs[index]
        squeezed = [n for n in blob.shape if n != 1], [n for n in shape if n != 1]
        if blob.size != math.prod(shape) or squeezed[0] != squeezed[1]:
            raise ModelError(f"has weights of the shape {blob.shape} in the caffemodel, needed "
                             f"{shape}: the prototxt and the weights do not match")
        return blob.reshape(shape)


class Context:
    """Builds the graph for one layer at a time; values have the axes of Caffe (NCHW).

    Attributes:
        graph: being built.
        layer: whose function runs; names the ops it adds.
        bottoms: what it reads.
    """

    def __init__(self, graph: Graph, weights: Weights):
        self.graph = graph
        self.layer: Layer | None = None
        self.bottoms: list[Value] = []
        self._weights = weights

    def param(self, name: str) -> Any:
        """Return a message of parameters of the layer."""
        return self.layer.param(name)

    def weights(self, index: int, shape: Sequence[int], fan_in: int = 0, fill: float = 0.0
                ) -> np.ndarray:
        """Return weights of the layer; see Weights.get()."""
        return self._weights.get(self.layer, index, shape, fan_in, fill)

    def bottom(self, index: int = 0) -> Tensor:
        """Return what the layer reads as a tensor of the graph."""
        if index >= len(self.bottoms):
            raise ModelError(f"reads {len(self.bottoms)} blobs, needed at least {index + 1}")
        value = self.bottoms[index]
        if isinstance(value, np.ndarray):
            value = self.bottoms[index] = self.constant(value)
        return value

    def image(self, index: int = 0) -> Tensor:
        """Return a bottom [N, C, H, W] as [N, H, W, C]."""
        x = self.bottom(index)
        need(len(x.shape) == 4, f"reads {x.shape}, needed 4 dimensions")
        return self.transpose(x, (0, 2, 3, 1))

    def from_image(self, x: Tensor) -> Tensor:
        """Return [N, H, W, C] as [N, C, H, W]."""
        return self.transpose(x, (0, 3, 1, 2))

    def add(self, code: str, inputs: Sequence[Tensor | None], **options: Any) -> Tensor:
        """Append an op named after the layer; returns its output."""
        return self.graph.add(code, inputs, self.layer.name, **options)

    def constant(self, values: Any) -> Tensor:
        """Return a new fp32 constant."""
        return self.graph.constant(np.asarray(values, np.float32), f"{self.layer.name}.const")

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """Return x with its axes in the order `perm`."""
        if list(perm) == list(range(len(x.shape))):
            return x
        return self.add("transpose", [x], perm=list(perm))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return x with another shape of the same size."""
        shape = tuple(int(n) for n in shape)
        if shape == x.shape:
            return x
        if math.prod(shape) != math.prod(x.shape):
            raise ModelError(f"the shape {x.shape} does not fit into {shape}")
        return self.add("reshape", [x], shape=shape)

    def unary(self, kind: str, x: Tensor, alpha: float = 0.0, beta: float = 0.0) -> Tensor:
        """Add a unary op."""
        return self.add("unary", [x], kind=kind, alpha=float(alpha), beta=float(beta))

    def binary(self, kind: str, a: Tensor, b: Tensor) -> Tensor:
        """Add a binary op."""
        return self.add("binary", [a, b], kind=kind)

    def affine(self, x: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        """Return scale * x + shift."""
        if (scale, shift) == (1.0, 0.0):
            return x
        return self.unary("affine", x, scale, shift)

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front."""
        if not -rank <= axis < rank:
            raise ModelError(f"axis {axis} of {rank} dimensions")
        return axis % rank


def need(condition: bool, reason: str) -> None:
    """Raise UnsupportedError with the reason unless the condition holds."""
    if not condition:
        raise UnsupportedError(reason)
