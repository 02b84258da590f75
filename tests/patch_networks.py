"""Random small networks of images, real and of integers: what tests of strips cut."""
from __future__ import annotations

import numpy as np

from edgerun.errors import ModelError
from edgerun.quantization import Quantization
from edgerun.tools.graph import Graph, Tensor

MOST_ROWS, MOST_CHANNELS = 23, 6


class Network:
    """Grows a graph op by op; every op takes one of the last few images.

    Args:
        seed: of shapes, ops, options and weights.
        integers: uint8 images instead of fp32.
        ops: how many.
    """

    def __init__(self, seed: int, integers: bool, ops: int):
        self.rng, self.integers, self.graph = np.random.default_rng(seed), integers, Graph("random")
        shape = (1, self.number(5, MOST_ROWS), self.number(3, 9), self.number(1, MOST_CHANNELS))
        x = self.graph.input("x", shape, "uint8" if integers else "fp32")
        x.quantization = self.grid()
        self.images = [x]
        while len(self.graph.ops) < ops:
            x = self.images[-self.number(1, min(3, len(self.images)))]
            make = (self.conv, self.depthwise, self.pool, self.pointwise, self.pad, self.pair,
                    self.columns)[self.rng.choice(7, p=(.3, .25, .15, .1, .05, .1, .05))]
            try:
                self.images.append(make(x))
            except ModelError:
                continue  # a window larger than the image, or the like
        for number, tensor in enumerate(t for t in self.images if t not in self.graph.consumers()):
            self.graph.output(f"y{number}", tensor)

    def number(self, low: int, high: int) -> int:
        """A random number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def grid(self) -> Quantization | None:
        if not self.integers:
            return None
        return Quantization.per_tensor(2.0**-self.number(3, 6), self.number(0, 255))

    def window(self, pool: bool = False) -> dict:
        """Random options of a window; kernels have one to four rows."""
        names = ("stride_h", "stride_w", "dilation_h", "dilation_w")
        options = {name: self.number(1, 2 if name[0] == "d" else 3) for name in names}
        return options | {name: self.number(0, 2) for name in (
            "pad_top", "pad_left", "pad_bottom", "pad_right")}

    def weighted(self, code: str, x: Tensor, shape: tuple[int, ...], out_c: int) -> Tensor:
        """A layer with weights, perhaps with a fused activation, or a residual."""
        options = self.window() | ({} if self.number(0, 1) else {"activation": "relu"})
        if not self.integers:
            w = self.constant(self.rng.standard_normal(shape).astype(np.float32))
            bias = self.constant(self.rng.standard_normal(out_c).astype(np.float32))
            y = self.graph.add(code, [x, w, bias], **options)
            like = [t for t in self.images if t.shape == y.shape]
            if like and self.number(0, 1):
                self.graph.ops[-1].inputs.append(like[-1])
            return y
        w = self.constant(self.rng.integers(-90, 91, shape).astype(np.int8))
        taps = int(np.prod(shape)) // out_c
        bias = self.constant(self.rng.integers(-9000, 9000, out_c).astype(np.int32))
        m0 = self.constant(self.rng.integers(2**30, 2**31, out_c).astype(np.int32))
        t = self.constant(np.full(out_c, 36 + taps.bit_length(), np.int8))
        return self.graph.add(code, [x, w, bias, None, None, m0, t], "", self.grid(), **options)

    def constant(self, values: np.ndarray) -> Tensor:
        return self.graph.constant(values)

    def conv(self, x: Tensor) -> Tensor:
        out_c = self.number(1, MOST_CHANNELS)
        kernel = (self.number(1, 4), self.number(1, 3), x.shape[3])
        return self.weighted("conv2d", x, (out_c, *kernel), out_c)

    def depthwise(self, x: Tensor) -> Tensor:
        kernel = (self.number(1, 4), self.number(1, 3), x.shape[3])
        return self.weighted("depthwise_conv2d", x, kernel, x.shape[3])

    def pool(self, x: Tensor) -> Tensor:
        kind = ("max", "average")[self.number(0, 1)]
        same = kind == "max" or not self.integers or self.number(0, 1)
        return self.graph.add(
            "pool2d", [x], "", x.quantization if same else self.grid(), kind=kind,
            kernel_h=self.number(1, 4), kernel_w=self.number(1, 3), **self.window(),
            ceil_mode=bool(self.number(0, 1)), count_include_pad=bool(self.number(0, 1)))

    def pointwise(self, x: Tensor) -> Tensor:
        if not self.integers and self.number(0, 1):
            c = self.constant(self.rng.standard_normal(x.shape[3]).astype(np.float32))
            return self.graph.add("binary", [x, c], kind="mul")
        return self.graph.add("unary", [x], "", self.grid(), kind="relu")

    def pair(self, x: Tensor) -> Tensor:
        """Two images that both exist: added, or one beside the other."""
        like = [t for t in self.images if t.shape[:3] == x.shape[:3]]
        other = like[self.number(0, len(like) - 1)]
        if other.shape == x.shape and self.number(0, 1):
            return self.graph.add("binary", [x, other], "", self.grid(), kind="add")
        if self.integers:
            other = x
        return self.graph.add("concat", [x, other], "", x.quantization, axis=3)

    def pad(self, x: Tensor) -> Tensor:
        before, after = ((0, self.number(0, 2), self.number(0, 2), 0) for _ in range(2))
        return self.graph.add("pad", [x], "", x.quantization, mode="constant", before=before,
                              after=after)

    def columns(self, x: Tensor) -> Tensor:
        """Rows with a step, and a part of the columns."""
        first, step = self.number(0, 1), self.number(1, 2)
        rows = -(-(x.shape[1] - first) // step)
        return self.graph.add("slice", [x], starts=(0, first, 0, 0), steps=(1, step, 1, 1),
                              sizes=(1, rows, self.number(1, x.shape[2]), x.shape[3]))


def feed(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for the inputs of a graph."""
    rng = np.random.default_rng(seed)
    return {b.name: rng.integers(0, 256, b.shape).astype(np.uint8) if b.dtype == "uint8"
            else rng.standard_normal(b.shape).astype(np.float32) for b in graph.inputs}
