"""LeNet with a Fastfood layer of 1024 outputs, as edgerun.tools.recipes.fastfood has trained it.

tests/data holds the network, 100 test images of MNIST with their labels, and the logits that
PyTorch computes, so that this runs where PyTorch is not installed.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools import pack

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(DATA / "lenet_fastfood.npz") as arrays:
        return dict(arrays)


def test_its_weights():
    """38,812 beside 1,104 biases, of them 3,072 where LeNet's first dense layer has 400,000."""
    model = onnx.load(DATA / "lenet_fastfood.onnx")
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    biases = sum(size for name, size in sizes.items() if name.endswith("bias"))
    assert (sum(sizes.values()) - biases, biases) == (38_812, 1_104)
    layer, = (node for node in model.graph.node if node.domain == "edgerun")
    assert layer.op_type == "Fastfood" and sum(sizes[name] for name in layer.input[1:4]) == 3_072


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("fp16", 0.05), ("int8", 0.8)])
def test_answers(device, tmp_path, stored, precision, tolerance):
    """Logits as PyTorch's, and as many right answers."""
    images = stored["images"].astype(np.float32)[:, None, None] / 255
    samples, out = tmp_path / "samples.npz", tmp_path / "lenet.edge"
    np.savez(samples, image=images[:50])
    pack(DATA / "lenet_fastfood.onnx", out, precision,
         calibration=samples if precision == "int8" else None)
    with Session(loader.read(out), device) as session:
        logits = np.concatenate([session.run({"image": image})["logits"] for image in images])
    assert np.abs(logits - stored["logits"]).max() <= tolerance
    right = (logits.argmax(1) == stored["labels"]).sum()
    expected = (stored["logits"].argmax(1) == stored["labels"]).sum()
    assert expected >= 97 and abs(right - expected) <= (precision == "int8")
