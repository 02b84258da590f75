"""The command line asked for integers with bad data, a bad request or a bad source model: one line
that says what is wrong, exit status 1, and nothing written."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests import models
from tests.test_cli import call, fails, process, write_onnx
from tests.tools.tflite_builder import TFLiteBuilder

SHAPE = (2, 3)
SAMPLES = np.random.default_rng(0).standard_normal((40, *SHAPE)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    return write_onnx(tmp_path / "float.onnx")


@pytest.fixture
def refuses(capsys, tmp_path):
    """A function that packs, and requires an error of one line that leaves an older file alone."""
    out = tmp_path / "out.edge"
    out.write_bytes(b"older")

    def run(source, *arguments) -> str:
        before = sorted(tmp_path.rglob("*"))
        message = fails(capsys, "pack", source, "-o", out, *arguments)
        assert out.read_bytes() == b"older" and sorted(tmp_path.rglob("*")) == before
        return message
    return run


@pytest.mark.parametrize("precision", ["int8", "int16", "mixed"])
def test_integers_without_calibration(refuses, source, precision):
    assert refuses(source, "--precision", precision) == (
        f"precision {precision} needs the range of every tensor: give samples, images, or a file "
        "that was calibrated (--calibration)")


def spoiled(value: float) -> np.ndarray:
    samples = SAMPLES.copy()
    samples[7, 0, 1] = value
    return samples


@pytest.mark.parametrize("arrays, message", [
    ({"image": SAMPLES}, "has the arrays 'image', needed 'x' (2, 3) float32"),
    ({"x": SAMPLES, "z": SAMPLES}, "has the arrays 'x', 'z', needed 'x' (2, 3) float32"),
    ({}, "needed 'x' (2, 3) float32"),
    ({"x": SAMPLES[..., :2]}, "'x' has the shape (40, 2, 2), needed (2, 3), or one more axis of "
                              "samples in front of it"),
    ({"x": SAMPLES.astype(np.float64)}, "'x' is float64, needed float32"),
    ({"x": SAMPLES[:0]}, "'x' has the shape (0, 2, 3): no samples"),
    ({"x": spoiled(np.nan)}, "'x' holds 1 values of 240 that are not finite numbers"),
    ({"x": spoiled(-np.inf)}, "'x' holds 1 values of 240 that are not finite numbers"),
])
@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_bad_samples(refuses, source, tmp_path, arrays, message, precision):
    np.savez(tmp_path / "bad.npz", **arrays)
    said = refuses(source, "--precision", precision, "--calibration", tmp_path / "bad.npz")
    assert said.startswith(f"{tmp_path / 'bad.npz'}: ") and message in said


def test_too_few_samples_are_enough_for_a_warning(capsys, source, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERUN_DEVICE", "portable")
    np.savez(tmp_path / "few.npz", x=SAMPLES[:3])
    status, shown, err = call(capsys, "pack", source, "-o", tmp_path / "out.edge", "--precision",
                              "int8", "--calibration", tmp_path / "few.npz")
    assert (status, err) == (0, "")
    assert "few.npz: 3 samples to calibrate with: too small, ranges are reliable from 32" in shown


def test_data_that_are_no_samples(refuses, source, tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez(whole, x=SAMPLES)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    ranges = models.shift_relu(tmp_path / "plain.edge")
    for path, message in (
            (tmp_path / "none.npz", "none.npz: cannot be read: No such file or directory"),
            (tmp_path / "cut.npz", "cut.npz: is not an .npz file of plain arrays"),
            (source, "float.onnx: is not an .npz file of plain arrays"),
            (tmp_path / "empty", "empty: has no images, needed files that end in"),
            (tmp_path / "none.edge", "none.edge: cannot be read: No such file"),
            (ranges, "plain.edge: ")):
        assert message in refuses(source, "--precision", "int8", "--calibration", path)


@pytest.mark.parametrize("arguments, message", [
    (("--precision", "int8", "--max-error", "0.1"), "an error bound is for --precision mixed"),
    (("--precision", "fp16", "--improve", "equalize"), "improve integers: needed --precision int8"),
    (("--preprocess", "scale=1"), "a preprocessing line is for a folder of images"),
])
def test_requests_that_contradict_themselves(refuses, source, tmp_path, arguments, message):
    np.savez(tmp_path / "in.npz", x=SAMPLES)
    assert message in refuses(source, "--calibration", tmp_path / "in.npz", *arguments)


def test_requests_that_want_calibration(refuses, source):
    for arguments in (("--observer", "kl"), ("--samples", "3"), ("--preprocess", "scale=1")):
        assert "needed calibration data too" in refuses(source, *arguments)


@pytest.mark.parametrize("text, message", [
    (b"nothing* int8\n", "o.txt, line 1: 'nothing*' names no op and no tensor; the first ops are"),
    (b"# all of them\n\nshifted int4\n", "o.txt, line 3: is 'shifted int4', needed a name pattern"),
    (b"shifted\n", "o.txt, line 1: is 'shifted', needed a name pattern and one of fp32"),
    (b"\xff\xfe\x00", "o.txt: cannot be read"),
    (b"* int8\n", "o.txt: gives ops an integer type, which needs the range of every tensor"),
    (None, "o.txt: cannot be read"),
])
def test_bad_overrides(refuses, source, tmp_path, text, message):
    if text is not None:
        (tmp_path / "o.txt").write_bytes(text)
    assert message in refuses(source, "--overrides", tmp_path / "o.txt")


def write_quantized_onnx(path, scale):
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], name="quantize"),
         helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], name="dequantize")], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.float32(scale), "scale")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)
    return path


def write_quantized_tflite(path, scale, zero_point=0):
    m = TFLiteBuilder()
    grid = ([scale], [zero_point], 0)
    m.op("RELU", [m.input(SHAPE, "int8", quantization=grid)], out="int8", quantization=grid,
         shape=SHAPE)
    path.write_bytes(m.finish([1]))
    return path


@pytest.mark.parametrize("scale", [0.0, -0.5, np.nan, np.inf])
def test_bad_scales_of_a_source_model(refuses, tmp_path, scale):
    path = write_quantized_onnx(tmp_path / "m.onnx", scale)
    assert refuses(path) == (f"{path}: QuantizeLinear 'quantize': scale has the scale {scale}, "
                             "needed positive finite numbers")
    path = write_quantized_tflite(tmp_path / "m.tflite", scale)
    shown = scale if np.isfinite(scale) else "not finite"
    assert refuses(path) == f"{path}: tensor 'x0': a scale is {shown}, needed a number above 0"


def test_good_scales_of_a_source_model(capsys, tmp_path):
    """What is refused above is refused for its scale."""
    for path in (write_quantized_onnx(tmp_path / "m.onnx", 0.5),
                 write_quantized_tflite(tmp_path / "m.tflite", 0.5)):
        assert call(capsys, "pack", path, "-o", tmp_path / "out.edge")[0] == 0


def test_zero_point_that_is_no_int8(refuses, tmp_path):
    path = write_quantized_tflite(tmp_path / "m.tflite", 0.5, 200)
    assert "zero point" in refuses(path)


def test_quantized_source_is_not_quantized_again(refuses, tmp_path):
    np.savez(tmp_path / "in.npz", x=SAMPLES)
    path = write_quantized_onnx(tmp_path / "m.onnx", 0.5)
    for arguments in (("--precision", "int8"), ("--precision", "mixed"), ()):
        assert "is quantized already" in refuses(path, "--calibration", tmp_path / "in.npz",
                                                 *arguments)


def test_in_a_process_of_its_own(source, tmp_path):
    """The exit status and the streams as a shell sees them."""
    np.savez(tmp_path / "nan.npz", x=spoiled(np.nan))
    ran = process("pack", source, "-o", tmp_path / "out.edge", "--precision", "int8",
                  "--calibration", tmp_path / "nan.npz")
    assert (ran.returncode, ran.stdout) == (1, "") and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("edgerun: ") and "not finite numbers" in ran.stderr
    assert not (tmp_path / "out.edge").exists()
