"""CaffeNet and AlexNet with random weights: what each precision saves of a large network's memory.

    python -m edgerun.tools.recipes.caffenet --out DIR [--batch 16] [--order alexnet]

The layers are those of Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep
convolutional neural networks", 2012, as in the two reference models of Caffe, which differ in the
order of pooling and normalization. Random weights cost the same memory as trained ones.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerun.session import Session
from edgerun.tools.recipes import comparison

SIZE = 227  # pixels, square
CLASSES = 1000
# (name, output channels, kernel, stride, padding, groups, then normalize, then pool)
CONVOLUTIONS = (("conv1", 96, 11, 4, 0, 1, True, True), ("conv2", 256, 5, 1, 2, 2, True, True),
                ("conv3", 384, 3, 1, 1, 1, False, False), ("conv4", 384, 3, 1, 1, 2, False, False),
                ("conv5", 256, 3, 1, 1, 2, False, True))
DENSE = (("fc6", 4096), ("fc7", 4096), ("fc8", CLASSES))
ORDERS = ("caffenet", "alexnet")  # pool then normalize; normalize then pool
AMPLITUDE = 72  # root mean square of the images
SAMPLES = 4  # random images for calibration


def write(path: Path, batch: int = 1, order: str = "caffenet", seed: int = 0) -> None:
    """Write the network as ONNX: data [batch, 3, 227, 227] -> prob [batch, 1000].

    Weights are normal with the variance that keeps the signal's (He et al., 2015); those of the
    first layer bring the images to about 1, so that the last softmax has something to decide.
    """
    rng, nodes, constants = np.random.default_rng(seed), [], []

    def weights(name: str, *shape: int) -> list[str]:
        scale = np.sqrt(2 / np.prod(shape[1:])) / (AMPLITUDE if name == "conv1" else 1)
        values = {f"{name}_w": (rng.standard_normal(shape, np.float32) * np.float32(scale)),
                  f"{name}_b": np.full(shape[0], 0.1, np.float32)}
        constants.extend(numpy_helper.from_array(value, key) for key, value in values.items())
        return list(values)

    def add(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    x, channels, size = "data", 3, SIZE
    for name, out, kernel, stride, padding, groups, normalize, pool in CONVOLUTIONS:
        x = add("Conv", [x, *weights(name, out, channels // groups, kernel, kernel)], name,
                kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4, group=groups)
        x = add("Relu", [x], f"relu_{name}")
        size, channels = (size + 2 * padding - kernel) // stride + 1, out
        steps = [("norm", normalize), ("pool", pool)]
        for step, wanted in steps if order == "alexnet" else reversed(steps):
            if wanted and step == "norm":
                x = add("LRN", [x], f"norm_{name}", size=5, alpha=1e-4, beta=0.75, bias=1.0)
            elif wanted:
                x = add("MaxPool", [x], f"pool_{name}", kernel_shape=[3, 3], strides=[2, 2],
                        ceil_mode=1)
                size = -(-(size - 3) // 2) + 1
    x, width = add("Flatten", [x], "flat"), channels * size * size
    for name, out in DENSE:
        x, width = add("Gemm", [x, *weights(name, out, width)], name, transB=1), out
        if name != DENSE[-1][0]:
            x = add("Relu", [x], f"relu_{name}")
    add("Softmax", [x], "prob", axis=1)
    graph = helper.make_graph(
        nodes, order,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, [batch, CLASSES])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)


def images(batch: int, count: int = SAMPLES, seed: int = 1) -> np.ndarray:
    """Return smooth random images, fp32 [count, batch, 3, 227, 227], about -120 to 130."""
    coarse = np.random.default_rng(seed).uniform(-120, 130, (count, batch, 3, 15, 15))
    fine = coarse.repeat(16, axis=3).repeat(16, axis=4)[..., :SIZE, :SIZE]
    return fine.astype(np.float32)


def run(folder: Path, batch: int = 1, order: str = "caffenet", device=None,
        precisions=comparison.PRECISIONS) -> list[comparison.Row]:
    """Write the model, pack and measure it; returns a row per precision."""
    folder.mkdir(parents=True, exist_ok=True)
    model, samples = folder / f"{order}.onnx", images(batch)
    write(model, batch, order)
    np.savez(folder / "samples.npz", data=samples)
    expected: list[np.ndarray] = []

    def measure(session: Session) -> dict[str, float]:
        found = session.run({"data": samples[0]})["prob"].astype(np.float64)
        expected.append(found)
        return {"output error": float(np.linalg.norm(found - expected[0])
                                      / np.linalg.norm(expected[0]))}

    return comparison.compare(model, folder / "samples.npz", measure, folder, device, precisions)


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0])
    args = parser.parse_args(argv)
    print(comparison.table(run(args.out, args.batch, args.order, args.device)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
