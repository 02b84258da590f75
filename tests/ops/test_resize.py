"""Resize kernels against NumPy, and the NumPy reference against that of ONNX."""
import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

from edgerun.errors import ModelError
from edgerun.ops import resize
from edgerun.tools import reference
from edgerun.tools.graph import Graph
from tests.harness import check_op

ONNX_MODES = [mode for mode in resize.COORDINATE_MODES if mode != "tf_half_pixel_for_nn"]


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to(height, width, shape, mode="half_pixel", kind="linear", nearest="round_prefer_floor",
       **others):
    """Options of a resize to a size, as an importer writes them."""
    return dict(kind=kind, height=height, width=width, scale_h=height / shape[1],
                scale_w=width / shape[2], coordinate_mode=mode, nearest_mode=nearest, **others)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["nearest", "linear"])
@pytest.mark.parametrize("shape, size", [
    ((1, 1, 1, 1), (1, 1)), ((1, 1, 1, 3), (4, 5)), ((2, 5, 7, 4), (10, 14)),
    ((1, 13, 11, 16), (5, 3)), ((1, 4, 6, 17), (8, 12)), ((3, 8, 8, 37), (11, 3)),
    ((1, 9, 2, 6), (1, 7)), ((2, 3, 4, 70), (7, 19))])
def test_shapes(device, shape, size, kind, precision):
    check_op(device, "resize", [image(shape)], 2e-6, precision, **to(*size, shape, kind=kind))


@pytest.mark.parametrize("nearest", ["linear", *resize.NEAREST_MODES])
@pytest.mark.parametrize("mode", resize.COORDINATE_MODES)
def test_modes(device, mode, nearest):
    kind = "linear" if nearest == "linear" else "nearest"
    for size, others in itertools.product(((3, 14), (12, 2), (5, 7), (1, 1), (10, 21)), (
            dict(roi=(0.1, -0.2, 1.3, 0.8), extrapolation_value=7.5), dict(roi=(0.9, 0, 0.2, 1)))):
        check_op(device, "resize", [image((1, 5, 7, 5), 1)], 2e-6,
                 **to(*size, (1, 5, 7, 5), mode, kind, nearest, **others))


@pytest.mark.parametrize("mode", resize.COORDINATE_MODES)
@pytest.mark.parametrize("kind", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(0.6, 2.0), (1 / 3, 1.7), (2.37, 0.45)])
def test_given_scales(device, kind, scales, mode):
    """The output size is rounded down, the coordinates follow the scale."""
    options = dict(kind=kind, height=int(9 * scales[0]), width=int(7 * scales[1]),
                   scale_h=scales[0], scale_w=scales[1], coordinate_mode=mode,
                   nearest_mode="floor", roi=(0, 0, 1, 1))
    check_op(device, "resize", [image((1, 9, 7, 18), 2)], 2e-6, **options)


def test_real_layers(device):
    """A feature pyramid's doubling, a segmentation head, a detector's input."""
    for shape, size, kind, mode in (((1, 20, 20, 256), (40, 40), "nearest", "asymmetric"),
                                    ((1, 33, 33, 21), (257, 257), "linear", "align_corners"),
                                    ((1, 97, 131, 3), (224, 224), "linear", "half_pixel")):
        check_op(device, "resize", [image(shape, 3)], 4e-6, **to(*size, shape, mode, kind, "floor"))


def test_coordinates_too_fine_for_integers(device):
    """A scale and a roi without a common 32-bit unit are rounded to one."""
    options = dict(kind="linear", height=300, width=701, scale_h=2.718281, scale_w=3.1415927,
                   coordinate_mode="tf_crop_and_resize", roi=(0.1234567, 0.01111, 0.8999, 0.9432))
    check_op(device, "resize", [image((1, 110, 223, 4), 4)], 2e-5, **options)


@pytest.mark.parametrize("kind", ["nearest", "linear"])
def test_small_work_items(device, monkeypatch, kind):
    """The launches that a GPU gets."""
    monkeypatch.setattr(device, "facts", dataclasses.replace(device.facts, kind="gpu", lanes=4))
    for channels in (1, 6, 16):
        shape = (2, 5, 7, channels)
        check_op(device, "resize", [image(shape, 5)], 2e-6, **to(9, 11, shape, kind=kind))


@pytest.mark.parametrize("nearest", ["linear", *resize.NEAREST_MODES])
@pytest.mark.parametrize("mode", ONNX_MODES)
@pytest.mark.parametrize("sizes, scales", [
    ((10, 14), None), ((3, 5), None), ((8, 2), None), ((1, 1), None), ((7, 20), None),
    (None, (0.5, 2.0)), (None, (1.75, 0.375)), (None, (2.3125, 1.1875))])
