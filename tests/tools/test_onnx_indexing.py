"""ONNX ops with indices, and CumSum, against ONNX Runtime, and what they become."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import RNG, check, check_folded, codes, floats, ints, model_of


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
@pytest.mark.parametrize("values", [[0.0, 1.0], [-2.0, 3.0]])
def test_one_hot(axis, values):
    indices = np.array([[0, 3, -1], [-4, 4, 1]], np.int64)  # 4 is none of the four places
    graph = check(make_node("OneHot", ["i", "depth", "values"], ["y"], axis=axis), {"i": indices},
                  {"depth": ints(4), "values": np.array(values, np.float32)})
    assert ("cast" in codes(graph)) == (values == [0.0, 1.0])


def test_one_hot_of_integers():
    check(make_node("OneHot", ["i", "depth", "values"], ["y"]), {"i": ints(2, 0)},
          {"depth": np.array(3, np.int64), "values": ints(5, 9)}, dtypes={"y": TensorProto.INT64})


GATHER_ND = {
    "elements": ((3, 4), [[0, 1], [2, -1], [-3, 0]], 0),
    "rows": ((3, 4, 5), [[2], [0]], 0),
    "rows_twice": ((3, 4, 5), [[[0, 1], [1, 3]], [[2, 0], [2, 0]]], 0),
    "batch": ((2, 4, 5), [[1], [3]], 1),
    "batch_of_two": ((2, 3, 4), [[[1], [3], [0]], [[0], [0], [2]]], 2),
}


@pytest.mark.parametrize("name", GATHER_ND)
def test_gather_nd(name):
    shape, indices, batch = GATHER_ND[name]
    attributes = {"batch_dims": batch} if batch else {}
    check(make_node("GatherND", ["x", "i"], ["y"], **attributes), {"x": floats(*shape)},
          {"i": np.array(indices, np.int64)})


@pytest.mark.parametrize("name", GATHER_ND)
def test_gather_nd_at_run_time(name):
    shape, indices, batch = GATHER_ND[name]
    attributes = {"batch_dims": batch} if batch else {}
    check(make_node("GatherND", ["x", "i"], ["y"], **attributes),
          {"x": floats(*shape), "i": np.array(indices, np.int64)})


def _grid(*axes) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.int64)


SCATTER_ND = {  # name -> (shape, indices, is a box)
    "row": ((4, 5), [[2]], True),
    "first_rows": ((4, 5), [[0], [1]], True),
    "channels": ((2, 3, 6), _grid(range(2), range(3), range(1, 4)), True),
    "last_channels": ((2, 3, 6), _grid(range(2), range(3), range(4, 6)), True),
    "box": ((4, 5, 6), _grid(range(1, 3), range(2, 5), [3]), True),
    "box_from_the_end": ((4, 5, 6), _grid([-2, -1], range(5)), True),
    "everything": ((2, 3), _grid(range(2), range(3)), True),
    "rows_in_another_order": ((4, 5), [[2], [1]], False),
    "every_second_row": ((5, 3), [[0], [2], [4]], False),
    "elements": ((3, 4), [[0, 1], [2, 3], [1, 0]], False),
}


@pytest.mark.parametrize("name", SCATTER_ND)
def test_scatter_nd(name):
    shape, indices, box = SCATTER_ND[name]
    indices = np.array(indices, np.int64)
    updates = floats(*indices.shape[:-1], *shape[indices.shape[-1]:])
    graph = check(make_node("ScatterND", ["x", "i", "u"], ["y"]),
                  {"x": floats(*shape), "u": updates}, {"i": indices})
    assert ("gather" in codes(graph)) == (not box)


def test_scatter_nd_into_a_constant():
    check(make_node("ScatterND", ["x", "i", "u"], ["y"]), {"u": floats(1, 3)},
          {"x": floats(4, 3), "i": np.array([[1]], np.int64)})


@pytest.mark.parametrize("op,constants,message", [
    ("GatherND", {"i": [[5, 0]]}, "an index lies outside"),
    ("GatherND", {"i": [[0, 0, 0]]}, "tuples of 3 numbers"),
    ("ScatterND", {"i": [[3]], "u": np.zeros((1, 4))}, "an index lies outside"),
    ("ScatterND", {"i": [[1]], "u": np.zeros((1, 5))}, "do not fit"),
    ("GatherElements", {"i": [[3, 0]]}, "an index is not in"),
    ("GatherElements", {"i": [[0] * 5]}, "do not fit"),
    ("ScatterElements", {"i": [[-4, 0]], "u": np.zeros((1, 2))}, "an index is not in"),
    ("ScatterElements", {"i": [[1, 0]], "u": np.zeros((1, 3))}, "do not fit"),
])
def test_models_that_contradict_themselves(op, constants, message):
    arrays = {name: np.array(a, np.float32 if name == "u" else np.int64)
              for name, a in constants.items()}
    model = model_of(make_node(op, ["x", *arrays], ["y"]), {"x": floats(3, 4)}, arrays)
    with pytest.raises(ModelError, match=message):
        import_proto(model)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("node, shape, opset, what", [
    (make_node("TopK", ["x", "n"], ["y", ""]), (2, 3), 11, "k"),
    (make_node("OneHot", ["x", "n", "v"], ["y"]), (3,), 11, "depth"),
    (make_node("Trilu", ["x", "n"], ["y"]), (3, 3), 14, "diagonal"),
    (make_node("CumSum", ["x", "n"], ["y"]), (3, 4), 14, "axis"),
    (make_node("Pad", ["x", "p", "n"], ["y"]), (3, 3), 13, "value"),
    (make_node("Clip", ["x", "n"], ["y"]), (3, 3), 13, "min"),
    (make_node("Clip", ["x", "", "n"], ["y"]), (3, 3), 13, "max"),
    (make_node("DFT", ["x", "n"], ["y"]), (1, 8, 1), 17, "dft_length"),
    (make_node("DFT", ["x", "", "n"], ["y"]), (1, 8, 1), 20, "axis"),
    (make_node("STFT", ["x", "n", "", "l"], ["y"]), (1, 50, 1), 17, "frame_step"),
    (make_node("STFT", ["x", "l", "", "n"], ["y"]), (1, 50, 1), 17, "frame_length"),
    (make_node("NonMaxSuppression", ["b", "x", "n"], ["y"]), (1, 1, 5), 11,
     "max_output_boxes_per_class"),
])
def test_what_must_be_one_number(node, shape, opset, what, count):
    """Not the first of several, nor an error of Python for none."""
    real = what in ("value", "min", "max")
    arrays = {"n": np.ones(count, np.float32 if real else np.int64), "p": ints(1, 1, 1, 1),
              "l": ints(16), "v": np.float32([0, 1])}
    inputs = {"x": floats(*shape)} | ({"b": floats(1, 5, 4)} if "b" in node.input else {})
    model = model_of(node, inputs, {name: arrays[name] for name in node.input if name in arrays},
                     opset)
    with pytest.raises(ModelError, match=f"{node.op_type} '.*': its {what} has {count} elements, "
                                         "needed 1"):
        import_proto(model)


@pytest.mark.parametrize("op,picked", [("ScatterND", ()), ("ScatterElements", (1, 2))])
def test_scattering_to_places_known_at_run_time_is_refused(op, picked):
    inputs = {"x": floats(3, 4), "i": np.array([[0, 1]], np.int64), "u": floats(*picked or (1,))}
    model = model_of(make_node(op, list(inputs), ["y"]), inputs)
    with pytest.raises(UnsupportedError, match="its index input is computed at run time"):
        import_proto(model)


ELEMENTS = {  # name -> (shape, shape of the indices, axis)
    "last_axis": ((2, 7), (2, 3), -1),
    "fewer_rows": ((3, 9), (1, 5), 1),
    "long_axis": ((1, 512), (1, 12), 1),  # what BERT reads its token types with
    "first_axis": ((40, 3), (6, 2), 0),
    "middle_axis": ((2, 4, 3), (2, 6, 2), 1),
    "one_axis": ((9,), (4,), 0),
}


@pytest.mark.parametrize("known", ["nothing", "indices", "all"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_gather_elements(name, known):
    shape, picked, axis = ELEMENTS[name]
    arrays = {"x": floats(*shape), "i": RNG.integers(-shape[axis], shape[axis], picked)}
    node = make_node("GatherElements", ["x", "i"], ["y"], axis=axis)
    if known == "all":
        check_folded(node, arrays, 13)
    else:
        constants = {"i": arrays.pop("i")} if known == "indices" else {}
        check(node, arrays, constants)


@pytest.mark.parametrize("axis,indices", [
    (0, [[0, -1, 1], [2, 0, 3]]), (1, [[2, -3], [0, 1], [1, 2]]), (-1, [[0, 2], [1, 0]])])
def test_scatter_elements(axis, indices):
    indices = np.array(indices, np.int64)
    check(make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=axis),
          {"x": floats(4, 3), "u": floats(*indices.shape)}, {"i": indices})


@pytest.mark.parametrize("options", [
    {}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_cum_sum(options, size, dtype):
    x = RNG.integers(-9, 9, (2, size, 3)).astype(dtype)
    for axis in (1, -2):
        check(make_node("CumSum", ["x", "axis"], ["y"], **options), {"x": x},
              {"axis": np.array(axis, np.int32)}, opset=14,
              dtypes={"y": TensorProto.FLOAT if dtype == np.float32 else TensorProto.INT64})


@pytest.mark.parametrize("op_type,attributes", [
    ("LRN", {"size": 3, "alpha": 0.5}),
    ("MaxPool", {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"})])
def test_constants_of_ops_that_the_reference_evaluator_has_wrong(op_type, attributes):
    arrays = {"x": floats(2, 5, 4, 5), "zero": np.zeros(1, np.float32)}
    nodes = [make_node(op_type, ["x"], ["pooled"], **attributes),
             make_node("Add", ["pooled", "zero"], ["y"])]
    check(nodes, {"zero": arrays.pop("zero")}, arrays)
