"""ONNX OneHot, GatherND and ScatterND against ONNX Runtime, and what they become."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, codes, floats, ints, model_of


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


def test_gather_nd_of_rows_known_at_run_time():
    check(make_node("GatherND", ["x", "i"], ["y"]),
          {"x": floats(5, 3), "i": np.array([[[4]], [[0]]], np.int64)})


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
])
def test_models_that_contradict_themselves(op, constants, message):
    arrays = {name: np.array(a, np.float32 if name == "u" else np.int64)
              for name, a in constants.items()}
    model = model_of(make_node(op, ["x", *arrays], ["y"]), {"x": floats(3, 4)}, arrays)
    with pytest.raises(ModelError, match=message):
        import_proto(model)


@pytest.mark.parametrize("op,message", [
    ("GatherND", "its index input is computed at run time"),
    ("ScatterND", "its index input is computed at run time"),
])
def test_indices_at_run_time_are_refused(op, message):
    inputs = {"x": floats(3, 4), "i": np.array([[0, 1]], np.int64)}
    if op == "ScatterND":
        inputs["u"] = floats(1)
    model = model_of(make_node(op, list(inputs), ["y"]), inputs)
    with pytest.raises(UnsupportedError, match=message):
        import_proto(model)


def test_a_scatter_that_adds_is_refused():
    model = model_of(make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"),
                     {"x": floats(3, 4)}, {"i": np.array([[0]], np.int64), "u": floats(1, 4)},
                     opset=16)
    with pytest.raises(UnsupportedError, match="reduction is 'add'"):
        import_proto(model)
