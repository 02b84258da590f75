"""Accuracy of the four MLPerf Tiny tasks over real data, float and quantized models."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools.pack import pack

POINTS = 0.2  # percentage points by which an accuracy may differ from the reference runtime's
# model -> percent right in LiteRT over the same data; its score for the anomaly detectors
ACCURACY = {"ic01_resnet8_fp32": 76.4, "ic01_resnet8_int8": 76.1, "kws01_dscnn_fp32": 90.6,
            "kws01_dscnn_int8": 90.6, "vww01_mbv1_96_fp32": 94.3, "vww01_mbv1_96_int8": 96.2}
SCORE = {"ad01_fc_ae_fp32": 9.7071, "ad01_fc_ae_int8": 10.2652}
FRAMES, MELS = 5, 128  # of a window of the anomaly detector


def _session(device, shared_data, tmp_path, name: str) -> Session:
    pack(shared_data / "models" / "tflite" / f"{name}.tflite", tmp_path / "m.edge")
    return Session(loader.read(tmp_path / "m.edge"), device)


def _images(file: str, scale: float) -> Callable:
    def load(shared_data, integers: bool) -> tuple[np.ndarray, np.ndarray]:
        with np.load(shared_data / "datasets" / file) as data:
            images, labels = data["images"], data["labels"]
        if integers:
            return (images.astype(np.int16) - 128).astype(np.int8), labels
        return images.astype(np.float32) * np.float32(scale), labels
    return load


def _features(shared_data, integers: bool) -> tuple[np.ndarray, np.ndarray]:
    with np.load(shared_data / "datasets" / "kws01_mfcc_int8_A.npz") as data:
        features, labels = data["features"], data["labels"]
    if integers:
        return features, labels
    return ((features.astype(np.float32) - 83) * np.float32(0.584703)), labels


DATA = {"ic01": _images("cifar10_test_A.npz", 1.0), "vww01": _images("vww_proxy_A.npz", 1 / 255),
        "kws01": _features}


@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy(device, shared_data, tmp_path, name):
    samples, labels = DATA[name.split("_")[0]](shared_data, name.endswith("int8"))
    with _session(device, shared_data, tmp_path, name) as session:
        info = session.inputs[0]
        right = 0
        for sample, label in zip(samples, labels):
            (output,) = session.run({info.name: sample.reshape(info.shape)}).values()
            right += int(output.argmax() == label)
    # the reference is rounded to a tenth of a point
    assert abs(100 * right / len(labels) - ACCURACY[name]) <= POINTS + 0.05, f"{right} right"


@pytest.mark.parametrize("name", SCORE)
def test_anomaly_score(device, shared_data, tmp_path, name):
    """Mean squared error of an autoencoder over the windows of one recording."""
    mels = np.fromfile(shared_data / "datasets" / "ad01_normal_id_01_00000000_hist_librosa.bin",
                       "<f4").reshape(-1, MELS)
    windows = [mels[i:i + FRAMES].reshape(1, -1) for i in range(len(mels) - FRAMES + 1)]
    with _session(device, shared_data, tmp_path, name) as session:
        (i,), (o,) = session.inputs, session.outputs
        errors = []
        for window in windows:
            given = window
            if i.dtype == np.int8:
                given = np.clip(np.rint(window / i.scale) + i.zero_point, -128, 127)
            found = session.run({i.name: given.astype(i.dtype)})[o.name].astype(np.float32)
            if o.dtype == np.int8:
                found = (found - o.zero_point) * np.float32(o.scale)
            errors.append(np.square(found - window).mean())
    assert len(windows) == 196
    assert abs(np.mean(errors) / SCORE[name] - 1) <= POINTS / 100
