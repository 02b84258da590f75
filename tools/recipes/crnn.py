r"""A convolutional recurrent network for music tagging beside what PyTorch computes with it.

    python -m edgerun.tools.recipes.crnn --model tests/data/crnn.onnx \
        --expected tests/data/crnn.npz --out DIR --results docs/research

After Choi et al., "Convolutional recurrent neural networks for music classification", 2016. The
.npz file holds `tags` [N, 1, 50]: what PyTorch gives for standard normal inputs of the seeds 0 to
N - 1; `python -m tests.torch_modules` writes it and the model.
"""
from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgerun import arrays
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.recipes import comparison, results

SHAPE = (1, 1, 96, 1366)  # log-mel spectrogram: 96 bands, 29 s
CALIBRATION = 4  # inputs, of other seeds than those compared
COMMAND = ("python -m edgerun.tools.recipes.crnn --model tests/data/crnn.onnx --expected "
           "tests/data/crnn.npz --out DIR --results docs/research")


def spectrogram(seed: int) -> np.ndarray:
    """Return a random input, fp32 [1, 1, 96, 1366]."""
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def parameters(model: Path) -> int:
    """Return the number of real numbers in an ONNX file's constants."""
    return sum(array.size for array in map(numpy_helper.to_array,
                                           onnx.load(model).graph.initializer)
               if array.dtype.kind == "f")


def run(model: Path, expected: np.ndarray, folder: Path, device: Device) -> list[comparison.Row]:
    """Pack the model in every precision; returns a row each with the largest difference."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays.write_npz(folder / "samples.npz", {"x": np.stack([
        spectrogram(len(expected) + i) for i in range(CALIBRATION)])})

    def measure(session: Session) -> dict[str, float]:
        found = [session.run({"x": spectrogram(seed)})["tags"] for seed in range(len(expected))]
        return {"largest difference": float(np.abs(np.stack(found) - expected).max())}

    return comparison.compare(model, folder / "samples.npz", measure, folder, device)


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="ONNX", type=Path)
    parser.add_argument("--expected", required=True, metavar="NPZ", type=Path)
    results.add_argument(parser)
    args = parser.parse_args(argv)
    started, device = time.perf_counter(), Device(args.device)
    expected = arrays.read_npz(args.expected)["tags"]
    rows = run(args.model, expected, args.out, device)
    print(comparison.table(rows))
    results.write(
        args.results, "crnn", command=COMMAND, seeds=range(len(expected)),
        minutes=(time.perf_counter() - started) / 60, threads=device.info.compute_units,
        device=device.info.platform,
        ours=[{"precision": row.precision, "parameters": parameters(args.model),
               "weights KiB": row.weight_bytes / 1024, "arena KiB": row.arena_bytes / 1024,
               "largest difference from PyTorch": row.metrics["largest difference"]}
              for row in rows],
        published=[{"precision": "fp32", "parameters": 396_786, "ROC-AUC": 0.8662,
                    "source": "the authors' repository, on the Million Song Dataset"}],
        differs=["a quarter of the channels, and random weights: the data set is not available, so "
                 "there is no ROC-AUC of ours",
                 "the gates of the GRUs are PyTorch's, with the exact sigmoid"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
