"""Fastfood layers from ONNX into files, and what is refused on the way."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun import loader
from edgerun.errors import ModelError, UnsupportedError
from edgerun.ops import fastfood
from edgerun.ops.fastfood import permutation
from edgerun.session import Session
from edgerun.tools import pack, reference
from edgerun.tools.graph import Graph
from edgerun.tools.importers.onnx import import_proto
from tests.harness import session_of
from tests.test_session import model_of

INPUTS, OUTPUTS, D = 13, 40, 16


def constants(**changed) -> dict[str, np.ndarray]:
    """B, G, S, the permutation and the bias of a layer 13 -> 40."""
    rng = np.random.default_rng(0)
    found = {name: rng.normal(size=(3, D)).astype(np.float32) for name in "bgs"}
    found["perm"] = permutation(7, 3, D).astype(np.int64)
    found["bias"] = rng.normal(size=OUTPUTS).astype(np.float32)
    return {**found, **changed}


def proto(without: tuple[str, ...] = (), known: bool = True, **changed) -> onnx.ModelProto:
    """A layer behind nothing, with a relu and a dense layer behind it."""
    attributes = {"out": OUTPUTS, "seed": 7, **{k: v for k, v in changed.items()
                                               if k in ("out", "seed")}}
    attributes = {k: v for k, v in attributes.items() if v is not None}
    arrays = constants(**{k: v for k, v in changed.items() if k not in ("out", "seed")})
    names = ["" if name in without else name for name in arrays]
    while not names[-1]:
        names.pop()
    held = [numpy_helper.from_array(value, name) for name, value in arrays.items() if known]
    w = np.random.default_rng(1).normal(size=(OUTPUTS, 5)).astype(np.float32)
    nodes = [helper.make_node("Fastfood", ["x", *names], ["h"], "ff", domain="edgerun",
                              **attributes),
             helper.make_node("Relu", ["h"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, INPUTS])]
    if not known:
        inputs += [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype),
                                                 a.shape) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "test", inputs, [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [*held, numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17),
                                                   helper.make_opsetid("edgerun", 1)])


def expected(x: np.ndarray, bias: bool = True) -> np.ndarray:
    """The layer written out, its relu, and the dense layer."""
    from scipy.linalg import hadamard
    c, h = constants(), hadamard(D) / 4
    rows = np.concatenate([np.diag(c["s"][n]) @ h @ np.diag(c["g"][n]) @ np.eye(D)[c["perm"][n]]
                           @ h @ np.diag(c["b"][n]) for n in range(3)])[:OUTPUTS, :INPUTS]
    y = np.maximum(x @ rows.T + bias * c["bias"], 0)
    return y @ np.random.default_rng(1).normal(size=(OUTPUTS, 5)).astype(np.float32)


@pytest.mark.parametrize("without", [(), ("perm",), ("bias",), ("perm", "bias")])
def test_import(without):
    """A stored permutation and the seed of the same one are the same layer."""
    graph = import_proto(proto(without))
    op = graph.ops[0]
    assert (op.code, op.options["outputs"]) == ("fastfood", OUTPUTS)
    if "perm" in without:
        assert op.options["seed"] == 7
    else:
        assert op.inputs[4].dtype == "int16"
    x = np.random.default_rng(2).normal(size=(2, INPUTS)).astype(np.float32)
    found = reference.execute(graph, {"x": x})["y"]
    assert np.allclose(found, expected(x, "bias" not in without), atol=1e-5)


@pytest.mark.parametrize("precision, tolerance", [
    ("fp32", 1e-5), ("fp16", 3e-3), ("int8", 0.03), ("int16", 1e-3)])
def test_pack(device, tmp_path, precision, tolerance):
    """The relu is fused, and integers are read and written by the layer itself."""
    source, out, samples = (tmp_path / name for name in ("m.onnx", "m.edge", "samples.npz"))
    onnx.save(proto(), source)
    x = np.random.default_rng(3).normal(size=(16, 2, INPUTS)).astype(np.float32)
    np.savez(samples, x=x)
    calibration = samples if precision.startswith("int") else None
    pack(source, out, precision, calibration=calibration)
    model = loader.read(out)
    layer, = (op for op in model.ops if op.code == "fastfood")
    assert [op.code for op in model.ops][-2:] == ["fastfood", "dense"]
    assert layer.options["activation"] in ("relu", "clip")
    kinds = {"int8": "uint8"}.get(precision, precision)
    assert layer.outputs[0].dtype == kinds
    real = {"fp16": layer.inputs[0].dtype}.get(precision, "fp32")  # an input may stay fp32
    assert {t.dtype for t in layer.inputs[1:4]} == {real}
    assert layer.inputs[5].dtype == "fp32" and layer.inputs[4].dtype == "int16"
    with Session(model, device) as session:
        for sample in x[:3]:
            want = expected(sample)
            y = session.run({"x": sample})["y"]
            assert np.abs(y - want).max() <= tolerance * max(1, np.abs(want).max())


WRONG = permutation(7, 3, D).astype(np.int64)
WRONG[1, 3] = WRONG[1, 4]


@pytest.mark.parametrize("message, changed", [
    ("block 1 of its permutation does not hold every number of 0 to 15 once", {"perm": WRONG}),
    ("block 0 of its permutation does not", {"perm": permutation(7, 3, D).astype(np.int64) + 1}),
    ("permutations are int64 of the shape .2, 16.", {"perm": WRONG[:2]}),
    ("permutations are float32", {"perm": WRONG.astype(np.float32)}),
    ("diagonals G hold numbers that are not finite", {"g": np.full((3, D), np.nan, np.float32)}),
    ("has no attribute out", {"out": None}), ("has the seed -1", {"seed": -1}),
    ("has 50 outputs of 3 blocks of 16", {"out": 50}),
    ("diagonals of the shapes", {"s": np.ones((3, 8), np.float32)})])
def test_what_the_importer_refuses(message, changed):
    with pytest.raises((ModelError, UnsupportedError), match=message):
        import_proto(proto(**changed))


def test_contents_that_are_computed_at_run_time():
    with pytest.raises(UnsupportedError, match="its diagonals B is computed at run time"):
        import_proto(proto(known=False))


def layer(perm) -> Graph:
    """A layer with a permutation that only the file's reader looks at."""
    graph = Graph("test")
    diagonals = [graph.constant(np.ones((2, 8), np.float32)) for _ in "BGS"]
    order = (graph.input("p", (2, 8), "int32") if perm is None else
             graph.constant(np.asarray(perm), "p"))
    graph.output("y", graph.add("fastfood", [graph.input("x", (1, 8), "fp32"), *diagonals, order],
                                outputs=16))
    return graph


def test_a_shared_permutation_is_checked_once(monkeypatch):
    """Or a small file could keep its reader busy with as many ops as fit."""
    graph, checked = layer(np.array([np.arange(8), np.arange(8)[::-1]], np.int16)), []
    inputs = graph.ops[0].inputs
    for number in range(5):
        graph.output(f"y{number}", graph.add("fastfood", inputs, outputs=16))
    monkeypatch.setattr(fastfood, "check_permutations", lambda op, perm: checked.append(op.index))
    assert len(model_of(graph).ops) == 6 and checked == [0]


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_what_a_reader_refuses(device, dtype):
    good = np.array([np.arange(8), np.arange(8)[::-1]], dtype)
    with session_of(device, layer(good)):
        pass
    for value in (-1, 8, 3, np.iinfo(dtype).min):
        bad = good.copy()
        bad[1, 0] = value
        with pytest.raises(ModelError, match="block 1 of its permutation does not hold every "
                                             "number of 0 to 7 once"):
            session_of(device, layer(bad))
    with pytest.raises(ModelError, match="has the permutation 'p' in the arena, needed a constant"):
        session_of(device, layer(None))