def test_reference_agrees_with_onnx(mode, nearest, sizes, scales):
    """Scales are exact in binary, because ONNX's reference takes the rounded number as it is, and
    chosen so that no coordinate is a whole number only in exact arithmetic."""
    from onnx.reference.ops import op_resize
    x, roi = image((1, 5, 7, 2), 6), (0.25, -0.5, 0.75, 1.25)
    if nearest == "linear":
        coefficients = op_resize._linear_coeffs
    else:
        def coefficients(ratio, scale):
            return op_resize._nearest_coeffs(ratio, mode=nearest)
    want = op_resize._interpolate_nd(
        x, coefficients, output_size=[1, *sizes, 2] if sizes else None,
        scale_factors=[1.0, *scales, 1.0] if scales else None,
        roi=np.array([0, *roi[:2], 0, 1, *roi[2:], 1]) if mode == "tf_crop_and_resize" else None,
        coordinate_transformation_mode=mode, extrapolation_value=3.0)
    height, width = want.shape[1:3]
    scales = scales or (height / 5, width / 7)
    graph = Graph()
    kind, nearest = ("linear", "") if nearest == "linear" else ("nearest", nearest)
    y = graph.add("resize", [graph.input("x", x.shape, "fp32")], kind=kind, height=height,
                  width=width, scale_h=scales[0], scale_w=scales[1], coordinate_mode=mode,
                  nearest_mode=nearest, roi=roi, extrapolation_value=3.0)
    graph.output("y", y)
    found = reference.execute(graph, {"x": x})["y"]
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("value", [1.0, 2.0, 1 / 3, 10 / 6, 0.6, -0.2, 0.0, 1e-30, 3e38, 2.37,
                                   224 / 97])
def test_simplest_fraction(value):
    found = resize.simplest(value)
    assert np.float32(float(found)) == np.float32(value)
    assert found.denominator <= 10**4 or abs(value) < 1e-4
    assert found.limit_denominator(10**4) == found or abs(value) < 1e-4


def test_simplest_fraction_is_the_ratio_of_the_sizes():
    for out, size in itertools.product(range(1, 60), (7, 20, 97, 640, 1023)):
        assert resize.simplest(np.float32(out / size)) == Fraction(out, size)


@pytest.mark.parametrize("shape, change, message", [
    ((1, 4, 4), {}, "needed 4 dimensions"),
    ((1, 4, 4, 2), dict(kind="cubic"), "unknown kind 'cubic'"),
    ((1, 4, 4, 2), dict(coordinate_mode=""), "unknown coordinate_mode ''"),
    ((1, 4, 4, 2), dict(kind="nearest", nearest_mode="up"), "unknown nearest_mode 'up'"),
    ((1, 4, 4, 2), dict(height=0), "needed at least 1 x 1"),
    ((1, 4, 4, 2), dict(width=-3), "needed at least 1 x 1"),
    ((1, 4, 4, 2), dict(scale_h=0.0), "scale_h 0.0"),
    ((1, 4, 4, 2), dict(scale_w=-1.0), "scale_w -1.0"),
    ((1, 4, 4, 2), dict(scale_w=float("inf")), "scale_w inf"),
    ((1, 4, 4, 2), dict(scale_w=float("nan")), "scale_w nan"),
    ((1, 4, 4, 2), dict(scale_w=1e-50), "scale_w 1e-50"),
    ((1, 4, 4, 2), dict(scale_h=1e-30), "reads up to pixel"),
    ((1, 4, 4, 2), dict(coordinate_mode="tf_crop_and_resize"), "roi"),
    ((1, 4, 4, 2), dict(coordinate_mode="tf_crop_and_resize", roi=(0, 0, float("inf"), 1)), "roi"),
    ((1, 4, 4, 2), dict(coordinate_mode="tf_crop_and_resize", roi=(0, 1e30, 1, 1)), "reads up to"),
])
def test_invalid(shape, change, message):
    graph = Graph()
    options = dict(to(8, 8, (1, 4, 4, 2)), **change)
    with pytest.raises(ModelError, match=message):
        graph.add("resize", [graph.input("x", shape, "fp32")], **options)


def test_integers_are_refused():
    graph = Graph()
    with pytest.raises(ModelError, match="is int32"):
        graph.add("resize", [graph.input("x", (1, 4, 4, 2), "int32")], **to(8, 8, (1, 4, 4, 2)))
