"""Quantized ONNX models: every op and form against ONNX Runtime, and weights that stay integers."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.helper import make_node

from edgerun import dtypes
from edgerun.tools import lower, passes, reference
from edgerun.tools.importers.onnx import import_proto
from edgerun.tools.precision import widen
from tests.tools.onnx_models import (
    MS, codes, f32, floats, make, model_of, random_ints, runtime)

def run_model(model, inputs, equal=0.99):
    """Import, compare with ONNX Runtime: integers may differ by one step, seldom. Then run passes,
    which must change nothing, and lower, which may round otherwise; returns the graph as it was
    imported."""
    expected = runtime(model, inputs)
    imported = import_proto(model)
    graph = import_proto(model)
    widen(graph)
    before = reference.execute(graph, inputs)
    for _, run_pass in passes.PIPELINE:
        run_pass(graph)
    after = reference.execute(graph, inputs)
    for name, want in expected.items():
        y = before[name]
        assert (y.dtype, y.shape) == (want.dtype, want.shape), name
        if want.dtype.kind in "iu":
            steps = np.abs(y.astype(np.int64) - want.astype(np.int64))
            assert steps.max(initial=0) <= 1 and (steps == 0).mean() >= equal, name
            assert np.array_equal(after[name], y), name
        else:
            rounding = 2e-3 if want.dtype == np.float16 else 1e-5
            atol = 1e-5 * max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(y, want, rounding, atol, err_msg=name)
            np.testing.assert_allclose(after[name], y, 1e-5, atol, err_msg=name)
    lower.apply(graph)
    lowered = reference.execute(graph, inputs)
    for name, y in before.items():
        apart = np.abs(lowered[name].astype(np.float64) - y)
        largest = max(1.0, float(np.abs(y).max()))
        assert (apart <= 1e-4 * largest).mean() >= min(equal, 0.9), f"{name} after lowering"
        assert apart.max() <= (1 if y.dtype.kind in "iu" else 0.1 * largest), name
    assert not any(t.dtype == "int8" and t.quantization and not t.constant
                   for t in graph.tensors())
    return imported


def run(nodes, inputs, constants=None, opset=13, outputs=("y",), to=np.float32, equal=0.99):
    return run_model(make(nodes, inputs, constants, opset, outputs, to), inputs, equal)


def stored_constants(graph):
    """Return the quantized constants of a graph: [(shape, dtype, axis, number of scales)]."""
    return sorted((t.shape, t.dtype, t.quantization.axis, len(t.quantization.scale))
                  for t in graph.tensors() if t.constant and t.quantization)


def q_dq(x, y, tag, domain=""):
    """Round x to the grid of s<tag>, z<tag>."""
    names = [f"s{tag}", f"z{tag}"]
    return [make_node("QuantizeLinear", [x, *names], [f"{y}.q"], domain=domain),
            make_node("DequantizeLinear", [f"{y}.q", *names], [y], domain=domain)]


# Conversions

@pytest.mark.parametrize("domain, opset", [("", 10), ("", 13), ("", 19), ("", 21), ("", 23),
                                           (MS, 13)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_conversions(domain, opset, dtype):
    constants = {"s0": f32(0.05), "z0": np.array(7, dtype)}
    graph = run(q_dq("x", "y", 0, domain), {"x": floats(2, 3, 4) * 4}, constants, opset)
    assert codes(graph) == ["quantize", "dequantize"]


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_conversions_without_zero_point(dtype):
    nodes = q_dq("x", "y", 0)
    del nodes[0].input[2:], nodes[1].input[2:]
    if dtype is np.int16:
        nodes[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.INT16))
    graph = run(nodes, {"x": floats(2, 30)}, {"s0": f32(0.01)}, 21)
    rounding = "single" if dtype is np.uint8 else "once"  # ONNX Runtime computes int16 in floats
    assert graph.ops[0].outputs[0].quantization.rounding == rounding


def test_one_scale_per_channel_at_run_time():
    constants = {"s0": f32(0.05, 0.02, 0.5), "z0": np.array([7, 128, 250], np.uint8)}
    graph = run(q_dq("x", "y", 0), {"x": floats(2, 3, 4) * 4}, constants)
    assert not {"quantize", "dequantize"} & set(codes(graph))


def test_scale_at_run_time():
    x = {"x": floats(2, 3), "s0": f32(0.02), "z0": np.array(3, np.int8)}
    run(q_dq("x", "y", 0), x)


def test_halves():
    x = floats(4, 5).astype(np.float16)
    constants = {"s0": np.array(0.02, np.float16), "z0": np.array(3, np.int8)}
    graph = run(q_dq("x", "y", 0), {"x": x}, constants, 19, to=np.float16)
    assert widen(graph) == "fp16"
    assert not any(op.options["dtype"] == "fp16" for op in graph.ops)


def test_int32_at_run_time():
    x = random_ints(np.int32, 3, 4) // 1000
    run(make_node("DequantizeLinear", ["x", "s"], ["y"]), {"x": x}, {"s": f32(0.25)})


def test_constant_that_is_rounded_stays_integers():
    """Weights as quantization-aware training exports them: real, behind both conversions."""
    nodes = [*q_dq("w", "v", 0), make_node("MatMul", ["x", "v"], ["y"])]
    nodes[0].attribute.append(helper.make_attribute("axis", 1))
    nodes[1].attribute.append(helper.make_attribute("axis", 1))
    constants = {"w": floats(6, 3), "s0": f32(0.01, 0.02, 0.03), "z0": np.zeros(3, np.int8)}
    graph = run(nodes, {"x": floats(2, 6)}, constants)
    assert stored_constants(graph) == [((3, 6), "int8", 0, 3)]


# Weights

def layer(op, weight_shape, axis, x_shape, count, dtype=np.int8, bias=None, move=None, opset=13,
          **attributes):
    """Run a layer whose weights and bias are stored as integers; returns the imported graph."""
    several = count > 1
    constants = {"w.q": random_ints(dtype, *weight_shape),
                 "w.s": f32(np.linspace(0.005, 0.02, count)) if several else f32(0.01),
                 "w.z": np.zeros(count if several else (), dtype)}
    nodes = [make_node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"], axis=axis)]
    inputs = ["x", "w"]
    if move:
        nodes.append(make_node(*move[0], ["w", *move[1]], ["w.moved"], **move[2]))
        inputs[1] = "w.moved"
        constants |= move[3]
    if bias:
        constants |= {"b.q": random_ints(np.int32, bias) // 2**20,
                      "b.s": f32(np.linspace(1e-4, 2e-4, bias))}
        nodes.append(make_node("DequantizeLinear", ["b.q", "b.s"], ["b"], axis=0))
        inputs.append("b")
    nodes.append(make_node(op, inputs, ["y"], **attributes))
    return run(nodes, {"x": floats(*x_shape)}, constants, opset)


@pytest.mark.parametrize("count, axis", [(1, -1), (6, 0)])
def test_convolution_weights(count, axis):
    graph = layer("Conv", (6, 4, 3, 2), 0, (1, 4, 5, 6), count, bias=6)
    assert stored_constants(graph) == sorted([((6,), "int32", 0, 6),
                                              ((6, 3, 2, 4), "int8", axis, count)])


def test_weights_of_other_layers():
    found = [stored_constants(graph)[0] for graph in (
        layer("Conv", (6, 1, 3, 2), 0, (1, 6, 5, 6), 6, group=6),
        layer("Conv", (6, 2, 3), 0, (1, 4, 5), 6, group=2),
        layer("ConvTranspose", (4, 6, 2, 3), 1, (1, 4, 5, 6), 6),
        layer("ConvTranspose", (4, 3, 2, 3), 1, (1, 4, 5, 6), 3, group=2),
        layer("Gemm", (5, 7), 0, (2, 7), 5, transB=1, alpha=0.5),
        layer("Gemm", (7, 5), 1, (2, 7), 5),
        layer("MatMul", (7, 5), 1, (3, 2, 7), 5, np.uint8),
        layer("Conv", (6, 4, 3, 2), 0, (1, 4, 5, 6), 1, np.int16, opset=21))]
    assert found == [((3, 2, 6), "int8", 2, 6), ((6, 1, 3, 2), "int8", 0, 6),
                     ((6, 2, 3, 4), "int8", 0, 6), ((6, 2, 3, 2), "int8", 0, 6),
                     ((5, 7), "int8", 0, 5), ((5, 7), "int8", 0, 5), ((5, 7), "uint8", 0, 5),
                     ((6, 3, 2, 4), "int16", -1, 1)]


def test_alpha_goes_into_the_scale():
    graph = layer("Gemm", (5, 7), 0, (2, 7), 1, bias=5, transB=1, alpha=0.25, beta=2.0)
    scale = next(t.quantization.scale for t in graph.tensors()
                 if t.constant and t.dtype == "int8")
    assert scale == f32(0.0025)
    negative = layer("Gemm", (5, 7), 0, (2, 7), 1, transB=1, alpha=-1.0)
    assert stored_constants(negative) == []


@pytest.mark.parametrize("move, shape, axis", [
    ((["Transpose"], [], {"perm": [1, 0]}, {}), (5, 7), 0),
    ((["Reshape"], ["shape"], {}, {"shape": np.array([7, 5])}), (7, 5, 1), 1),
    ((["Squeeze"], ["axes"], {}, {"axes": np.array([0])}), (1, 7, 5), 2),
    ((["Gather"], ["at"], {"axis": 0}, {"at": np.array([0, 2, 1, 3, 6, 5, 4])}), (7, 5), 1)])
def test_weights_that_are_moved_first(move, shape, axis):
    graph = layer("MatMul", shape, axis, (2, 7), 5, move=move)
    assert stored_constants(graph) == [((5, 7), "int8", 0, 5)]


def test_weights_that_are_computed_with_become_real():
    nodes = [make_node("DequantizeLinear", ["q", "s"], ["w"]), make_node("Mul", ["w", "w"], ["v"]),
             make_node("MatMul", ["x", "v"], ["y"])]
    graph = run(nodes, {"x": floats(2, 4)}, {"q": random_ints(np.int8, 4, 3), "s": f32(0.01)})
    assert codes(graph) == ["dense"] and stored_constants(graph) == []


@pytest.mark.parametrize("element", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bit_weights(element):
    numbers = np.arange(15).reshape(3, 5) - (8 if element == TensorProto.INT4 else 0)
    model = make([make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
                  make_node("MatMul", ["x", "w"], ["y"])],
                 {"x": floats(2, 3)}, {"s": f32(0.5)}, 21)
    model.ir_version = 10
    model.graph.initializer.extend([
        helper.make_tensor("q", element, (3, 5), numbers.reshape(-1).tolist()),
        helper.make_tensor("z", element, (), [2])])
    graph = run_model(model, {"x": floats(2, 3)})
    assert stored_constants(graph) == [((5, 3), "int8", -1, 1)]


def test_weights_in_blocks_become_real():
    constants = {"q": random_ints(np.int8, 8, 4), "s": f32(np.linspace(0.1, 0.9, 8)).reshape(2, 4)}
    nodes = [make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=4),
             make_node("MatMul", ["x", "w"], ["y"])]
    graph = run(nodes, {"x": floats(2, 8)}, constants, 21)
    assert graph.notes == ["Weights quantized in blocks are stored as real numbers."]


def test_integers_of_a_layer_are_stored_once():
    constants = {"q": random_ints(np.int8, 5, 5), "s": f32(0.01)}
    nodes = [make_node("DequantizeLinear", ["q", "s"], ["w"]),
             make_node("MatMul", ["x", "w"], ["h"]), make_node("MatMul", ["h", "w"], ["y"])]
    assert len(stored_constants(run(nodes, {"x": floats(2, 5)}, constants))) == 1


# Ops on integers

def operand(tag, values, scale, zero):
    """Return the three inputs of an operand of a QLinear op, and its constants."""
    return [f"{tag}", f"{tag}.s", f"{tag}.z"], {
        tag: values, f"{tag}.s": f32(scale), f"{tag}.z": np.array(zero, values.dtype)}


def qlinear(op, operands, result=(0.1, 3), dtype=np.uint8, more=None, first=False, domain=MS,
            **attributes):
    """Run a QLinear op; the first operand is an input, as is every other without constants."""
    names, constants = [], dict(more or {})
    for tag, values, scale, zero in operands:
        three, given = operand(tag, values, scale, zero)
        names += three
        constants |= given
    inputs = {operands[0][0]: constants.pop(operands[0][0])}
    if len(operands) > 1 and operands[1][0] == "b":
        inputs["b"] = constants.pop("b")
    constants |= {"y.s": f32(result[0]), "y.z": np.array(result[1], dtype)}
    tail = ["y.s", "y.z"]
    names = [*tail, *names] if first else [*names, *tail]
    names += [name for name in (more or {})]
    return run(make_node(op, names, ["y"], domain=domain, **attributes), inputs, constants, 21,
               to=dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op, dtype):
    a, b = (random_ints(dtype, 2, 3, 4, 5, seed=s) for s in (1, 2))
    graph = qlinear(op, [("a", a, 0.0213, 9), ("b", b[:, :, :1], 0.0317, 4)],
                    (0.0971, 3), dtype=dtype)
    assert codes(graph) == ["dequantize", "dequantize", "binary", "quantize"]


@pytest.mark.parametrize("op, attributes", [
    ("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.25}),
    ("QLinearSoftmax", {"axis": -1, "opset": 13}), ("QLinearSoftmax", {"axis": 1, "opset": 11}),
    ("QLinearAveragePool", {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "strides": [2, 1]}),
    ("QLinearAveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("QLinearGlobalAveragePool", {})])
def test_one_operand(op, attributes):
    x = random_ints(np.uint8, 1, 3, 6, 7)
    result = (1 / 256, 0) if op in ("QLinearSigmoid", "QLinearSoftmax") else (0.02, 110)
    qlinear(op, [("x", x, 0.0313, 120)], result, **attributes)


def test_mean():
    """ONNX Runtime describes this op and has no kernel for it."""
    names = ["x", "s", "z", "ys", "z"]
    constants = {"s": f32(0.03), "z": np.array(120, np.uint8), "ys": f32(0.0213)}
    x = random_ints(np.uint8, 2, 3, 6, 7)
    graph = import_proto(make(make_node("QLinearReduceMean", names, ["y"], domain=MS, axes=[2, 3],
                                        keepdims=0), {"x": x}, constants, to=np.uint8))
    mean = (x.astype(np.float32) - 120).mean((2, 3)) * 0.03 / 0.0213
    assert np.array_equal(reference.execute(graph, {"x": x})["y"], np.rint(mean) + 120)


def test_concat():
    qlinear("QLinearConcat", [("a", random_ints(np.uint8, 1, 3, 4), 0.02, 9),
                              ("b", random_ints(np.uint8, 1, 2, 4), 0.03, 4)], (0.025, 7),
            first=True, axis=1)


def test_where():
    names = ["c", "a", "s1", "z1", "b", "s2", "z2", "s3", "z3"]
    constants = {"s1": f32(0.02), "z1": np.uint8(3), "s2": f32(0.03), "z2": np.uint8(9),
                 "s3": f32(0.05), "z3": np.uint8(0)}
    inputs = {"c": random_ints(np.uint8, 3, 4) > 99, "a": random_ints(np.uint8, 3, 4),
              "b": random_ints(np.uint8, 3, 4, seed=3)}
    model = make(make_node("QLinearWhere", names, ["y"], domain=MS), inputs,
                 {k: np.array(v) for k, v in constants.items()}, to=np.uint8)
    run_model(model, inputs)


@pytest.mark.parametrize("dtype, several", [(np.uint8, True), (np.int8, False)])
def test_convolution(dtype, several):
    n = 6 if several else 1
    scale = np.linspace(0.005, 0.02, n) if several else 0.01
    zero = [0] * n if several else 0
    more = {"bias": random_ints(np.int32, 6) // 2**18}
    graph = qlinear("QLinearConv", [("x", random_ints(dtype, 1, 4, 6, 7), 0.05, 11),
                                    ("w", random_ints(np.int8, 6, 4, 3, 3), scale, zero)],
                    (0.4, 20), dtype, more, domain="", pads=[1, 1, 1, 1], strides=[2, 1])
    axis = 0 if several else -1
    assert stored_constants(graph) == sorted([((6,), "int32", axis, n),
                                              ((6, 3, 3, 4), "int8", axis, n)])


def test_depthwise_convolution_with_unsigned_weights():
    graph = qlinear("QLinearConv", [("x", random_ints(np.uint8, 1, 6, 6, 7), 0.05, 11),
                                    ("w", random_ints(np.uint8, 6, 1, 3, 3), 0.01, 99)],
                    (0.4, 120), domain="", group=6)
    assert stored_constants(graph) == [((3, 3, 6), "uint8", -1, 1)]


def test_channel_without_weights():
    """ONNX Runtime's quantizer gives it a tiny scale, and a bias that fills an int32."""
    w = random_ints(np.int8, 6, 4, 1, 1)
    w[2] = 0
    bias = np.array([5, 9, -2**31, 7, 2**31 - 1, 3], np.int32)
    scale = np.array([0.01, 0.01, 1e-15, 0.01, 1e-15, 0.01])
    constants = {"xs": f32(0.05), "xz": np.array(11, np.uint8), "w": w, "ws": f32(scale),
                 "wz": np.zeros(6, np.int8), "ys": f32(0.4), "yz": np.array(20, np.uint8),
                 "b": bias}
    x = {"x": random_ints(np.uint8, 1, 4, 3, 3)}
    model = make(make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
                           ["y"]), x, constants, to=np.uint8)
    graph = import_proto(model)
    for _, run_pass in passes.PIPELINE:
        run_pass(graph)
    lower.apply(graph)
    assert codes(graph) == ["conv2d"]
    found = reference.execute(graph, x)["y"]
    assert np.array_equal(found, runtime(model, x)["y"]) and (found[:, 2] == 20).all()


