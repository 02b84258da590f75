"""Small networks with a mixture of experts, as ONNX."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from edgerun.tools import moe
from edgerun.tools.importers.onnx.mixture import DOMAIN, OP
from edgerun.tools.pack import pack

EXPERTS, CHOSEN, SIZE, CHANNELS, UNITS = 5, 2, 8, 4, 7


class Weights:
    """Random numbers of the size of 1 / sqrt(inputs)."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        width = np.prod(shape[1:]) if len(shape) > 1 else 16
        return (self.rng.standard_normal(shape) * scale / np.sqrt(width)).astype(np.float32)


def gate(weights: Weights, batch: int, experts: int = EXPERTS, noise: bool = True) -> moe.Part:
    """A gate of two layers with a noisy head."""
    part = moe.Part(f"gate{weights.rng.integers(10**9)}", (batch, CHANNELS, SIZE, SIZE))
    part.add("Flatten")
    part.add("Gemm", weights(6, CHANNELS * SIZE * SIZE), weights(6), transB=1)
    hidden = part.add("Relu")
    logits = part.add("Gemm", weights(experts, 6, scale=4), weights(experts), transB=1)
    if noise:
        part.add("Gemm", weights(experts, 6), weights(experts), reads=hidden, transB=1)
        width = part.add("Relu")
        drawn = part.add("RandomNormalLike", reads=width, scale=0.1)
        part.join("Add", logits, part.join("Mul", width, drawn))
    part.add("Softmax", axis=1)
    return part


def expert(weights: Weights, channels: int = 16, units: int = UNITS) -> moe.Part:
    """A convolution, a pool and a dense layer."""
    part = moe.Part(f"expert{weights.rng.integers(10**9)}", (1, CHANNELS, SIZE, SIZE))
    part.add("Conv", weights(channels, CHANNELS, 3, 3), weights(channels), kernel_shape=[3, 3])
    part.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    part.add("Flatten")
    part.add("Gemm", weights(units, channels * 9), weights(units), transB=1)
    return part


def network(batch: int = 1, experts: int = EXPERTS, k: int = CHOSEN, seed: int = 0,
            channels: int = 16, twice: bool = False) -> onnx.ModelProto:
    """image [batch, 1, 8, 8] -> y [batch, 3]: a convolution, a mixture (or two, one behind the
    other), a dense layer."""
    weights = Weights(seed)
    whole = moe.Part("image", (batch, 1, SIZE, SIZE))
    whole.add("Conv", weights(CHANNELS, 1, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    whole.add("Relu")
    for last in ((False, True) if twice else (True,)):
        units = UNITS if last else CHANNELS * SIZE * SIZE
        whole.add(OP, domain=DOMAIN, **moe.attributes(
            gate(weights, batch, experts).graph(),
            [expert(weights, channels, units).graph() for _ in range(experts)], k))
        if not last:
            whole.add("Reshape", np.array([batch, CHANNELS, SIZE, SIZE], np.int64))
    whole.add("Relu")
    whole.add("Gemm", weights(3, UNITS), transB=1)
    return moe.model(whole.graph("y"))


def images(batch: int = 1, count: int = 8, seed: int = 5) -> np.ndarray:
    """Inputs fp32 [count, batch, 1, 8, 8]."""
    return np.random.default_rng(seed).standard_normal((count, batch, 1, SIZE, SIZE), np.float32)


def by_hand(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes, sample by sample, of the model written for one sample."""
    session = onnxruntime.InferenceSession(moe.unfolded(model).SerializeToString())
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in image])


def packed(folder: Path, model: onnx.ModelProto, precision: str = "fp32", name: str = "m",
           **options) -> Path:
    """Write and pack a model; integers are calibrated."""
    source, file = folder / f"{name}.onnx", folder / f"{name}-{precision}.edge"
    onnx.save(model, source)
    if precision in ("int8", "int16"):
        batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        options["calibration"] = folder / "samples.npz"
        np.savez(options["calibration"],
                 **{model.graph.input[0].name: images(batch, 40, seed=6)})
    pack(source, file, precision, **options)
    return file


def feed(session, image: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return an image as the session's input."""
    return {session.inputs[0].name: image}
