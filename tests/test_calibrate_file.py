"""Ranges in model files: written, read back, used again, and refused where they are wrong."""
from __future__ import annotations

import re
from dataclasses import asdict

import numpy as np
import pytest

from edgerun import loader
from edgerun.errors import InputError, ModelError
from edgerun.tools.calibrate import from_path, open_samples, ranges_of
from edgerun.tools.pack import pack
from tests import models
from tests.mutate import changed
from tests.test_cli import X, call, fails, usage, write_onnx


@pytest.fixture
def source(tmp_path):
    return write_onnx(tmp_path / "tiny.onnx")


@pytest.fixture
def samples(tmp_path):
    """40 samples of x [2, 3] from -8 to 4; relu(x + shift) reaches 7, at shift 3."""
    np.savez(tmp_path / "in.npz", x=np.stack([X / (i + 1) for i in range(40)]))
    return tmp_path / "in.npz"


@pytest.fixture
def calibrated(source, samples, tmp_path, device):
    pack(source, tmp_path / "fp32.edge", calibration=samples, device=device.info.platform)
    return tmp_path / "fp32.edge"


def refuses(sentence: str, call, *args, **options) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        call(*args, **options)


def test_a_float_file_keeps_the_ranges(calibrated):
    found = ranges_of(calibrated)
    assert (found.observer, found.samples, found.observations) == ("minmax", 40, {})
    shifted = np.stack([X / np.float32(i + 1) for i in range(40)]) + models.SHIFT
    expected = {"x": (-8, 4), "shifted": (0, shifted.max())}  # the clamp is fused
    for name, ends in expected.items():
        entry = found.ranges[name]
        assert (entry.low, entry.high) == pytest.approx(ends)
        assert found.range(name, 8) == found.range(name, 16) == pytest.approx(ends)
    model = loader.read(calibrated)
    assert model.ranges == tuple(found.ranges.values())
    assert (model.observer, model.samples) == ("minmax", 40)


def test_info_tells_of_the_ranges(capsys, calibrated, tmp_path):
    count = len(ranges_of(calibrated).ranges)
    status, out, _ = call(capsys, "info", calibrated)
    assert status == 0 and f"calibrated     {count} ranges by minmax of 40 samples" in out
    assert "calibrated" not in call(capsys, "info", models.shift_relu(tmp_path / "no.edge"))[1]


def test_every_kind_of_file_comes_from_one_calibrated_file(source, samples, calibrated, tmp_path,
                                                           device):
    where = device.info.platform
    for precision in ("fp16", "int8", "int16"):
        pack(source, tmp_path / "new.edge", precision, calibration=samples, device=where)
        pack(source, tmp_path / "again.edge", precision, calibration=calibrated)
        assert (tmp_path / "new.edge").read_bytes() == (tmp_path / "again.edge").read_bytes()
    pack(source, tmp_path / "new.edge", "fp32")
    with pytest.raises(InputError, match="holds no ranges"):
        ranges_of(tmp_path / "new.edge")


def test_what_a_model_file_cannot_answer(source, calibrated, tmp_path):
    refuses(f"{calibrated}: has ranges for 8 and 16 bits, not for 4: calibrate from samples",
            ranges_of(calibrated).range, "x", 4)
    refuses(f"{calibrated}: has no range of the tensor 'z': was it calibrated from this model?",
            ranges_of(calibrated).range, "z", 8)
    out = tmp_path / "out.edge"
    refuses(f"{calibrated}: holds ranges, not samples: neither a preprocessing line nor a number "
            "of samples applies", pack, source, out, calibration=calibrated, samples=3)
    refuses(f"{calibrated}: holds ranges, not samples: neither a preprocessing line nor a number "
            "of samples applies", pack, source, out, calibration=calibrated, preprocess="crop=none")
    refuses(f"{calibrated}: was calibrated with the observer minmax; kl needs samples",
            pack, source, out, calibration=calibrated, observer="kl")
    pack(source, out, calibration=calibrated, observer="minmax")
    out.unlink()
    refuses(f"{calibrated}: is a model file, which holds ranges but no samples: needed an .npz "
            "file or a folder of images", open_samples, None, calibrated)
    empty = models.shift_relu(tmp_path / "empty.edge")
    refuses(f"{empty}: holds no ranges, needed a file that was packed with --calibration and "
            "samples", pack, source, out, "int8", calibration=empty)
    other = write_onnx(tmp_path / "other.onnx", name="image")
    refuses(f"{calibrated}: has no range of the tensor 'image' (1 are missing): was it calibrated "
            "from this model, with the inputs 'image' (2, 3) float32?",
            pack, other, out, "int8", calibration=calibrated)
    with pytest.raises(ModelError, match="cannot be read"):
        pack(source, out, "int8", calibration=tmp_path / "none.edge")
    (tmp_path / "text.edge").write_text("hello, I am no model")
    with pytest.raises(ModelError, match="it is not an edgerun model"):
        pack(source, out, "int8", calibration=tmp_path / "text.edge")
    assert not out.exists()


def test_what_pack_refuses(source, tmp_path):
    out = tmp_path / "out.edge"
    for precision in ("int8", "int16"):
        refuses(f"precision {precision} needs the range of every tensor: give samples, images, or "
                "a file that was calibrated (--calibration)", pack, source, out, precision)
    for option in ({"observer": "kl"}, {"samples": 3}, {"preprocess": "size=3"}):
        refuses("a preprocessing line, an observer or a number of samples says how to calibrate: "
                "needed calibration data too (--calibration)", pack, source, out, **option)
    np.savez(tmp_path / "in.npz", x=X)
    refuses("observer 'best' is not available, needed one of minmax, moving-average, percentile, "
            "mse, kl", pack, source, out, calibration=tmp_path / "in.npz", observer="best")
    assert not out.exists()