def test_bias_too_fine_for_a_scale_is_real():
    graph = qlinear("QLinearConv", [("x", random_ints(np.uint8, 1, 4, 3, 3), 1e-30, 11),
                                    ("w", random_ints(np.int8, 6, 4, 1, 1), 1e-25, 0)],
                    (0.4, 120), more={"bias": random_ints(np.int32, 6)}, domain="")
    assert [c[1] for c in stored_constants(graph)] == ["int8"]


@pytest.mark.parametrize("constant", [True, False])
def test_matrix_product(constant):
    tag = "w" if constant else "b"
    graph = qlinear("QLinearMatMul", [("a", random_ints(np.uint8, 2, 3, 7), 0.05, 11),
                                      (tag, random_ints(np.int8, 7, 5), 0.01, 3)], (0.3, 99),
                    domain="")
    assert ("dense" in codes(graph)) == constant


@pytest.mark.parametrize("trans, stored, bias", [(1, True, True), (0, True, False),
                                                 (1, False, True)])
def test_gemm(trans, stored, bias):
    w = random_ints(np.int8, *((5, 7) if trans else (7, 5)))
    constants = {"as": f32(0.05), "az": np.array(11, np.uint8), "w": w,
                 "ws": f32(np.linspace(0.01, 0.02, 5)), "wz": np.zeros(5, np.int8),
                 "c": random_ints(np.int32, 5) // 2**18, "ys": f32(0.3),
                 "yz": np.array(9, np.uint8)}
    names = ["a", "as", "az", "w", "ws", "wz", "c" if bias else ""]
    names += ["ys", "yz"] if stored else []
    used = {name: array for name, array in constants.items() if name in names}
    graph = run(make_node("QGemm", names, ["y"], domain=MS, transB=trans, alpha=0.5),
                {"a": random_ints(np.uint8, 2, 7)}, used, to=np.uint8 if stored else np.float32)
    assert ((5, 7), "int8", 0, 5) in stored_constants(graph)


