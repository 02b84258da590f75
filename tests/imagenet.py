"""The shared ImageNet sample as SqueezeNet wants it."""
from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

MEAN_BGR = np.float32([104, 117, 123])
SIZE = 227


def samples(shared_data: Path) -> list[tuple[np.ndarray, int]]:
    """Return 500 images ([1, 3, 227, 227], BGR minus the mean) with their classes."""
    folder = shared_data / "datasets" / "imagenet_A"
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        image = np.asarray(Image.open(folder / row["file"]).convert("RGB"), np.float32)
        top, left = (image.shape[0] - SIZE) // 2, (image.shape[1] - SIZE) // 2
        crop = image[top:top + SIZE, left:left + SIZE, ::-1] - MEAN_BGR
        found.append((np.ascontiguousarray(crop.transpose(2, 0, 1))[None],
                      int(row["class_index_0_999"])))
    return found
