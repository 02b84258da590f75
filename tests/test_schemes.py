"""Networks that quantization schemes trained, packed as bit planes, answer as PyTorch did.

tests/torch_schemes.py wrote them: the ONNX that the trainer exports, images, PyTorch's logits.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack

FILE = Path(__file__).parent / "data" / "schemes.npz"
# ops that compute the two middle layers, and the planes (or pairs) of the first of them
OPS = {
    "xnor": ("xnor_conv2d", "xnor_dense", 1),
    "dorefa": ("planes_conv2d", "planes_dense", 2),
    "twn": ("planes_conv2d", "planes_dense", 1),
    "inq": ("planes_conv2d", "planes_dense", 5),
}


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    with np.load(FILE) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("scheme", OPS)
def test_packed_network_answers_as_trained(scheme, given, device, tmp_path):
    source, file = tmp_path / "m.onnx", tmp_path / "m.edge"
    source.write_bytes(given[f"{scheme}.onnx"].tobytes())
    pack(source, file)
    model = loader.read(file)
    conv, dense, planes = OPS[scheme]
    codes = [op.code for op in model.ops]
    assert conv in codes and dense in codes and "conv2d" not in codes and "dense" not in codes
    with Session(model, device) as session:
        if conv == "planes_conv2d":
            assert list(session.planes.values())[1] == planes
        found = np.concatenate([session.run({"image": image[None]})["logits"]
                                for image in given["images"].astype(np.float32) / 255])
    wanted = given[f"{scheme}.logits"]
    # a value in the middle between two integers may fall to either side, and +1 become -1
    near = np.abs(found - wanted).max(1) <= 0.02 * np.abs(wanted).max()
    assert near.mean() >= 0.95, np.abs(found - wanted).max(1)
    assert (found.argmax(1) == wanted.argmax(1))[near].all()