def test_products_of_integers():
    a, b = random_ints(np.uint8, 3, 2, 7), random_ints(np.int8, 7, 5)
    graph = run(make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"]), {"a": a},
                {"b": b, "az": np.array(13, np.uint8), "bz": np.zeros(5, np.int8)}, to=np.int32,
                equal=1)
    assert stored_constants(graph) == [((5, 7), "int8", 0, 5)]
    run(make_node("MatMulInteger", ["a", "b"], ["y"]), {"a": a, "b": b}, to=np.int32, equal=1)
    run(make_node("ConvInteger", ["x", "w", "z"], ["y"], pads=[1, 0, 1, 2]),
        {"x": random_ints(np.uint8, 1, 4, 6, 7)},
        {"w": random_ints(np.uint8, 6, 4, 3, 3), "z": np.array(77, np.uint8)}, to=np.int32, equal=1)


def test_activations_quantized_at_run_time():
    """What onnxruntime.quantization.quantize_dynamic writes: the weights stay integers."""
    nodes = [make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
             make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
             make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
             make_node("Mul", ["s", "ws"], ["m"]), make_node("Mul", ["f", "m"], ["y"])]
    graph = run(nodes, {"x": floats(3, 8)}, {"w": random_ints(np.int8, 8, 5), "ws": f32(0.01)})
    assert stored_constants(graph) == [((5, 8), "int8", -1, 1)]


