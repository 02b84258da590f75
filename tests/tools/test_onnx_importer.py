"""The ONNX importer: folding, the boundary, shapes, every error message, real models."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node

from edgerun.errors import EdgerunError, InputError, ModelError, UnsupportedError
from edgerun.tools import reference
from edgerun.tools.importers.onnx import import_proto, load
from tests.tools.onnx_models import check, codes, floats, ints, model_of, runtime

# Folding

def test_shape_arithmetic_never_reaches_the_device():
    nodes = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        make_node("Reshape", ["x", "target"], ["y"])]
    constants = {"zero": np.array(0, np.int64), "minus": ints(-1)}
    graph = check(nodes, {"x": floats(2, 3, 4)}, constants, opset=11)
    assert codes(graph) == ["reshape"]


def test_shape_of_an_unknown_value_is_known():
    nodes = [make_node("Relu", ["x"], ["h"]), make_node("Shape", ["h"], ["s"]),
             make_node("ConstantOfShape", ["s"], ["zeros"]),
             make_node("Size", ["h"], ["count"]),
             make_node("Cast", ["count"], ["f"], to=TensorProto.FLOAT),
             make_node("Range", ["start", "stop", "step"], ["r"]),
             make_node("Add", ["zeros", "f"], ["a"]), make_node("Add", ["a", "r"], ["b"]),
             make_node("Add", ["h", "b"], ["y"])]
    constants = {"start": np.float32(0), "stop": np.float32(4), "step": np.float32(1)}
    constants = {name: np.array(value) for name, value in constants.items()}
    assert codes(check(nodes, {"x": floats(3, 4)}, constants)) == ["unary", "binary"]


def test_constant_forms():
    nodes = [make_node("Constant", [], ["a"], value_float=2.0),
             make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
             make_node("Constant", [], ["c"], value_int=1),
             make_node("Constant", [], ["d"], value_ints=[0, 1, 2]),
             make_node("Gather", ["b", "d"], ["e"]),
             make_node("Unsqueeze", ["x", "f"], ["g"]),
             make_node("Constant", [], ["f"], value=numpy_helper.from_array(ints(0))),
             make_node("Mul", ["g", "e"], ["h"]), make_node("Add", ["h", "a"], ["y"])]
    nodes[5], nodes[6] = nodes[6], nodes[5]
    check(nodes, {"x": floats(3)})


def test_initializer_that_is_an_input_is_a_constant():
    model = model_of(make_node("Add", ["x", "w"], ["y"]), {"x": floats(3), "w": floats(3)},
                     {"w": np.ones(3, np.float32)})
    graph = import_proto(model)
    assert [b.name for b in graph.inputs] == ["x"]


@pytest.mark.parametrize("taken", [False, True])
def test_if_with_a_known_condition(taken):
    def branch(op_type):
        return helper.make_graph([make_node(op_type, ["x"], ["r"])], op_type, [], [
            helper.make_tensor_value_info("r", TensorProto.FLOAT, None)])
    node = make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    graph = check(node, {"x": floats(3, 4)}, {"c": np.array(taken)})
    assert [op.options["kind"] for op in graph.ops] == ["relu" if taken else "neg"]


def test_local_functions_are_inlined():
    body = helper.make_function("local", "Twice", ["a"], ["b"], [
        make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)])
    model = model_of(make_node("Twice", ["x"], ["y"], domain="local"), {"x": floats(3)})
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("local", 1))
    x = floats(3)
    np.testing.assert_array_equal(reference.execute(import_proto(model), {"x": x})["y"], x + x)


def test_ops_that_onnx_defines_by_others():
    x = floats(3, 4)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)
    node = make_node("RMSNormalization", ["x", "s"], ["y"], axis=-1, epsilon=1e-3)
    check(node, {"x": x}, {"s": np.full(4, 2, np.float32)}, opset=23, expected={"y": 2 * y})


def test_unused_optional_inputs_and_outputs():
    x = floats(4)
    node = make_node("Split", ["x"], ["", "a"], axis=0)
    graph = check(node, {"x": x}, opset=11, outputs=("a",), expected={"a": x[2:]})
    assert codes(graph) == ["slice"]


# Boundary

def test_boundary_types_are_the_models():
    x = np.array([1.5, -2.0])
    model = model_of(make_node("Abs", ["x"], ["y"]), {"x": x}, dtypes={"y": TensorProto.DOUBLE})
    graph = import_proto(model)
    assert (graph.inputs[0].dtype, graph.outputs[0].dtype) == ("fp64", "fp64")
    assert graph.inputs[0].tensor.dtype == "fp32"
    assert "float64" in graph.notes[0]
    assert reference.execute(graph, {"x": x})["y"].dtype == np.float64


def test_half_stays_half():
    x = floats(2, 3, 4, 4).astype(np.float16)
    w, b = floats(5, 3, 1, 1).astype(np.float16), floats(5).astype(np.float16)
    model = model_of([make_node("Conv", ["x", "w", "b"], ["h"]),
                      make_node("Relu", ["h"], ["y"])], {"x": x}, {"w": w, "b": b},
                     dtypes={"y": TensorProto.FLOAT16})
    graph = import_proto(model)
    assert {t.dtype for t in graph.tensors() if not t.constant} == {"fp16"}
    found = reference.execute(graph, {"x": x})["y"]
    np.testing.assert_allclose(found, runtime(model, {"x": x})["y"], rtol=1e-2, atol=1e-2)


def test_integer_inputs_stay_int64_at_the_boundary():
    indices = ints(2, 0)
    graph = check(make_node("Gather", ["table", "i"], ["y"]), {"i": indices},
                  {"table": floats(3, 4)})
    assert graph.inputs[0].dtype == "int64" and graph.inputs[0].tensor.dtype == "int32"


def test_an_output_may_be_an_input_or_a_constant():
    nodes = [make_node("Identity", ["x"], ["y"]), make_node("Identity", ["c"], ["z"])]
    check(nodes, {"x": floats(3)}, {"c": floats(2)}, outputs=("y", "z"))


# Shapes of inputs

def dynamic(*dims, name: str = "x") -> onnx.ModelProto:
    """Return a model y = -x whose input has the dims (text: symbolic)."""
    model = model_of(make_node("Neg", ["x"], ["y"]), {})
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, dims))
    return model


def test_a_dynamic_batch_becomes_one():
    graph = import_proto(dynamic("N", 3))
    assert graph.inputs[0].shape == (1, 3)
    assert graph.notes == ["Input 'x' has the dynamic first dimension 'N'; it is fixed to 1 (give "
                           "a shape for another number)."]


def test_a_given_shape_is_used():
    graph = import_proto(dynamic("N", 3, "W"), {"x": (2, 3, 5)})
    assert graph.inputs[0].shape == (2, 3, 5)
    assert graph.notes == []


def test_other_dynamic_dimensions_need_a_shape():
    with pytest.raises(InputError, match=r"input 'x': its shape is not fixed; the inputs are 'x' "
                       r"\[N, 3, H\].*--shape x=1,3,1"):
        import_proto(dynamic("N", 3, "H"))


def test_an_input_without_rank_needs_a_shape():
    model = dynamic("N")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="'x' any shape.*--shape x="):
        import_proto(model)
    assert import_proto(model, {"x": (4,)}).inputs[0].shape == (4,)


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 1), (0, 3)])
def test_a_shape_that_does_not_fit(shape):
    with pytest.raises(InputError, match=r"the model needs 'x' \[N, 3\]"):
        import_proto(dynamic("N", 3), {"x": shape})


def test_a_shape_for_no_input():
    with pytest.raises(InputError, match=r"'z', which is no input: the inputs are 'x' \[N, 3\]"):
        import_proto(dynamic("N", 3), {"z": (1, 3)})


def test_an_input_without_elements():
    with pytest.raises(UnsupportedError, match="has no elements"):
        import_proto(dynamic(2, 0))


# What is not supported, and what is wrong

def test_every_unsupported_op_is_listed_at_once():
    nodes = [make_node("Multinomial", ["x"], ["v"], name="draw"),
             make_node("Relu", ["v"], ["h"]),
             make_node("NonZero", ["h"], ["nz"], name="nz"),
             make_node("Unique", ["x"], ["d1"], name="first_unique"),
             make_node("Unique", ["x"], ["d2"], name="second_unique"),
             make_node("Odd", ["h"], ["odd"], name="odd", domain="my.domain"),
             make_node("Resize", ["x4", "roi", "scales"], ["y"], name="crop", mode="cubic",
                       coordinate_transformation_mode="tf_crop_and_resize")]
    model = model_of(nodes, {"x": floats(3, 3), "x4": floats(1, 1, 4, 4)},
                     {"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
                      "scales": np.array([1, 1, 2, 2], np.float32)})
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    with pytest.raises(UnsupportedError) as caught:
        import_proto(model)
    text = str(caught.value)
    assert "Unique (2 nodes, first 'first_unique')" in text
    assert "Multinomial (1 node, first 'draw')" in text
    assert "NonZero (1 node, first 'nz')" in text
    assert "my.domain.Odd (1 node, first 'odd')" in text
    assert "Resize (1 node, first 'crop'): mode is 'cubic' with tf_crop_and_resize" in text
    assert "Relu" not in text
    assert "onnxsim" in text and "cut the graph" in text


REFUSED = {
    "weights": (make_node("Conv", ["x", "w"], ["y"]),
                {"x": (1, 2, 4, 4), "w": (3, 2, 3, 3)}, "its weight is computed at run time"),
    "3d": (make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2]), {"x": (1, 1, 4, 4, 4)},
           "it has 3 spatial axes, needed 1 or 2"),
    "indices": (make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]),
                {"x": (1, 1, 4, 4)}, "its output 1 is read"),
    "reshape": (make_node("Reshape", ["x", "s"], ["y"]), {"x": (4,), "s": (1,)},
                "its shape is computed at run time"),
    "if": (make_node("If", ["x"], ["y"], then_branch=helper.make_graph([], "t", [], []),
                            else_branch=helper.make_graph([], "e", [], [])), {"x": (1,)},
           "its condition is computed at run time"),
    "empty": (make_node("Slice", ["x"], ["y"], starts=[2], ends=[2]), {"x": (4,)},
              "has no elements"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_use_of_a_supported_op(name):
    node, shapes, message = REFUSED[name]
    inputs = {key: floats(*shape) for key, shape in shapes.items()}
    if "s" in inputs:
        inputs["s"] = ints(4)
    if name == "if":
        inputs["x"] = np.array([True])
    model = model_of(node, inputs, opset=9 if name == "empty" else 13)
    if name == "indices":
        model.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, None))
    with pytest.raises(UnsupportedError, match=message):
        import_proto(model)


def test_batch_normalization_in_training_mode():
    names = ["s", "b", "m", "v"]
    node = make_node("BatchNormalization", ["x", *names], ["y"], training_mode=1)
    model = model_of(node, {"x": floats(1, 3, 2)}, {n: floats(3) for n in names}, opset=15)
    with pytest.raises(UnsupportedError, match="training mode"):
        import_proto(model)


def test_element_types_that_the_device_has_not():
    for array in (np.zeros(3, np.uint64), np.zeros(3, np.complex64)):
        model = model_of(make_node("Identity", ["x"], ["y"]), {"x": array})
        with pytest.raises(UnsupportedError, match="input 'x': has elements of the type"):
            import_proto(model)
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model = model_of(make_node("Identity", ["x"], ["y"]), {"x": floats(1)})
    model.graph.input.append(sequence)
    with pytest.raises(UnsupportedError, match="is a sequence_type, needed a tensor"):
        import_proto(model)


def test_opsets_out_of_range():
    nodes = [make_node("Relu", ["x"], ["h"]), make_node("Add", ["h", "h"], ["y"])]
    inputs = {"x": floats(1)}
    with pytest.raises(UnsupportedError, match="its opset is 99, needed 7 to 28"):
        import_proto(model_of(nodes, inputs, opset=99))
    with pytest.raises(UnsupportedError, match=r"opset is 6 \(Add changed since then\), needed"):
        import_proto(model_of(nodes, inputs, opset=6))
    unchanged = model_of(make_node("Relu", ["x"], ["y"]), inputs, opset=6)
    assert codes(import_proto(unchanged)) == ["unary"]


WRONG = {
    "unknown value": (make_node("Add", ["x", "nothing"], ["y"]), {"x": (2,)},
                      "reads 'nothing', which nothing before it makes"),
    "missing input": (make_node("Add", ["x"], ["y"]), {"x": (2,)}, "input 1 is missing"),
    "shapes": (make_node("Add", ["x", "z"], ["y"]), {"x": (2,), "z": (3,)}, "do not broadcast"),
    "concat": (make_node("Concat", ["x", "z"], ["y"], axis=0), {"x": (2, 3), "z": (2, 2)},
               "has the shape"),
    "perm": (make_node("Transpose", ["x"], ["y"], perm=[0, 0]), {"x": (2, 3)}, "perm"),
    "axis": (make_node("Flatten", ["x"], ["y"], axis=5), {"x": (2, 3)}, "axis 5"),
    "matmul": (make_node("MatMul", ["x", "z"], ["y"]), {"x": (2, 3), "z": (2, 3)}, "do not fit"),
    "output": (make_node("Relu", ["x"], ["other"]), {"x": (2,)}, "output 'y': no node makes it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_models_that_contradict_themselves(name):
    node, shapes, message = WRONG[name]
    model = model_of(node, {key: floats(*shape) for key, shape in shapes.items()})
    with pytest.raises(ModelError, match=message):
        import_proto(model)


def test_constants_that_cannot_be_computed():
    model = model_of(make_node("Reshape", ["c", "s"], ["y"]), {},
                     {"c": floats(6), "s": ints(4, 2)})
    with pytest.raises(ModelError, match=r"Reshape 'y': the shape \(6,\) does not fit"):
        import_proto(model)
    model = model_of(make_node("MelWeightMatrix", ["c"], ["y"]), {}, {"c": floats(6)}, 17)
    with pytest.raises(ModelError, match="MelWeightMatrix 'y': cannot be computed from its "
                                         "constant inputs"):
        import_proto(model)


# Files

def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "bad.onnx"
    for data in (b"", b"not a model", b"\x08\x01" + bytes(range(256)), b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="bad.onnx"):
            load(path)
    with pytest.raises(ModelError, match="missing.onnx"):
        load(tmp_path / "missing.onnx")


def test_every_truncation_is_an_edgerun_error(tmp_path):
    whole = model_of(make_node("Conv", ["x", "w"], ["y"]), {"x": floats(1, 2, 4, 4)},
                     {"w": floats(3, 2, 3, 3)}).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises((ModelError, UnsupportedError)):
            load(path)


def test_changed_bytes_never_escape_as_other_errors(tmp_path):
    nodes = [make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
             make_node("Constant", [], ["s"], value=numpy_helper.from_array(ints(1, -1))),
             make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2]),
             make_node("Reshape", ["b", "s"], ["c"]), make_node("Softmax", ["c"], ["y"], axis=1)]
    model = model_of(nodes, {"x": floats(1, 2, 8, 8)}, {"w": np.ones((1, 2, 1, 1), np.float32)})
    whole, rng, path = model.SerializeToString(), np.random.default_rng(3), tmp_path / "m.onnx"
    refused = 0
    for _ in range(600):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            load(path)
        except EdgerunError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("node, message", [
    (make_node("Elu", ["x"], ["y"], alpha=[1.0, 2.0]), "Elu 'y': its attributes or inputs"),
    (make_node("MaxPool", ["x"], ["y"]), "has no kernel_shape"),
    (make_node("Flatten", ["x"], ["y"], axis=1.5), "Flatten 'y'")])
def test_wrong_attributes(node, message):
    model = model_of(node, {"x": floats(1, 2, 8, 8)}, {"w": floats(1, 2, 1, 1)})
    with pytest.raises(ModelError, match=message):
        import_proto(model)


def test_external_data(tmp_path):
    w = floats(3, 2, 3, 3)
    model = model_of(make_node("Conv", ["x", "w"], ["y"]), {"x": floats(1, 2, 4, 4)}, {"w": w})
    x, path = {"x": floats(1, 2, 4, 4)}, tmp_path / "model.onnx"
    expected = runtime(model, x)["y"]
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    found = reference.execute(load(path), x)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="model.onnx"):
        load(path)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "old.onnx"
    onnx.save(model_of(make_node("Neg", ["x"], ["y"]), {"x": floats(1)}, opset=5), path)
    with pytest.raises(UnsupportedError, match="old.onnx: its opset is 5"):
        load(path)


# Real models

MODELS = ["squeezenet_v1.0_dc", "fashion_mnist_cnn", "mnist_cntk_op13", "ultraface_RFB-320",
          "ultraface_RFB-320_simplified", "ultraface_RFB-320_without_postprocessing",
          "super_resolution", "FastestDet", "hyperlpr_y5fu_320x", "vitTracker", "dtln_model_1",
          "dtln_model_2", "gtcrn_simple", "silero_old_model_micro"]


@pytest.mark.parametrize("name", MODELS)
def test_real_model(name, shared_data):
    golden = np.load(shared_data / "golden" / "onnx" / f"{name}.npz")
    feeds = {key: golden[f"input_{i}"][0] for i, key in enumerate(golden["input_names"])}
    graph = load(shared_data / "models" / "onnx" / f"{name}.onnx",
                 {key: array.shape for key, array in feeds.items()})
    found = reference.execute(graph, feeds)
    for i, key in enumerate(golden["output_names"]):
        want = golden[f"output_{i}"][0]
        assert found[key].shape == want.shape and found[key].dtype == want.dtype
        assert np.abs(found[key] - want).max() <= 1e-3 * np.ptp(want)


def test_real_model_with_ops_that_have_no_fixed_shape(shared_data, tmp_path):
    """How many elements they give depends on the values: no plan of memory can hold them."""
    model = onnx.load(shared_data / "models" / "onnx" / "mnist_cntk_op13.onnx")
    last = model.graph.output[0].name
    model.graph.node.extend([
        onnx.helper.make_node("NonZero", [last], ["found"], "find"),
        onnx.helper.make_node("Unique", [last], ["kinds"], "count"),
        onnx.helper.make_node("NonZero", [model.graph.input[0].name], ["ink"], "look")])
    model.graph.output.extend([onnx.helper.make_tensor_value_info(name, kind, None) for name, kind
                               in (("found", 7), ("kinds", 1), ("ink", 7))])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        load(tmp_path / "m.onnx")
    assert "NonZero (2 nodes, first 'find')" in str(caught.value)
    assert "Unique (1 node, first 'count')" in str(caught.value)
