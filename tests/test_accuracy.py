"""Top-1 accuracy of a real classifier over 500 real images, in fp32 and fp16."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack
from tests import imagenet

REFERENCE = 0.624  # of the source model in ONNX Runtime, over the same images


@pytest.fixture(scope="module")
def samples(shared_data) -> list[tuple[np.ndarray, int]]:
    return imagenet.samples(shared_data)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_squeezenet_top1(device, shared_data, samples, tmp_path, precision):
    assert len(samples) == 500
    pack(shared_data / "models" / "onnx" / "squeezenet_v1.0_dc.onnx", tmp_path / "m.edge",
         precision=precision)
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        right = sum(int(session.run({"data": image})["logits"].argmax()) == label
                    for image, label in samples)
    assert abs(right / len(samples) - REFERENCE) <= 0.002, f"{right} of {len(samples)}"