def on_integers(nodes, inputs, constants=None, to=np.float32, opset=13):
    """Run nodes from xq, which is x on a grid, to yq, which is on the same grid."""
    grid = {"s": f32(0.05), "z": np.array(100, np.uint8)}
    return run([make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]), *nodes,
                make_node("DequantizeLinear", ["yq", "s", "z"], ["y"])], inputs,
               grid | (constants or {}), opset, to=to)


@pytest.mark.parametrize("node, constants", [
    (make_node("MaxPool", ["xq"], ["yq"], kernel_shape=[2, 2], pads=[1, 0, 0, 1]), {}),
    (make_node("Concat", ["xq", "xq", "k"], ["yq"], axis=1),
     {"k": random_ints(np.uint8, 1, 2, 6, 7)}),
    (make_node("Pad", ["xq", "p", "v"], ["yq"]),
     {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1]), "v": np.array(100, np.uint8)}),
    (make_node("Pad", ["xq", "p"], ["yq"]), {"p": np.array([0, 0, 1, 0, 0, 0, 2, 1])}),
    (make_node("Resize", ["xq", "", "f"], ["yq"], mode="nearest"), {"f": f32(1, 1, 2, 2)}),
    (make_node("ReduceMax", ["xq"], ["yq"], axes=[2]), {}),
    (make_node("Transpose", ["xq"], ["yq"], perm=[0, 3, 1, 2]), {}),
    (make_node("Slice", ["xq", "b", "e"], ["yq"]), {"b": np.array([0, 1]), "e": np.array([1, 3])}),
    (make_node("DepthToSpace", ["xq"], ["yq"], blocksize=2), {})])
