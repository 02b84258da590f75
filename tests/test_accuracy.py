"""Top-1 accuracy of a real classifier over 500 real images, in fp32 and fp16."""
from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack

REFERENCE = 0.624  # of the source model in ONNX Runtime, over the same images
MEAN_BGR = np.float32([104, 117, 123])


@pytest.fixture(scope="module")
def samples(shared_data) -> list[tuple[np.ndarray, int]]:
    """Images as the network wants them ([1, 3, 227, 227], BGR minus the mean), with their class."""
    folder = shared_data / "datasets" / "imagenet_A"
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        image = np.asarray(Image.open(folder / row["file"]).convert("RGB"), np.float32)
        top, left = (image.shape[0] - 227) // 2, (image.shape[1] - 227) // 2
        crop = image[top:top + 227, left:left + 227, ::-1] - MEAN_BGR
        found.append((np.ascontiguousarray(crop.transpose(2, 0, 1))[None],
                      int(row["class_index_0_999"])))
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_squeezenet_top1(device, shared_data, samples, tmp_path, precision):
    assert len(samples) == 500
    pack(shared_data / "models" / "onnx" / "squeezenet_v1.0_dc.onnx", tmp_path / "m.edge",
         precision=precision)
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        right = sum(int(session.run({"data": image})["logits"].argmax()) == label
                    for image, label in samples)
    assert abs(right / len(samples) - REFERENCE) <= 0.002, f"{right} of {len(samples)}"
