"""ONNX ops that move elements, against ONNX Runtime, over opsets where their meaning changed."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from edgerun.errors import UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, check_folded, codes, floats, ints, model_of

# Moving elements

SLICES = [([1, 0], [3, 2], None, None), ([-3], [-1], [1], None), ([0], [2**63 - 1], [-1], [2]),
          ([-1], [-(2**63)], [0], [-1]), ([4, 1], [0, 9], [1, 0], [-2, 1]), ([9], [-99], [1], [-3])]


@pytest.mark.parametrize("starts, ends, axes, steps", SLICES)
def test_slice(starts, ends, axes, steps):
    constants = {"s": ints(*starts), "e": ints(*ends)}
    constants |= {} if axes is None else {"a": ints(*axes)}
    constants |= {} if steps is None else {"t": ints(*steps)}
    names = ["s", "e", "a" if axes else "", "t" if steps else ""]
    node = make_node("Slice", ["x", *names], ["y"])
    check(node, {"x": floats(4, 6)}, constants, opset=10)
    check_folded(node, {"x": floats(4, 6), **constants}, 10)
    if steps is None:
        attributes = {"starts": starts, "ends": ends} | ({} if axes is None else {"axes": axes})
        node = make_node("Slice", ["x"], ["y"], **attributes)
        check(node, {"x": floats(4, 6)}, opset=9)
        check_folded(node, {"x": floats(4, 6)}, 9)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[0, 1, 2, 3], [1, 0, 0, 0], [-1, 2, 1, -2], [0, 0, 0, 0]])
def test_pad(mode, pads):
    x = {"x": floats(5, 6)}
    old = make_node("Pad", ["x"], ["y"], mode=mode, pads=pads, value=0.5)
    check(old, x, opset=7)
    new = make_node("Pad", ["x", "p", "v"], ["y"], mode=mode)
    constants = {"p": ints(*pads), "v": np.array(0.5, np.float32)}
    check(new, x, constants, opset=11)
    check(new, {}, x | constants, opset=11)
    if min(pads) >= 0:  # onnx's reference has no negative padding
        check_folded(old, x, 7)
        check_folded(new, x | constants, 11)


def test_pad_of_some_axes():
    node = make_node("Pad", ["x", "p", "", "a"], ["y"])
    check(node, {"x": floats(3, 4, 5)}, {"p": ints(1, 2, 3, 4), "a": ints(-1, 0)}, opset=18)


def test_pad_wrap():
    node = make_node("Pad", ["x", "p"], ["y"], mode="wrap")
    check(node, {"x": floats(4, 5)}, {"p": ints(1, 2, 3, 0)}, opset=19)


@pytest.mark.parametrize("op_type, shape, axes", [
    ("Squeeze", (1, 3, 1, 2), [0, 2]), ("Squeeze", (1, 3, 1, 2), [0]),
    ("Squeeze", (1, 3, 1, 2), None), ("Unsqueeze", (3, 2), [0, 3]), ("Unsqueeze", (3, 2), [1])])
def test_squeeze_and_unsqueeze(op_type, shape, axes):
    x = {"x": floats(*shape)}
    old = make_node(op_type, ["x"], ["y"], **({} if axes is None else {"axes": axes}))
    check(old, x, opset=11)
    check_folded(old, x, 11)
    constants = {} if axes is None else {"axes": ints(*axes)}
    new = make_node(op_type, ["x", *constants], ["y"])
    check(new, x, constants, opset=13)
    check_folded(new, x | constants, 13)


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
@pytest.mark.parametrize("sizes", [None, [2, 3, 1]])
def test_split(opset, sizes):
    x, constants, attributes = {"x": floats(2, 6)}, {}, {"axis": 1}
    if sizes is not None and opset >= 13:
        constants["s"] = ints(*sizes)
    elif sizes is not None:
        attributes["split"] = sizes
    elif opset >= 18:
        attributes["num_outputs"] = 3
    node = make_node("Split", ["x", *constants], ["a", "b", "c"], **attributes)
    check(node, x, constants, opset, outputs=("a", "b", "c"))
    check_folded(node, x | constants, opset, outputs=("a", "b", "c"))


def test_split_into_unequal_parts():
    node = make_node("Split", ["x"], ["a", "b", "c"], num_outputs=3)
    check(node, {"x": floats(7)}, opset=18, outputs=("a", "b", "c"))


@pytest.mark.parametrize("shape", [(6, 4), (0, -1), (2, -1, 4), (-1,), (2, 3, 4)])
def test_reshape(shape):
    node = make_node("Reshape", ["x", "s"], ["y"])
    check(node, {"x": floats(2, 3, 4)}, {"s": ints(*shape)})


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_flatten(axis):
    check(make_node("Flatten", ["x"], ["y"], axis=axis), {"x": floats(2, 3, 4)})


def test_transpose():
    x = {"x": floats(2, 3, 4)}
    check(make_node("Transpose", ["x"], ["y"]), x)
    check(make_node("Transpose", ["x"], ["y"], perm=[1, 2, 0]), x)


def test_expand_and_tile():
    for shape in ((2, 3, 4), (3, 1), (1,), (1, 1, 3, 1)):
        check(make_node("Expand", ["x", "s"], ["y"]), {"x": floats(3, 1)}, {"s": ints(*shape)})
    check(make_node("Tile", ["x", "r"], ["y"]), {"x": floats(2, 3)}, {"r": ints(2, 3)})


def test_concat():
    inputs = {"a": floats(2, 3), "b": floats(2, 1), "c": floats(2, 2)}
    check(make_node("Concat", ["a", "b", "c"], ["y"], axis=-1), inputs)
    check(make_node("Concat", ["a", "n", "b"], ["y"], axis=1), {"a": floats(2, 3)},
          {"n": floats(2, 0), "b": floats(2, 2)})


@pytest.mark.parametrize("indices, code", [
    (np.array(1), "slice"), (np.array(-1), "slice"), (ints(2), "slice"), (ints(3, 2, 1), "slice"),
    (ints(0, 2), "slice"), (ints(1, 1), "gather"), (ints(0, 2, 3), "gather"),
    (np.array([[0, 1], [-1, 2]]), "gather")])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(indices, code, axis):
    node = make_node("Gather", ["x", "i"], ["y"], axis=axis)
    x = {"x": floats(4, 5, 6)}
    assert code in codes(check(node, x, {"i": indices}))
    assert "gather" in codes(check(node, x | {"i": indices}))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    node = make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    check(node, {"x": floats(2, 12, 3, 5)}, opset=11)


def test_space_to_depth():
    node = make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    check(node, {"x": floats(2, 3, 4, 6)})


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [-1, 0, 2])
def test_trilu(upper, k):
    node = make_node("Trilu", ["x", "k"], ["y"], upper=upper)
    check(node, {"x": floats(2, 3, 4)}, {"k": np.array(k, np.int64)}, opset=14)


@pytest.mark.parametrize("opset", [7, 10, 12, 13])
def test_dropout_is_gone(opset):
    node = make_node("Dropout", ["x"], ["y"])
    assert check(node, {"x": floats(3, 4)}, opset=opset).ops == []


def test_dropout_mask():
    node = make_node("Dropout", ["x"], ["y", "mask"])
    check(node, {"x": floats(3, 4)}, opset=12, outputs=("y", "mask"),
          dtypes={"mask": TensorProto.BOOL})


# Resize

@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.7, 0.6), (1, 1, 1, 0.6)])
def test_resize_before_opset_11(opset, mode, scales):
    if opset < 10 and min(scales) < 1:  # Upsample only enlarges
        return
    op_type, x = ("Upsample" if opset < 10 else "Resize"), {"x": floats(1, 2, 5, 6)}
    if opset == 7:
        check(make_node(op_type, ["x"], ["y"], mode=mode,
                               scales=[float(s) for s in scales]), x, opset=7)
    else:
        node = make_node(op_type, ["x", "s"], ["y"], mode=mode)
        check(node, x, {"s": np.array(scales, np.float32)}, opset)


COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(coordinates, mode, by):
    node = make_node("Resize", ["x", "roi", "scales", "sizes"], ["y"], mode=mode,
                            coordinate_transformation_mode=coordinates)
    x, empty = {"x": floats(1, 2, 5, 6)}, np.zeros(0, np.float32)
    for scales, sizes in (((1, 1, 2, 3), (1, 2, 10, 18)), ((1, 1, 0.6, 0.5), (1, 2, 3, 3))):
        if by == "scales":
            node.input[:] = ["x", "roi", "scales"]
            constants = {"roi": empty, "scales": np.array(scales, np.float32)}
        else:
            constants = {"roi": empty, "scales": empty, "sizes": ints(*sizes)}
        check(node, x, constants, opset=11)


@pytest.mark.parametrize("nearest_mode", [
    "round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_nearest_mode(nearest_mode):
    node = make_node("Resize", ["x", "", "scales"], ["y"], nearest_mode=nearest_mode)
    check(node, {"x": floats(1, 2, 5, 6)}, {"scales": np.array([1, 1, 1.5, 2], np.float32)})


def test_resize_before_opset_11_rounds_each_direction_otherwise():
    node = make_node("Resize", ["x", "s"], ["y"], mode="nearest")
    scales = {"s": np.array([1, 1, 2, 0.5], np.float32)}
    with pytest.raises(UnsupportedError, match="enlarges one axis and shrinks another"):
        import_proto(model_of(node, {"x": floats(1, 1, 4, 4)}, scales, opset=10))


def test_resize_crop():
    node = make_node("Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear",
                            coordinate_transformation_mode="tf_crop_and_resize",
                            extrapolation_value=7.0)
    roi = np.array([0, 0, 0.2, 0.3, 1, 1, 0.7, 1.2], np.float32)
    check(node, {"x": floats(1, 2, 5, 6)}, {"roi": roi, "sizes": ints(1, 2, 4, 5)})


@pytest.mark.parametrize("shape, scales", [
    ((1, 5, 6, 2), (1, 2, 1.5, 1)), ((2, 3, 7), (1, 1, 2)), ((4, 5), (3, 0.5)), ((6,), (2,)),
    ((2, 3, 4, 5), (1, 2, 1, 1))])
def test_resize_other_axes(shape, scales):
    node = make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    check(node, {"x": floats(*shape)}, {"scales": np.array(scales, np.float32)})


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_policy_and_axes(policy):
    node = make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", axes=[2, 3],
                            keep_aspect_ratio_policy=policy)
    check(node, {"x": floats(1, 2, 4, 3)}, {"sizes": ints(6, 6)}, opset=18)


@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
@pytest.mark.parametrize("options", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
def test_resize_cubic(coordinates, options):
    node = make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic",
                     coordinate_transformation_mode=coordinates, **options)
    for sizes in ((2, 3, 10, 13), (2, 3, 3, 4), (2, 3, 5, 9), (2, 3, 1, 6)):
        graph = check(node, {"x": floats(2, 3, 5, 6)}, {"sizes": ints(*sizes)}, opset=19)
        assert "resize" not in codes(graph)


def test_resize_cubic_by_scales():
    node = make_node("Resize", ["x", "", "scales"], ["y"], mode="cubic")
    check(node, {"x": floats(1, 2, 5, 6)}, {"scales": np.array([1, 1, 1.5, 0.7], np.float32)})
