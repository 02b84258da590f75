"""Well-known networks as shapes with random weights: what speed is measured on.

    from edgerun.tools import networks
    networks.NAMES                                    # resnet18, mobilenetv2, squeezenet, ...
    model = networks.build("resnet18")                # onnx.ModelProto, fp32, input 1x3x224x224
    model = networks.build("resnet18", size=64)       # the same layers on a smaller image
    networks.write("resnet18", "resnet18.onnx")       # build and save
    networks.write("resnet18", "resnet18_qdq.onnx", "int8")     # int8 for ONNX Runtime, OpenVINO
    networks.write("resnet18", "resnet18.edge", "int8")         # packed: fp32, fp16, int16, int8
    networks.samples("resnet18", 4)                   # {"image": fp32 [4, 1, 3, 224, 224]}

On the command line: python -m edgerun.tools.networks resnet18 -o resnet18.onnx [--precision int8].

Weights are random, but seeded and scaled so that activations keep their size: speed does not depend
on them, and outputs of different runtimes can be compared. The shapes are in shapes.py, the layers
they consist of in layers.py. Batch normalization is folded. Models are NCHW, opset 17.
"""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx

from edgerun.arrays import write_npz
from edgerun.errors import InputError
from edgerun.tools.networks.layers import to_onnx
from edgerun.tools.networks.shapes import NETWORKS, Network

NAMES = tuple(NETWORKS)
PRECISIONS = ("fp32", "fp16", "int16", "int8")
CALIBRATION = 4  # samples: enough for ranges of random networks


def _find(name: str) -> Network:
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is not known, needed one of {', '.join(NAMES)}")
    return NETWORKS[name]


def shape_of(name: str, size: int | None = None) -> tuple[int, ...]:
    """Return the shape of a network's input, for an image of another height and width if given."""
    shape = _find(name).shape
    return shape if size is None or len(shape) == 2 else (*shape[:2], size, size)


def build(name: str, size: int | None = None, seed: int = 0) -> onnx.ModelProto:
    """Return a network as an fp32 ONNX model with random weights.

    Args:
        name: one of NAMES.
        size: height and width of the image; default that of the paper.
        seed: of the weights.

    Raises:
        InputError: there is no such network, or the image is too small for it.
    """
    try:
        return to_onnx(name, _find(name).layers, shape_of(name, size), seed)
    except ValueError as error:
        raise InputError(f"network {name!r} of size {size}: {error}") from None


def samples(name: str, count: int, size: int | None = None, seed: int = 1
            ) -> dict[str, np.ndarray]:
    """Return `count` random inputs with mean 0 and deviation 1: {"image": fp32 [count, ...]}."""
    shape = (count, *shape_of(name, size))
    return {"image": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def write(name: str, out: str | os.PathLike, precision: str = "fp32", size: int | None = None,
          device: str | int | None = None) -> None:
    """Build a network and write it as .onnx, or packed as .edge.

    Args:
        name: one of NAMES.
        out: file to write. An .onnx of int8 is a QDQ model for other runtimes: signed weights
            per channel, unsigned activations.
        precision: of PRECISIONS; for .onnx fp32 or int8.
        size: height and width of the image; default that of the paper.
        device: where an int8 or int16 .edge is calibrated; as for edgerun.load().

    Raises:
        InputError: an argument is wrong.
    """
    out = Path(out)
    allowed = {".onnx": ("fp32", "int8"), ".edge": PRECISIONS}.get(out.suffix)
    if allowed is None:
        raise InputError(f"{out}: needed a name that ends in .onnx or .edge")
    if precision not in allowed:
        raise InputError(f"{out}: precision {precision!r}, needed one of {', '.join(allowed)}")
    model = build(name, size)
    if out.suffix == ".onnx" and precision == "fp32":
        onnx.save(model, out)
    elif out.suffix == ".onnx":
        from edgerun.tools.networks.qdq import quantized
        onnx.save(quantized(model, samples(name, CALIBRATION, size)), out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, f"{name}.onnx")
            onnx.save(model, source)
            pack_as(source, out, precision, samples(name, CALIBRATION, size), device)


def pack_as(source: str | os.PathLike, out: str | os.PathLike, precision: str,
            given: dict[str, np.ndarray], device: str | int | None = None) -> None:
    """Pack a float model in a precision; `given` (name -> samples) calibrates integers."""
    from edgerun.tools.pack import pack
    if precision in ("fp32", "fp16"):
        pack(source, out, precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "samples.npz")
        write_npz(path, given)
        pack(source, out, precision, calibration=path, device=device)