def test_ops_on_integers_are_ops_on_what_they_mean(node, constants):
    x = {"x": floats(1, 4, 6, 7) * 4}
    graph = on_integers([node], x, constants)
    assert "cast" not in codes(graph)
    stored = [t for t in graph.tensors() if t.dtype == "uint8" and not t.constant]
    assert all(t.quantization for t in stored)


def test_arg_max_of_integers():
    nodes = [make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make_node("ArgMax", ["q"], ["y"], axis=1)]
    run(nodes, {"x": floats(2, 5, 3)}, {"s": f32(0.05), "z": np.array(3, np.int8)}, to=np.int64,
        equal=1)


def test_ops_on_the_integers_themselves():
    nodes = [make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make_node("Transpose", ["q"], ["t"]),
             make_node("Cast", ["t"], ["y"], to=TensorProto.INT32)]
    x = {"x": floats(3, 4) * 4}
    run(nodes, x, {"s": f32(0.037), "z": np.array(-77, np.int8)}, to=np.int32, equal=1)
    nodes[-1] = make_node("Relu", ["t"], ["y"])
    run(nodes, x, {"s": f32(0.037), "z": np.array(-7, np.int8)}, 14, to=np.int8, equal=1)


def test_integers_that_are_read_before_they_mean_something():
    nodes = [make_node("Transpose", ["x"], ["t"]),
             make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
             make_node("DequantizeLinear", ["x", "s", "z"], ["r"]),
             make_node("Sigmoid", ["r"], ["v"])]
    run(nodes, {"x": random_ints(np.int8, 3, 4)}, {"s": f32(0.02), "z": np.array(5, np.int8)},
        outputs=("y", "v"), equal=1)


