"""A trained network of two precisions in one file: each is what was trained, and itself alone.

tests/data/dual_precision.* are of tools/recipes/dual_precision.py: 100 test images of
Fashion-MNIST, what PyTorch answers in each precision, and the labels.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerun import arrays, loader
from edgerun.model import Model
from edgerun.session import Session
from edgerun.tools.pack import pack

DATA = Path(__file__).parent / "data"
MODES = {"least": 2, "low": 4, "high": 8}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return arrays.read_npz(DATA / "dual_precision.npz")


@pytest.fixture(scope="module")
def images(golden) -> np.ndarray:
    return golden["images"][:, None, None].astype(np.float32) / 255


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Model]:
    """The network with all modes, with two of them, and with each alone."""
    folder, found = tmp_path_factory.mktemp("dual"), {}
    for name, modes in {"all": MODES, "both": {"low": 4, "high": 8}, "low": {"low": 4},
                        "high": {"high": 8}}.items():
        pack(DATA / "dual_precision.onnx", folder / f"{name}.edge", modes=modes)
        found[name] = loader.read(folder / f"{name}.edge")
    return found


def logits(session: Session, images: np.ndarray) -> np.ndarray:
    return np.concatenate([session.run({"image": image})["logits"] for image in images])


def test_every_precision_answers_as_it_was_trained(device, files, golden, images):
    with Session(files["all"], device) as session:
        for number, mode in enumerate(MODES):
            session.set_precision(mode)
            found, wanted = logits(session, images), golden["logits"][number]
            assert (found.argmax(1) == golden[mode]).all(), mode
            assert np.abs(found - wanted).max() < 5e-3 * np.abs(wanted).max(), mode
    right = {mode: (golden[mode] == golden["labels"]).sum() for mode in MODES}
    assert len({golden[mode].tobytes() for mode in MODES}) == 3  # images that tell them apart
    assert right["least"] < min(right["low"], right["high"])


def test_a_thousand_switches_equal_two_files(device, files, images):
    """Seeds of the research systems, 2.3 A1: bit for bit, whatever ran before."""
    wanted = {}
    for name in ("low", "high"):
        with Session(files[name], device) as session:
            wanted[name] = logits(session, images)
    assert (wanted["low"] != wanted["high"]).any()
    with Session(files["both"], device) as session:
        for number in range(1000):
            mode, image = ("low", "high")[number % 2], number // 2 % len(images)
            session.set_precision(mode)
            assert (session.run({"image": images[image]})["logits"]
                    == wanted[mode][image]).all(), number


def constants(model: Model, dtype: str | None = None) -> int:
    return sum(tensor.bytes for tensor in model.tensors
               if tensor.constant and dtype in (None, tensor.dtype))


def test_two_precisions_share_their_planes(files):
    """The low one is a prefix of the planes; beside them, it adds its scales and biases: under 2 %.

    Offsets are the mean of what rounding down takes, which the file does not hold.
    """
    both, high, low = (files[name] for name in ("both", "high", "low"))
    assert constants(both, "bits") == constants(high, "bits") == constants(low, "bits")
    channels = 16 + 32 + 64 + 10
    assert constants(both) - constants(high) == 2 * 4 * channels
    assert (constants(both), constants(high)) == (57_376, 56_400)
    assert constants(both) < 1.02 * constants(high)
    assert len(both.data) < 1.02 * len(high.data)
