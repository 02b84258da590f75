"""Top-1 accuracy of real classifiers over real images, in fp32 and fp16."""
from __future__ import annotations

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack
from tests import imagenet

REFERENCE = 0.624  # of the source model in ONNX Runtime, over the same images
LENET = 0.992  # of the source model in OpenCV, over half of MNIST's test set


@pytest.fixture(scope="module")
def samples(shared_data) -> list[tuple[np.ndarray, int]]:
    return imagenet.samples(shared_data)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["onnx/squeezenet_v1.0_dc.onnx",
                                   "caffe/squeezenet_v1.0_dc.prototxt"])
def test_squeezenet_top1(device, shared_data, samples, tmp_path, model, precision):
    assert len(samples) == 500
    pack(shared_data / "models" / model, tmp_path / "m.edge", precision=precision)
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        y = session.outputs[0].name
        right = sum(int(session.run({"data": image})[y].argmax()) == label
                    for image, label in samples)
    assert abs(right / len(samples) - REFERENCE) <= 0.002, f"{right} of {len(samples)}"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_lenet_top1(device, shared_data, tmp_path, precision):
    pack(shared_data / "models" / "caffe" / "lenet_mnist.prototxt", tmp_path / "m.edge",
         precision=precision)
    with np.load(shared_data / "datasets" / "mnist_test_A.npz") as data:
        images, labels = data["images"], data["labels"]
    assert len(images) == 5000
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        right = sum(int(session.run({"data": np.float32(image[None, None]) / 256})["prob"].argmax())
                    == label for image, label in zip(images, labels))
    assert abs(right / len(images) - LENET) <= 0.001, f"{right} of {len(images)}"