def test_integers_that_are_given_another_meaning():
    nodes = [make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             make_node("DequantizeLinear", ["q", "s2", "z2"], ["y"])]
    zeros = {"z": np.array(7, np.int8), "z2": np.array(-9, np.int8)}
    run(nodes, {"x": floats(3, 4)}, {"s": f32(0.037), "s2": f32(1.5), **zeros})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_integers_at_the_boundary(dtype):
    nodes = [make_node("Transpose", ["x"], ["t"]),
             make_node("DequantizeLinear", ["t", "s", "z"], ["r"]),
             make_node("Sigmoid", ["r"], ["g"]),
             make_node("QuantizeLinear", ["g", "s", "z"], ["y"])]
    constants = {"s": f32(0.02), "z": np.array(5, dtype)}
    graph = run(nodes, {"x": random_ints(dtype, 3, 4)}, constants, 21, to=dtype)
    assert graph.inputs[0].tensor.quantization.step == np.float32(0.02)
    assert graph.inputs[0].dtype == dtypes.name_of(dtype)


# Whole models, quantized by ONNX Runtime

def small_network():
    """Return a float network with the layers and shapes that quantizers treat specially."""
    rng = np.random.default_rng(2)

    def weights(*shape):
        return rng.standard_normal(shape).astype(np.float32) * np.float32(2 / np.sqrt(shape[-1]))
    nodes = [
        make_node("Conv", ["x", "w1", "b1"], ["c1"], name="c1", pads=[1] * 4, strides=[2, 2]),
        make_node("Relu", ["c1"], ["r1"], name="r1"),
        make_node("Conv", ["r1", "w2"], ["c2"], name="c2", pads=[1] * 4, group=8),
        make_node("Clip", ["c2", "low", "high"], ["r2"], name="r2"),
        make_node("Add", ["r2", "r1"], ["a"], name="a"),
        make_node("Split", ["a", "halves"], ["left", "right"], name="split", axis=1),
        make_node("Sigmoid", ["right"], ["gate"], name="gate"),
        make_node("Mul", ["left", "gate"], ["m"], name="m"),
        make_node("Concat", ["m", "left"], ["cat"], name="cat", axis=1),
        make_node("MaxPool", ["cat"], ["p"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        make_node("Flatten", ["p"], ["f"], name="f"),
        make_node("Gemm", ["f", "w3", "b3"], ["g"], name="g", transB=1),
        make_node("Softmax", ["g"], ["y"], name="y", axis=1)]
    constants = {"w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 1, 3, 3),
                 "low": f32(0.0), "high": f32(6.0), "halves": np.array([4, 4]),
                 "w3": weights(7, 8 * 3 * 2), "b3": weights(7)}
    model = model_of(nodes, {"x": floats(1, 3, 12, 8)}, constants, 17)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("form, activations, per_channel, symmetric", [
    ("QDQ", "QUInt8", True, False), ("QDQ", "QInt8", False, True), ("QDQ", "QInt16", True, True),
    ("QOperator", "QUInt8", False, False), ("QOperator", "QInt8", True, False)])
def test_quantized_network(tmp_path, form, activations, per_channel, symmetric):
    from onnxruntime import quantization as ort

    class Data(ort.CalibrationDataReader):
        def __init__(self):
            self.samples = iter([{"x": floats(1, 3, 12, 8) * scale} for scale in (0.5, 1, 2)])

        def get_next(self):
            return next(self.samples, None)

    source, path = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(small_network(), source)
    ort.quantize_static(
        source, path, Data(), quant_format=getattr(ort.QuantFormat, form), per_channel=per_channel,
        activation_type=getattr(ort.QuantType, activations), weight_type=ort.QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric})
    model = onnx.load(path)
    inputs = {"x": floats(1, 3, 12, 8)}
    want = runtime(model, inputs)["y"]
    graph = import_proto(model)
    before = reference.execute(graph, inputs)["y"]
    assert np.abs(before - want).max() <= 2 / 256
    for _, run_pass in passes.PIPELINE:
        run_pass(graph)
    np.testing.assert_allclose(reference.execute(graph, inputs)["y"], before, rtol=1e-6)
    assert "transpose" not in codes(graph)
    weights = [op.inputs[1] for op in graph.ops
               if op.code in ("conv2d", "depthwise_conv2d", "dense")]
    producers = graph.producers()
    assert len(weights) == 3
    assert all(producers[w].inputs[0].dtype == "int8" for w in weights)
