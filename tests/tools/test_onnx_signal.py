"""Fourier transforms, sampling between pixels and scans of ONNX, against NumPy and ONNX Runtime."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import RNG, check, codes, f32, floats, ints, model_of
from tests.tools.test_onnx_selection import host


def numbers(y: np.ndarray) -> np.ndarray:
    """Return complex numbers as pairs of real ones."""
    return np.stack([y.real, y.imag], -1).astype(np.float32)


@pytest.mark.parametrize("length", [None, 5, 8, 12])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_dft(axis, parts, length):
    x = floats(8, 8, parts)
    number = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
    at = axis if axis >= 0 else 1
    constants = {"axis": np.array(axis, np.int64)}
    if length:
        constants["n"] = np.array(length, np.int64)
    inputs = ["x", "n" if length else "", "axis"]
    for inverse, transform in ((0, np.fft.fft), (1, np.fft.ifft)):
        y = host(make_node("DFT", inputs, ["y"], inverse=inverse), {"x": x}, constants, 20)["y"]
        np.testing.assert_allclose(y, numbers(transform(number, length, at)), atol=1e-5)
    if parts == 1:
        y = host(make_node("DFT", inputs, ["y"], onesided=1), {"x": x}, constants, 20)["y"]
        np.testing.assert_allclose(y, numbers(np.fft.rfft(number.real, length, at)), atol=1e-5)
    else:
        y = host(make_node("DFT", inputs, ["y"], onesided=1, inverse=1), {"x": x}, constants,
                 20)["y"]
        np.testing.assert_allclose(y[..., 0], np.fft.irfft(number, length, at), atol=1e-5)


@pytest.mark.parametrize("one_sided", [0, 1])
@pytest.mark.parametrize("window", [False, True])
def test_stft(window, one_sided):
    x = floats(2, 50, 1)
    constants = {"step": np.array(6, np.int64), "n": np.array(16, np.int64)}
    if window:
        constants["w"] = np.hanning(16).astype(np.float32)
    graph = check(make_node("STFT", ["x", "step", "w" if window else "", "n"], ["y"],
                            onesided=one_sided), {"x": x}, constants, opset=17)
    assert codes(graph).count("dense") == 1  # the window is in the matrix


@pytest.mark.parametrize("attributes", [
    {}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 3]}, {"dilations": [2, 1]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 2]}])
def test_col2im(attributes):
    image, block = (9, 11), (2, 3)
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    places = [(n + pads[i] + pads[i + 2] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
              for i, n in enumerate(image)]
    check(make_node("Col2Im", ["x", "image", "block"], ["y"], **attributes),
          {"x": floats(2, 3 * 6, places[0] * places[1])},
          {"image": ints(*image), "block": ints(*block)}, opset=18)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("attributes", [
    {}, {"strides": [2, 2], "pads": [1, 0, 1, 1]}, {"auto_pad": "SAME_UPPER"}])
def test_lp_pool(p, attributes):
    check(make_node("LpPool", ["x"], ["y"], p=p, kernel_shape=[3, 2], **attributes),
          {"x": floats(1, 3, 7, 8)}, opset=11)
    check(make_node("GlobalLpPool", ["x"], ["y"], p=p), {"x": floats(1, 3, 7, 8)}, opset=11)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_det(size):
    check(make_node("Det", ["x"], ["y"]), {"x": floats(2, 3, size, size)}, opset=11)


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode, padding, align):
    grid = RNG.uniform(-1.7, 1.7, (2, 4, 3, 2)).astype(np.float32)
    check(make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding,
                    align_corners=align), {"x": floats(2, 3, 5, 6), "grid": grid}, opset=20)


def test_grid_sample_of_a_volume_and_of_old_opsets():
    grid = RNG.uniform(-1.2, 1.2, (1, 2, 3, 4, 3)).astype(np.float32)
    check(make_node("GridSample", ["x", "grid"], ["y"]), {"x": floats(1, 2, 3, 4, 5), "grid": grid},
          opset=20)
    check(make_node("GridSample", ["x", "grid"], ["y"], mode="bicubic"),
          {"x": floats(1, 2, 4, 5), "grid": grid[0, :1, ..., :2]}, opset=16)


@pytest.mark.parametrize("opset", [10, 16])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode, opset):
    rois = f32([[1, 2, 9.5, 8], [-3, 0, 4, 20], [5, 5, 5.2, 5.1]])
    node = make_node("RoiAlign", ["x", "rois", "n"], ["y"], output_height=3, output_width=2,
                     sampling_ratio=2, spatial_scale=0.5, mode=mode)
    check(node, {"x": floats(2, 3, 6, 7), "rois": rois, "n": ints(0, 1, 0)}, opset=opset)


@pytest.mark.parametrize("groups, parts, masked", [(1, 1, False), (2, 1, True), (1, 2, True)])
def test_deform_conv(groups, parts, masked):
    x, w, b = floats(2, 4, 6, 7), floats(6, 4 // groups, 3, 2), floats(6)
    offset = 1.5 * floats(2, parts * 12, 3, 6)
    node = make_node("DeformConv", ["x", "w", "o", "b"] + (["m"] if masked else []), ["y"],
                     group=groups, offset_group=parts, strides=[2, 1], pads=[1, 0, 1, 0],
                     dilations=[1, 1])
    inputs = {"x": x, "o": offset.astype(np.float32)}
    if masked:
        inputs["m"] = floats(2, parts * 6, 3, 6)
    check(node, inputs, {"w": w, "b": b}, opset=19)


def scan_body() -> helper.GraphProto:
    """state' = state * decay + x (decay is of the outer graph); y = relu(state')."""
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [make_node("Mul", ["state", "decay"], ["kept"]), make_node("Add", ["kept", "x"], ["next"]),
         make_node("Relu", ["next"], ["out"])], "body",
        [value("state", TensorProto.FLOAT, (3,)), value("x", TensorProto.FLOAT, (3,))],
        [value("next", TensorProto.FLOAT, (3,)), value("out", TensorProto.FLOAT, (3,))])


@pytest.mark.parametrize("attributes", [
    {}, {"scan_input_directions": [1]}, {"scan_output_directions": [1]},
    {"scan_output_axes": [1]}, {"scan_input_axes": [1], "scan_output_axes": [-1]}])
def test_scan(attributes):
    x = floats(4, 3)
    x = x.T.copy() if "scan_input_axes" in attributes else x
    node = make_node("Scan", ["first", "x"], ["last", "y"], body=scan_body(), num_scan_inputs=1,
                     **attributes)
    check(node, {"first": floats(3), "x": x}, {"decay": f32([0.5, 0.25, 2])}, opset=16,
          outputs=("last", "y"))


def test_scan_of_constants_leaves_no_op():
    node = make_node("Scan", ["first", "x"], ["last", "y"], body=scan_body(), num_scan_inputs=1)
    model = model_of(node, {}, {"decay": f32([1, 1, 1]), "first": floats(3), "x": floats(4, 3)}, 16,
                     ("last", "y"))
    assert import_proto(model).ops == []


BODY = {"body": scan_body()}


@pytest.mark.parametrize("node, inputs, constants, error, message", [
    (make_node("DFT", ["x"], ["y"]), {"x": floats(4, 3)}, {}, ModelError, "needed 1 or 2 numbers"),
    (make_node("DFT", ["x", "", "a"], ["y"]), {"x": floats(4, 1)}, {"a": np.array(1)}, ModelError,
     "axis of real and imaginary part"),
    (make_node("DFT", ["x", "n"], ["y"]), {"x": floats(4, 1), "n": np.array(3)}, {},
     UnsupportedError, "its dft_length is computed at run time"),
    (make_node("STFT", ["x", "s", "", "n"], ["y"]), {"x": floats(1, 9, 1)},
     {"s": np.array(2), "n": np.array(12)}, ModelError, "frames of 12 samples"),
    (make_node("Col2Im", ["x", "i", "b"], ["y"]), {"x": floats(1, 4, 7)},
     {"i": ints(4, 4), "b": ints(2, 2)}, ModelError, "places of an image"),
    (make_node("Col2Im", ["x", "i", "b"], ["y"], strides=[0, 1]), {"x": floats(1, 4, 9)},
     {"i": ints(4, 4), "b": ints(2, 2)}, ModelError, "needed 1 or more"),
    (make_node("Col2Im", ["x", "i", "b"], ["y"]), {"x": floats(1, 4, 9)},
     {"i": ints(4, 4), "b": ints(0, 2)}, ModelError, r"blocks of \[0, 2\]"),
    (make_node("LpPool", ["x"], ["y"], p=0, kernel_shape=[2, 2]), {"x": floats(1, 2, 4, 4)}, {},
     ModelError, "p is 0, needed a positive number"),
    (make_node("GlobalLpPool", ["x"], ["y"], p=0), {"x": floats(1, 2, 4, 4)}, {}, ModelError,
     "p is 0, needed a positive number"),
    (make_node("Det", ["x"], ["y"]), {"x": floats(3, 2)}, {}, ModelError, "needed square matrices"),
    (make_node("Det", ["x"], ["y"]), {"x": floats(5, 5)}, {}, UnsupportedError,
     "5 rows, needed at most 4"),
    (make_node("GridSample", ["x", "g"], ["y"]), {"x": floats(1, 2, 4, 4), "g": floats(1, 3, 3, 3)},
     {}, ModelError, "does not fit"),
    (make_node("GridSample", ["x", "g"], ["y"], mode="lanczos"),
     {"x": floats(1, 2, 4, 4), "g": floats(1, 3, 3, 2)}, {}, ModelError, "'lanczos'"),
    (make_node("RoiAlign", ["x", "r", "n"], ["y"]),
     {"x": floats(1, 2, 4, 4), "r": floats(2, 4), "n": ints(0, 0)}, {}, UnsupportedError,
     "its sampling_ratio is 0"),
    (make_node("DeformConv", ["x", "w", "o"], ["y"]),
     {"x": floats(1, 2, 5, 5), "o": floats(1, 8, 3, 3)}, {"w": floats(3, 2, 2, 2)}, ModelError,
     "offsets of the shape"),
    (make_node("Scan", ["s", "x"], ["l", "y"], num_scan_inputs=3, **BODY),
     {"s": floats(3), "x": floats(4, 3)}, {}, ModelError, "scans 3 of 2 inputs"),
    (make_node("Scan", ["s", "x"], ["l", "y"], num_scan_inputs=1, scan_input_axes=[0, 1], **BODY),
     {"s": floats(3), "x": floats(4, 3)}, {}, ModelError, "scan_input_axes has 2 numbers"),
    (make_node("Scan", ["s", "x"], ["l", "y"], num_scan_inputs=1, **BODY),
     {"s": floats(3), "x": floats(2000, 3), "decay": floats(3)}, {}, UnsupportedError,
     "2000 steps of 3 nodes, needed at most 4096"),
])
def test_bad_input(node, inputs, constants, error, message):
    with pytest.raises(error, match=message):
        import_proto(model_of(node, inputs, constants, 20, tuple(node.output)))
