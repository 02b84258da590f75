"""The boundary of imported TFLite models, and every error message of the importer."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun.errors import EdgerunError, InputError, ModelError, UnsupportedError
from edgerun.tools.importers import tflite as importer
from tests.tools.tflite_builder import Sparsity, TFLiteBuilder, load, random


def small_model() -> TFLiteBuilder:
    """Return x0 [2, 8] -> FULLY_CONNECTED -> LOGISTIC."""
    m = TFLiteBuilder()
    y = m.op("FULLY_CONNECTED", [m.input((2, 8)), m.const(random((5, 8))), m.const(random((5,)))],
             "FullyConnectedOptions", FusedActivationFunction=1)
    m.op("LOGISTIC", [y])
    return m


def dynamic(shape, signature) -> bytes:
    m = TFLiteBuilder()
    return m.finish([m.op("RELU", [m.input(shape, signature=signature, name="image")])])


def test_dynamic_batch_becomes_one_with_a_note(tmp_path):
    graph = load(dynamic((1, 4, 4, 3), (-1, 4, 4, 3)), tmp_path)
    assert graph.inputs[0].shape == (1, 4, 4, 3)
    assert graph.notes == ["the input 'image' has the dynamic shape [?, 4, 4, 3]; packed for a "
                           "batch of 1 (--shape chooses another)"]


def test_given_shapes_win(tmp_path):
    graph = load(dynamic((1, 1, 1, 3), (-1, -1, -1, 3)), tmp_path, {"image": (2, 6, 7, 3)})
    assert graph.inputs[0].shape == graph.outputs[0].shape == (2, 6, 7, 3)
    assert not graph.notes


def test_dynamic_image_needs_a_shape(tmp_path):
    with pytest.raises(InputError, match=r"'image' has the dynamic shape \[\?, \?, \?, 3\]: needed "
                                         r"its size, for example --shape image=1,224,224,3"):
        load(dynamic((1, 1, 1, 3), (-1, -1, -1, 3)), tmp_path)


def test_equal_names_become_different(tmp_path):
    m = TFLiteBuilder()
    y = m.op("ADD", [m.input((2, 3), name="a"), m.input((2, 3), name="a")])
    graph = load(m.finish([y, y]), tmp_path, {"a": (1, 3), "a.1": (4, 1)})
    assert [(b.name, b.shape) for b in graph.inputs] == [("a", (1, 3)), ("a.1", (4, 1))]
    assert [(b.name, b.shape) for b in graph.outputs] == [("y2", (4, 3)), ("y2.1", (4, 3))]
    assert graph.notes == ["more than one input is named 'a'; one of them is now 'a.1'",
                           "more than one output is named 'y2'; one of them is now 'y2.1'"]


def test_shape_of_an_unknown_input(tmp_path):
    with pytest.raises(InputError, match="no input 'picture' to give a shape, needed 'image'"):
        load(dynamic((1, 4), (1, 4)), tmp_path, {"picture": (1, 4)})


@pytest.mark.parametrize("given", [(1, 4, 4), (0, 4)])
def test_shape_of_another_rank(given, tmp_path):
    with pytest.raises(InputError, match="'image': needed 2 dimensions of at least 1"):
        load(dynamic((1, 4), (1, 4)), tmp_path, {"image": given})


def test_unsupported_ops_are_listed_together(tmp_path):
    m = TFLiteBuilder()
    x = m.input((2, 8))
    a = m.op("HASHTABLE_FIND", [x, m.const(0, "int32")])
    b = m.op("HASHTABLE_FIND", [a, m.const(0, "int32")])
    c = m.op("CUSTOM", [b], custom="MyDetector")
    d = m.op("WHILE", [c], "WhileOptions")
    with pytest.raises(UnsupportedError) as caught:
        load(m.finish([m.op("RELU", [d])]), tmp_path)
    message = str(caught.value)
    assert f"2 HASHTABLE_FIND (for example the one that writes '{m.tensors[a].name}')" in message
    assert f"1 CUSTOM(MyDetector) (for example the one that writes '{m.tensors[c].name}'" in message
    assert "1 WHILE" in message and "RELU" not in message
    assert "export the model without them" in message


def test_boundary_of_another_type(tmp_path):
    m = TFLiteBuilder()
    x = m.input((2,), "COMPLEX64")
    with pytest.raises(UnsupportedError, match="'x0' of type COMPLEX64; needed one of FLOAT32"):
        load(m.finish([m.op("NEG", [x], out="COMPLEX64")]), tmp_path)


def build_unsupported(kind: str) -> TFLiteBuilder:
    """Return a model with one op used in a way that is not implemented."""
    m = TFLiteBuilder()
    x = m.input((2, 4))
    if kind == "shuffled":
        m.op("FULLY_CONNECTED", [x, m.const(random((4, 4)))], "FullyConnectedOptions",
             WeightsFormat=1)
    elif kind == "activation":
        m.op("ADD", [x, x], "AddOptions", FusedActivationFunction=5)
    elif kind == "axis":
        m.op("MEAN", [x, m.input((1,), "int32")], "ReducerOptions")
    elif kind == "filter":
        m.op("CONV_2D", [m.input((1, 4, 4, 2)), m.input((3, 1, 1, 2))], "Conv2DOptions", StrideH=1,
             StrideW=1, DilationHFactor=1, DilationWFactor=1)
    elif kind == "nearest":
        m.op("RESIZE_NEAREST_NEIGHBOR", [m.input((1, 2, 2, 1)), m.const([3, 3], "int32")],
             "ResizeNearestNeighborOptions", AlignCorners=True, HalfPixelCenters=True)
    elif kind == "empty":
        m.op("SLICE", [x, m.const([0, 0], "int32"), m.const([0, 4], "int32")])
    elif kind == "state":
        m.op("ADD", [x, m.tensor("state", (2, 4), variable=True)])
    return m


@pytest.mark.parametrize("kind,message", [
    ("shuffled", "FULLY_CONNECTED '.*': has shuffled weights"),
    ("activation", "ADD '.*': has the fused activation 5, known are NONE"),
    ("axis", r"MEAN '.*': the axes \('x1'\) is computed at run time, needed a constant"),
    ("filter", "CONV_2D '.*': its conv2d weights 'x2' are computed at run time"),
    ("nearest", "align_corners together with half_pixel_centers"),
    ("empty", "SLICE '.*': its result has no elements"),
    ("state", "reads 'state' .*keeps its state between runs")])
def test_unsupported_use_of_an_op(kind, message, tmp_path):
    m = build_unsupported(kind)
    with pytest.raises(UnsupportedError, match=message):
        load(m.finish([len(m.tensors) - 1]), tmp_path)


def build_wrong(kind: str) -> tuple[TFLiteBuilder, dict]:
    """Return a model that contradicts itself, and changes of how it is finished."""
    m = TFLiteBuilder()
    x = m.input((2, 4))
    image = (1, 4, 4, 2)
    if kind == "inputs":
        m.op("ADD", [x])
    elif kind == "missing":
        m.op("ADD", [x, -1])
    elif kind == "outputs":
        m.op("RELU", [x], outs=2)
    elif kind == "stride":
        m.op("MAX_POOL_2D", [m.input(image)], "Pool2DOptions", FilterHeight=2, FilterWidth=2)
    elif kind == "padding":
        m.op("MAX_POOL_2D", [m.input(image)], "Pool2DOptions", FilterHeight=2, FilterWidth=2,
             StrideH=1, StrideW=1, Padding=7)
    elif kind == "broadcast":
        m.op("ADD", [x, m.const(random((3,)))])
    elif kind == "axis":
        m.op("CONCATENATION", [x, x], "ConcatenationOptions", Axis=2)
    elif kind == "reshape":
        m.op("RESHAPE", [x, m.const([3, 3], "int32")])
    elif kind == "zero":
        m.op("RESHAPE", [x, m.const([0, -1], "int32")])
    elif kind == "floats":
        m.op("RESHAPE", [x, m.const([2.0, 4.0], "float32")])
    elif kind == "dtype":
        m.op("RELU", [x], out="int32")
    elif kind == "scale":
        m.op("FULLY_CONNECTED", [x, m.const(np.ones((4, 4), np.int8))], "FullyConnectedOptions")
    elif kind == "bias":
        m.op("FULLY_CONNECTED", [x, m.const(random((4, 4))), m.const(random((3,)))],
             "FullyConnectedOptions")
    elif kind == "index":
        m.op("GATHER", [m.const(random((3,))), m.const([5], "int32")], "GatherOptions")
    elif kind == "empty":
        m.op("EXPAND_DIMS", [x, m.const(np.zeros(0, np.int32))])
    elif kind == "bomb":
        m.op("FILL", [m.const([2**30, 2**30], "int32"), m.const(1.0, "float32")])
    elif kind == "int64":
        m.op("ADD", [m.input((2,), "int64"), m.const([2**40, 0], "int64")], out="int64")
    elif kind == "order":
        m.op("RELU", [m.tensor("nowhere", (2, 4))])
    elif kind == "twice":
        m.op("RELU", [x])
        m.ops[0].outputs = [x]
    elif kind == "tensor":
        m.op("RELU", [99])
    elif kind == "bytes":
        m.op("ADD", [x, m.const(random((4,)), shape=(5,))])
    elif kind == "scales":
        m.op("RELU", [m.const(random((4,)), quantization=([0.1, 0.2], [0, 0], 0))])
    elif kind == "signature":
        m.op("RELU", [m.input((2, 4), signature=(2, 4, 1))])
    elif kind == "sparse":
        m.op("DENSIFY", [m.const(random((4,)), shape=(2, 4), sparsity=Sparsity([0, 0], [2, 4]))])
    elif kind == "levels":
        m.op("DENSIFY", [m.const(random((4,)), shape=(2, 4), sparsity=Sparsity([0, 1], [2, ()]))])
    elif kind in ("version", "identifier", "subgraphs"):
        m.op("RELU", [x])
    return m, {"version": dict(version=2), "identifier": dict(identifier=b"TFL9"),
               "subgraphs": dict(subgraphs=0)}.get(kind, {})


@pytest.mark.parametrize("kind,message", [
    ("inputs", "ADD '.*': 1 inputs, needed 2 to 2"),
    ("missing", "ADD '.*': input 1 is missing"),
    ("outputs", "RELU '.*': 2 outputs, needed 1"),
    ("stride", r"MAX_POOL_2D '.*': stride \(0, 0\), .* needed at least 1"),
    ("padding", "padding scheme 7, needed SAME"),
    ("broadcast", r"ADD '.*': .*\(2, 4\) and \(3,\) do not broadcast"),
    ("axis", "CONCATENATION '.*': axis 2 of 2 dimensions"),
    ("reshape", r"x0 of the shape \(2, 4\) into \[3, 3\]; needed as many elements"),
    ("zero", r"into \[0, -1\]; needed as many elements"),
    ("floats", "the shape has the type float32, needed integers"),
    ("dtype", "its output '.*' is declared INT32, but its inputs make it fp32"),
    ("scale", "its weights '.*' are INT8 without a scale"),
    ("bias", "its bias has 3 elements, needed 4"),
    ("index", "GATHER '.*': .*has values from 5 to 5, needed -3 to 2"),
    ("empty", "EXPAND_DIMS '.*': its operands contradict each other: IndexError"),
    ("bomb", "its constant result has 1152921504606846976 elements"),
    ("int64", "a value does not fit into int32"),
    ("order", "RELU '.*' reads 'nowhere', which nothing before it writes"),
    ("twice", "writes 'x0', which already has a value"),
    ("tensor", r"the inputs of op 0 \(RELU\) name tensor 99 of 2"),
    ("bytes", r"tensor 'c2': 16 bytes, needed 20 for float32 \(5,\)"),
    ("scales", r"2 scales along axis 0 of the shape \(4,\)"),
    ("signature", r"has the shape \(2, 4\) but the signature \(2, 4, 1\)"),
    ("sparse", "its sparsity parameters do not fit 2 dimensions"),
    ("levels", r"its sparsity has index types \(0, 0\), needed 1, 2 or 3"),
    ("version", "version 2 of the format, needed 3"),
    ("identifier", r"not a TFLite model: bytes 4 to 8 are b'TFL9', needed b'TFL3'"),
    ("subgraphs", "has no subgraph")])
def test_contradictory_model(kind, message, tmp_path):
    m, finish = build_wrong(kind)
    with pytest.raises(ModelError, match=message):
        load(m.finish([len(m.tensors) - 1], **finish), tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        importer.load(tmp_path / "none.tflite", {})


def test_more_subgraphs_are_noted(tmp_path):
    m = small_model()
    graph = load(m.finish([len(m.tensors) - 1], subgraphs=2), tmp_path)
    assert graph.notes == ["m.tflite has 2 subgraphs; only the first is imported"]


SMALL = small_model().finish([4])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(8, len(SMALL) - 1), st.integers(0, 255)), min_size=1,
                max_size=4), st.integers(16, len(SMALL)))
def test_damage_is_always_an_edgerun_error(tmp_path_factory, changes, length):
    """Flipped and cut bytes: either the import works, or it says what is wrong."""
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.tflite"
    for version in (bytes(data), SMALL[:length]):
        path.write_bytes(version)
        try:
            importer.load(path, {})
        except EdgerunError as error:
            assert str(error).startswith(str(path))