# the command line

def test_the_command_line(capsys, source, samples, tmp_path, device):
    fp32, int8 = tmp_path / "fp32.edge", tmp_path / "int8.edge"
    status, out, err = call(capsys, "pack", source, "-o", fp32, "--calibration", samples,
                            "--observer", "mse", "--samples", "10", "--device",
                            device.info.platform)
    assert (status, err) == (0, "")
    assert (f"note: {samples}: 10 samples to calibrate with: too small, ranges are reliable from "
            "32 on, and 100 are usual") in out
    assert (ranges_of(fp32).observer, ranges_of(fp32).samples) == ("mse", 10)
    status, out, _ = call(capsys, "pack", source, "-o", int8, "--precision", "int8",
                          "--calibration", fp32)
    assert status == 0 and "precision  int8" in out and int8.exists()


def test_bad_data_on_the_command_line_leave_nothing(capsys, source, tmp_path, device):
    out = tmp_path / "out.edge"
    tail = "--calibration", tmp_path / "in.npz", "--device", device.info.platform
    for given, sentence in (
            ({"z": X}, "has the arrays 'z', needed 'x' (2, 3) float32"),
            ({"x": X[:, :2]}, "'x' has the shape (2, 2), needed (2, 3), or one more axis of "
             "samples in front of it"),
            ({"x": np.full_like(X, np.nan)}, "'x' holds 6 values of 6 that are not finite numbers"),
            ({"x": X[None][:0]}, "'x' has the shape (0, 2, 3): no samples")):
        np.savez(tmp_path / "in.npz", **given)
        assert fails(capsys, "pack", source, "-o", out, "--precision", "int8", *tail) == \
            f"{tmp_path / 'in.npz'}: {sentence}"
    (tmp_path / "empty").mkdir()
    assert fails(capsys, "pack", source, "-o", out, "--calibration", tmp_path / "empty",
                 "--preprocess", "size").startswith("preprocessing: size has no value")
    assert fails(capsys, "pack", source, "-o", out, "--calibration", tmp_path / "empty") == (
        f"{tmp_path / 'empty'}: has no images, needed files that end in .bmp, .jpeg, .jpg, .pgm, "
        ".png, .ppm, .tif, .tiff, .webp")
    assert not out.exists()


def test_wrong_usage(capsys, source):
    assert "invalid choice: 'best'" in usage(
        capsys, "pack", source, "-o", "b", "--calibration", "a", "--observer", "best")
    assert "--samples" in usage(capsys, "pack", source, "-o", "b", "--calibration", "a",
                                "--samples", "0")


# the validator

@pytest.mark.parametrize("change, sentence", [
    ({"low": np.nan}, "is nan to 4.0, needed finite numbers in order"),
    ({"high": np.inf}, "is -8.0 to inf, needed finite numbers in order"),
    ({"low": 5}, "is 5.0 to 4.0, needed finite numbers in order"),
    ({"low8": -np.inf}, "is -inf to 4.0, needed finite numbers in order, 0 among them"),
    ({"low8": 1}, "is 1.0 to 4.0, needed finite numbers in order, 0 among them"),
    ({"high16": -1}, "is -8.0 to -1.0, needed finite numbers in order, 0 among them"),
    ({"name": "shifted"}, "is given twice"),
    ({"name": "n" * 4097}, "has a name of 4097 characters")])
def test_damaged_ranges_are_refused(calibrated, change, sentence):
    def damage(root, graph):
        next(entry for entry in graph["ranges"] if entry["name"] == "x").update(change)

    data = changed(calibrated.read_bytes(), damage)
    name = change.get("name", "x")[:200]
    with pytest.raises(ModelError, match=re.escape(f"file: the range of '{name}': {sentence}")):
        loader.from_bytes(np.frombuffer(data, np.uint8), "file")


def test_too_many_ranges_are_refused(calibrated, monkeypatch):
    monkeypatch.setattr("edgerun.validate.MAX_TENSORS", 8)

    def damage(root, graph):
        entry = graph["ranges"][0]
        graph["ranges"] = [dict(entry, name=f"t{i}") for i in range(9)]

    data = changed(calibrated.read_bytes(), damage)
    with pytest.raises(ModelError, match="the graph: has 9 ranges, at most 8 are allowed"):
        loader.from_bytes(np.frombuffer(data, np.uint8), "file")


def test_ranges_survive_taking_the_file_apart(calibrated):
    data = changed(calibrated.read_bytes(), lambda root, graph: None)
    again = loader.from_bytes(np.frombuffer(data, np.uint8), "file")
    assert [asdict(entry) for entry in again.ranges] == [
        asdict(entry) for entry in loader.read(calibrated).ranges]


def test_from_path_gives_the_observations_too(source, samples, device):
    from edgerun.tools.pack import Stages, import_model
    graph = import_model(source)
    Stages(graph).optimize(integers=True)
    found = from_path(graph, samples, observer="percentile", limit=20, device=device)
    assert found.samples == 20 and found.observations["x"].count == 120
    assert found.range("x", 8)[0] >= -8
