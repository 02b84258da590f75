"""Float models quantized by us from 100 samples, against themselves in fp32 on the same device."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack
from tests import imagenet

CALIBRATION = 100  # samples
FACE_SCORE, FACE_NMS, FACE_SAME = 0.7, 0.3, 0.5

Sample = tuple[np.ndarray, int]


def _imagenet(shared_data) -> tuple[list[np.ndarray], list[Sample]]:
    """Return 100 images for calibration and the other 400 with their classes."""
    samples = imagenet.samples(shared_data)
    return [image for image, _ in samples[::5]], [s for i, s in enumerate(samples) if i % 5]


def _digits(train: str, test: str, scale: float) -> Callable:
    def load(shared_data) -> tuple[list[np.ndarray], list[Sample]]:
        with np.load(shared_data / "datasets" / train) as data:
            images = data["images"][:CALIBRATION]
        with np.load(shared_data / "datasets" / test) as data:
            tested, labels = data["images"], data["labels"]

        def given(image: np.ndarray) -> np.ndarray:
            return image[None, None].astype(np.float32) * np.float32(scale)

        return [given(i) for i in images], [(given(i), int(n)) for i, n in zip(tested, labels)]
    return load


# model -> samples, and percentage points of the accuracy that a precision may cost
MODELS = {
    "squeezenet_v1.0_dc": (_imagenet, {"int8": 1.0, "int16": 0.2, "fp16": 0.2}),
    "fashion_mnist_cnn": (_digits("fashion_mnist_train_20k.npz", "fashion_mnist_test_A.npz",
                                  1 / 255), {"int8": 0.3, "int16": 0.05}),
    "mnist_cntk_op13": (_digits("mnist_train.npz", "mnist_test_A.npz", 1.0),
                        {"int8": 0.3, "int16": 0.05}),
}


def _right(session: Session, samples: list[Sample]) -> int:
    name = session.inputs[0].name
    return sum(int(next(iter(session.run({name: image}).values())).argmax()) == label
               for image, label in samples)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MODELS)
def test_classifier(device, shared_data, tmp_path, name):
    load, allowed = MODELS[name]
    calibration, samples = load(shared_data)
    model = shared_data / "models" / "onnx" / f"{name}.onnx"
    ranges = tmp_path / "fp32.edge"
    right = {}
    with Session(_calibrated(model, ranges, calibration, device), device) as session:
        right["fp32"] = _right(session, samples)
    for precision in allowed:
        pack(model, tmp_path / "m.edge", precision,
             calibration=None if precision == "fp16" else ranges)
        with Session(loader.read(tmp_path / "m.edge"), device) as session:
            right[precision] = _right(session, samples)
    print(name, right, len(samples))
    for precision, points in allowed.items():
        lost = 100 * (right["fp32"] - right[precision]) / len(samples)
        assert lost <= points + 1e-9, f"{precision} loses {lost:.2f} points: {right}"


def _calibrated(model: Path, file: Path, samples: list[np.ndarray], device):
    """Pack in fp32 with the ranges of the samples; returns the loaded file."""
    import onnx
    name = onnx.load(model, load_external_data=False).graph.input[0].name
    np.savez(file.with_suffix(".npz"), **{name: np.stack(samples)})
    pack(model, file, "fp32", calibration=file.with_suffix(".npz"), device=device)
    return loader.read(file)


def _faces(session: Session, image: np.ndarray) -> np.ndarray:
    """Return the boxes of faces, fp64 [N, 4] (left, top, right, bottom in 0..1)."""
    found = session.run({"input": image})
    scores, boxes = found["scores"][0, :, 1], found["boxes"][0].astype(np.float64)
    kept: list[np.ndarray] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= FACE_SCORE:
            break
        if all(_overlap(boxes[index], other) <= FACE_NMS for other in kept):
            kept.append(boxes[index])
    return np.array(kept).reshape(-1, 4)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared + 1e-12))


def _matched(a: np.ndarray, b: np.ndarray) -> int:
    """Number of boxes of a that have a partner of their own in b."""
    free, count = list(range(len(b))), 0
    for box in a:
        best = max(free, key=lambda k: _overlap(box, b[k]), default=None)
        if best is not None and _overlap(box, b[best]) >= FACE_SAME:
            free.remove(best)
            count += 1
    return count


@pytest.mark.timeout(900)
def test_face_detector(device, shared_data, tmp_path):
    def given(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB").resize((320, 240), Image.Resampling.BILINEAR)
        return ((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1)[None]

    datasets = shared_data / "datasets"
    faces = [given(path) for path in sorted((datasets / "faces_A").glob("*.jpg"))]
    others = sorted((datasets / "imagenet_A").glob("*.jpg"))[::5]
    # photos with faces among others: a detector's scores must have been seen
    calibration = faces[::3] + [given(p) for p in others[:CALIBRATION - len(faces[::3])]]
    tested = [image for i, image in enumerate(faces) if i % 3]
    model = shared_data / "models" / "onnx" / "ultraface_RFB-320.onnx"
    with Session(_calibrated(model, tmp_path / "fp32.edge", calibration, device),
                 device) as session:
        expected = [_faces(session, image) for image in tested]
    pack(model, tmp_path / "m.edge", "int8", calibration=tmp_path / "fp32.npz",
         improve=("equalize", "correct-bias"), device=device)
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        found = [_faces(session, image) for image in tested]
    same = sum(_matched(a, b) for a, b in zip(expected, found))
    most = max(sum(map(len, expected)), sum(map(len, found)))
    print("faces", same, sum(map(len, expected)), sum(map(len, found)))
    assert most > 100 and same >= 0.98 * most
