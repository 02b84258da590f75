"""Degrees Celsius to Fahrenheit by one neuron, F = 1.8 C + 32, in four precisions.

    python -m edgerun.tools.recipes.celsius --out DIR

The smallest model there is shows what a precision does to numbers of a wide range: -273 to 999.
After the first of the worked examples in Tschopp, "Tuning of mixture-of-experts mixed-precision
neural networks", 2022.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerun.session import Session
from edgerun.tools.recipes import comparison

LOW, HIGH = -273, 999  # degrees Celsius
NAME = "celsius"


def celsius() -> np.ndarray:
    """Return every whole temperature, fp32 [1273, 1]."""
    return np.arange(LOW, HIGH + 1, dtype=np.float32)[:, None]


def fahrenheit(c: np.ndarray) -> np.ndarray:
    """Return degrees Fahrenheit, fp64."""
    return 1.8 * c.astype(np.float64) + 32


def fit() -> tuple[float, float]:
    """Return weight and bias of the neuron, by least squares over the data."""
    c = celsius().astype(np.float64)
    found = np.linalg.lstsq(np.hstack([c, np.ones_like(c)]), fahrenheit(c), rcond=None)[0]
    return float(found[0, 0]), float(found[1, 0])


def write(path: Path) -> None:
    """Write the neuron as ONNX: c [1273, 1] -> f [1273, 1]."""
    weight, bias = fit()
    count = HIGH - LOW + 1
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["c", "w", "b"], ["f"])], NAME,
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [count, 1])],
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [count, 1])],
        [numpy_helper.from_array(np.array([[weight]], np.float32), "w"),
         numpy_helper.from_array(np.array([bias], np.float32), "b")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)


def measure(session: Session) -> dict[str, float]:
    """Return the mean and the largest error in degrees Fahrenheit."""
    error = np.abs(session.run({"c": celsius()})["f"].astype(np.float64) - fahrenheit(celsius()))
    return {"mean error F": float(error.mean()), "largest error F": float(error.max())}


def run(folder: Path, device=None) -> list[comparison.Row]:
    """Write the model, pack and measure it; returns a row per precision."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{NAME}.onnx")
    np.savez(folder / "samples.npz", c=celsius()[None])
    return comparison.compare(folder / f"{NAME}.onnx", folder / "samples.npz", measure, folder,
                              device)


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    args = comparison.parser(__doc__).parse_args(argv)
    print(comparison.table(run(args.out, args.device)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
