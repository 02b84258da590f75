"""A convolutional recurrent network as PyTorch exports it, against what PyTorch computes.

`tests/data` holds both, so that this runs where PyTorch is not installed; tests/torch_modules.py
writes them, and tests/tools/test_pytorch.py exports the network again where it is.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun import loader
from edgerun.session import Session
from edgerun.tools import pack

DATA = Path(__file__).parent / "data"
SHAPE = (1, 1, 96, 1366)


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("fp16", 2e-2)])
def test_crnn_of_pytorch(device, tmp_path, precision, tolerance):
    out = tmp_path / "crnn.edge"
    report = pack(DATA / "crnn.onnx", out, precision=precision)
    assert report.proven
    with np.load(DATA / "crnn.npz") as stored, Session(loader.read(out), device) as session:
        info, = session.inputs
        assert (info.name, info.shape) == ("x", SHAPE)
        for seed, expected in enumerate(stored["tags"]):
            x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
            y, = session.run({"x": x}).values()
            assert y.shape == expected.shape == (1, 50)
            assert np.ptp(expected) > 0.3
            assert np.abs(y - expected).max() <= tolerance
