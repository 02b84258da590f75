"""One conversion, in a process of its own: python -m edgerun.tools.compare.convert '{"kind": ...}'.

A request holds the kind, the file to write ("out") and what that kind needs; a file appears whole
or not at all.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgerun import arrays
from edgerun.errors import EdgerunError

SAMPLES = 4


def _random(shape: Sequence[int], dtype: np.dtype, count: int, random: np.random.Generator
            ) -> np.ndarray:
    """Return samples of an input: normal for floats, the whole range for bytes, else zeros."""
    shape = (count, *(1 if n < 1 else n for n in shape))
    if dtype.kind == "f":
        return random.standard_normal(shape, np.float32).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return np.zeros(shape, dtype)


def inputs(request: dict[str, str]) -> None:
    """Write random inputs of a model, and whether it is quantized."""
    from edgerun.tools.pack import import_model
    from edgerun.tools.quantize import quantized
    graph = import_model(request["source"])
    random = np.random.default_rng(1)
    samples = {b.name: _random(b.shape, _numpy(b.dtype), SAMPLES, random) for b in graph.inputs}
    arrays.write_npz(request["samples"], samples)
    arrays.write_npz(request["inputs"], {name: array[0] for name, array in samples.items()})
    _write(request["out"], lambda path: path.write_text(json.dumps(
        {"quantized": bool(quantized(graph))})))


def _numpy(name: str) -> np.dtype:
    from edgerun import dtypes
    return np.dtype(dtypes.numpy_dtype(name))


def network(request: dict[str, str]) -> None:
    """Write one of the networks as ONNX."""
    from edgerun.tools import networks
    _write(request["out"], lambda path: networks.write(request["name"], path))


def pack(request: dict[str, str]) -> None:
    """Pack for edgerun."""
    from edgerun.tools.pack import CALIBRATED, pack as pack_model
    precision = request["precision"]
    calibration = request["samples"] if precision in CALIBRATED else None
    pack_model(request["source"], request["out"], precision, calibration=calibration)


def qdq(request: dict[str, str]) -> None:
    """Quantize for ONNX Runtime and OpenVINO."""
    import onnx
    from edgerun.tools.networks.qdq import quantized
    model = quantized(onnx.load(request["source"]), arrays.read_npz(request["samples"]))
    _write(request["out"], lambda path: onnx.save(model, path))


def mnn(request: dict[str, str]) -> None:
    """Convert for MNN, by the extension module of its wheel.

    Its Python command line is not used: importing MNN.tools installs a package by itself and
    reports what is converted to a server.
    """
    import _tools
    kind = "ONNX" if request["source"].endswith(".onnx") else "TFLITE"
    _write(request["out"], lambda path: _tools.mnnconvert([
        "mnnconvert", "-f", kind, "--modelFile", request["source"], "--MNNModel", str(path),
        "--bizCode", "edgerun"]))


def ncnn(request: dict[str, str]) -> None:
    """Convert for ncnn, by pnnx."""
    command = shutil.which("pnnx", path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if command is None:
        raise EdgerunError("pnnx, the converter, is missing: pip install pnnx")
    shapes = ",".join(json.dumps(list(array.shape)).replace(" ", "")
                      for array in arrays.read_npz(request["inputs"]).values())
    out = Path(request["out"])
    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copy(request["source"], Path(folder, "model.onnx"))
        subprocess.run([command, source, f"inputshape={shapes}", "fp16=0"], cwd=folder, check=True,
                       capture_output=True)
        _write(out.with_suffix(".bin"), lambda p: shutil.copy(Path(folder, "model.ncnn.bin"), p))
        _write(out, lambda path: shutil.copy(Path(folder, "model.ncnn.param"), path))


def _write(out: str | Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a temporary file beside `out`, then rename it."""
    out = Path(out)
    temporary = out.with_name(f"tmp{os.getpid()}-{out.name}")
    try:
        make(temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


KINDS = {"inputs": inputs, "network": network, "pack": pack, "qdq": qdq, "mnn": mnn, "ncnn": ncnn}


def main() -> int:
    """Run the request of the command line; returns the exit status."""
    request = json.loads(sys.argv[1])
    try:
        KINDS[request["kind"]](request)
    except Exception as error:  # whatever a converter raises becomes a line of the table
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
