"""Storage of real numbers op by op: who reads what, and where casts go."""
from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edgerun import __main__ as main, loader
from edgerun.errors import InputError
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.tools import passes, reference, verify
from edgerun.tools.graph import Graph
from edgerun.tools.pack import pack
from edgerun.tools.precision import convert
from tests.harness import prepared

RNG = np.random.default_rng(7)
W = RNG.standard_normal((8, 8)).astype(np.float32)


def chain(*codes: str, **last: object) -> Graph:
    """x [4, 8] through ops named op0, op1 ...: "dense", or a unary kind, "tile", "reshape"."""
    graph = Graph("chain")
    t = graph.input("x", (4, 8), "fp32")
    for i, code in enumerate(codes):
        if code == "dense":
            t = graph.add("dense", [t, graph.constant(W, f"w{i}"),
                                    graph.constant(np.ones(8), f"b{i}")], f"op{i}")
        elif code == "tile":
            t = graph.add("tile", [t], f"op{i}", repeats=(1, 1))
        elif code == "reshape":
            t = graph.add("reshape", [t], f"op{i}", shape=(8, 4) if t.shape[0] == 4 else (4, 8))
        else:
            t = graph.add("unary", [t], f"op{i}", kind=code)
    graph.output("y", t)
    return graph


def stored(graph: Graph, precision: str = "fp32", **storage: str) -> dict[str, str]:
    """Convert; returns tensor name -> dtype."""
    aliases = passes.alias.apply(graph)
    convert(graph, precision, aliases, exact_inputs=False, storage=storage)
    for tensor, view in aliases.items():
        assert tensor.dtype == view.root.dtype
    return {t.name: t.dtype for t in (*graph.tensors(), *aliases)}


def codes(graph: Graph) -> list[str]:
    return [op.code for op in graph.ops]


def run(device, graph: Graph, precision: str = "fp32", **storage: str) -> np.ndarray:
    """Convert and run on a device; compare with fp32 and return the result."""
    x = {b.name: RNG.standard_normal(b.shape).astype(np.float32) for b in graph.inputs}
    expected = reference.execute(graph, x)
    aliases = passes.alias.apply(graph)
    convert(graph, precision, aliases, exact_inputs=False, storage=storage)
    with prepared(device, graph, aliases, precision) as session:
        found = session.run(x)
    for name, want in expected.items():
        if want.dtype == np.float32:
            np.testing.assert_allclose(found[name], want, atol=2e-2 * np.abs(want).max())
        else:
            assert np.array_equal(found[name], want)
    return found


def test_free_ops_write_what_their_readers_want(device):
    graph = chain("dense", "dense", "dense")
    kinds = stored(graph, op1="fp16")
    assert codes(graph) == ["dense"] * 3
    assert kinds["op0"] == "fp16" and kinds["op1"] == "fp32" and kinds["op2"] == "fp32"
    assert (kinds["w0"], kinds["w1"], kinds["w2"]) == ("fp32", "fp16", "fp32")
    assert kinds["b1"] == "fp32"
    run(device, chain("dense", "dense", "dense"), op1="fp16")


def test_cast_behind_an_op_that_cannot_convert(device):
    graph = chain("relu", "tile", "relu")
    kinds = stored(graph, op1="fp32", op0="fp16", op2="fp16")
    assert codes(graph) == ["unary", "tile", "cast", "unary"]
    assert kinds["op0"] == "fp32" and kinds["op1"] == "fp32" and kinds["op1.fp16"] == "fp16"
    assert graph.ops[2].options["dtype"] == "fp16"
    run(device, chain("relu", "tile", "relu"), op1="fp32", op0="fp16", op2="fp16")


def two_readers(first: str = "a", second: str = "b") -> Graph:
    """t = relu(x); ya = t w, then yb = exp(t), then yc = t w again."""
    graph = Graph("readers")
    t = graph.add("unary", [graph.input("x", (4, 8), "fp32")], "t", kind="relu")
    w = graph.constant(W, "w")
    graph.output("ya", graph.add("dense", [t, w], "a"))
    graph.output("yb", graph.add("unary", [t], "b", kind="sigmoid"))
    graph.output("yc", graph.add("dense", [t, w], "c"))
    return graph


@pytest.mark.parametrize("own", ["fp32", "fp16"])
def test_readers_that_disagree_share_one_cast(device, own):
    graph = two_readers()
    kinds = stored(graph, t=own, a="fp16", b="fp32", c="fp16")
    assert kinds["t"] == own
    casts = [op for op in graph.ops if op.code == "cast"]
    assert len(casts) == 1 and casts[0].options["dtype"] == {"fp32": "fp16", "fp16": "fp32"}[own]
    at = codes(graph).index("cast")
    assert casts[0].outputs[0] in graph.ops[at + 1].inputs  # just before its first reader
    assert graph.ops[[op.name for op in graph.ops].index("a")].inputs[1].dtype == "fp16"
    run(device, two_readers(), t=own, a="fp16", b="fp32", c="fp16")


def test_a_constant_two_types_read_is_stored_twice(device):
    graph = two_readers()
    stored(graph, a="fp16")
    by_name = {op.name: op for op in graph.ops}
    assert by_name["a"].inputs[1].dtype == "fp16" and by_name["c"].inputs[1].dtype == "fp32"
    assert np.array_equal(by_name["c"].inputs[1].data, W)
    assert np.array_equal(by_name["a"].inputs[1].data, W.astype(np.float16))
    run(device, two_readers(), a="fp16")


def test_an_early_cast_ends_the_longer_copy():
    graph = Graph("early")
    x = graph.input("x", (4, 8), "fp32")
    t = graph.add("tile", [x], "t", repeats=(1, 1))
    other = graph.add("unary", [x], "other", kind="exp")
    graph.output("y", graph.add("binary", [other, t], "y", kind="add"))
    stored(graph, "fp16", t="fp32")
    assert codes(graph) == ["tile", "cast", "cast", "unary", "binary"]
    assert graph.ops[1].inputs[0] is t


@pytest.mark.parametrize("storage", [{"op0": "fp16"}, {"op2": "fp16"}, {"op0": "fp16",
                                                                        "op2": "fp16"}])
def test_reshapes_have_the_type_of_their_bytes(device, storage):
    stored(chain("exp", "reshape", "tanh", "reshape", "dense"), **storage)
    run(device, chain("exp", "reshape", "tanh", "reshape", "dense"), **storage)


def test_operands_of_an_op_have_one_type(device):
    def build() -> Graph:
        graph = Graph("residual")
        x = graph.input("x", (4, 8), "fp32")
        a = graph.add("unary", [x], "a", kind="tanh")
        b = graph.add("reduce", [x], "b", kind="mean", axes=(1,), keep_dims=True)
        c = graph.add("binary", [a, b], "c", kind="add")
        joined = graph.add("concat", [a, c], "joined", axis=1)
        graph.output("y", graph.add("arg", [joined], "best", kind="max", axis=1))
        graph.output("z", graph.add("dense", [c, graph.constant(W, "w"), None, a], "d"))
        return graph

    for storage in ({"c": "fp16"}, {"a": "fp16", "joined": "fp16"}, {"d": "fp16", "b": "fp16"}):
        graph = build()
        stored(graph, **storage)
        for op in graph.ops:
            if op.code != "cast":
                assert len({t.dtype for t in op.inputs if t is not None}) == 1, (storage, str(op))
        run(device, build(), **storage)


def test_inputs_and_conversions_are_what_their_readers_want(device):
    def build() -> Graph:
        graph = Graph("grid")
        x = graph.input("x", (4, 8), "fp32")
        q = graph.quantize(x, "uint8", Quantization.per_tensor(0.05, 128))
        real = graph.dequantize(q, "real")
        a = graph.add("dense", [real, graph.constant(W, "w")], "a")
        b = graph.add("unary", [x], "b", kind="tanh")
        graph.output("y", graph.add("binary", [a, b], "y", kind="mul"))
        return graph

    graph = build()
    kinds = stored(graph, a="fp16", b="fp16", y="fp16")
    assert set(kinds.values()) == {"fp16", "uint8"} and "cast" not in codes(graph)
    graph = build()
    kinds = stored(graph, a="fp16")
    assert kinds["real"] == "fp16" and kinds["x"] == "fp32" and kinds["a"] == "fp32"
    run(device, build(), a="fp16")


def test_a_computed_bias_stays_fp32(device):
    def build() -> Graph:
        graph = Graph("bias")
        x = graph.input("x", (4, 8), "fp32")
        bias = graph.add("reduce", [x], "bias", kind="mean", axes=(0,), keep_dims=False)
        graph.output("y", graph.add("dense", [x, graph.constant(W, "w"), bias], "y"))
        return graph

    graph = build()
    stored(graph, "fp16")
    assert graph.ops[-1].inputs[2].dtype == "fp32"
    run(device, build(), "fp16")


def onnx_model(path, image: int = 8):
    """x [1, 3, n, n] -> conv, relu, conv, relu, mean, gemm; nodes c0, c1, head."""
    def values(name: str, *shape: int):
        return numpy_helper.from_array(
            (np.random.default_rng(len(name)).standard_normal(shape) / 4).astype(np.float32), name)

    def node(code: str, inputs: str, output: str, **options):
        return helper.make_node(code, inputs.split(), [output], output, **options)

    nodes = [node("Conv", "x w0 b0", "c0", pads=[1, 1, 1, 1]), node("Relu", "c0", "r0"),
             node("Conv", "r0 w1 b1", "c1", pads=[1, 1, 1, 1]), node("Relu", "c1", "r1"),
             node("GlobalAveragePool", "r1", "mean"), node("Flatten", "mean", "flat"),
             node("Gemm", "flat w2 b2", "head", transB=1)]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", 1, (1, 3, image, image))],
        [helper.make_tensor_value_info("head", 1, (1, 5))],
        [values("w0", 16, 3, 3, 3), values("b0", 16), values("w1", 16, 16, 3, 3), values("b1", 16),
         values("w2", 5, 16), values("b2", 5)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)
    return path


def pack_with(folder, precision: str, lines: str, device=None, **arguments):
    """Pack onnx_model with overrides; returns the loaded model and its largest error."""
    (folder / "overrides.txt").write_text(lines)
    source, out = onnx_model(folder / "small.onnx"), folder / "small.edge"
    pack(source, out, precision, overrides=folder / "overrides.txt", **arguments)
    model = loader.read(out)
    x = np.random.default_rng(3).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with Session(model, device) as session:
        found = session.run({"x": x})["head"]
    expected = onnxruntime.InferenceSession(source).run(None, {"x": x})[0]
    return model, float(np.abs(found - expected).max() / np.abs(expected).max())


def weights_of(model) -> dict[str, str]:
    """Op name -> dtype of its weights."""
    return {op.name: op.inputs[1].dtype for op in model.ops if op.code in ("conv2d", "dense")}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_overrides_of_real_numbers(device, tmp_path, precision):
    other = {"fp32": "fp16", "fp16": "fp32"}[precision]
    model, error = pack_with(tmp_path, precision, f"c1 {other}\n", device)
    assert weights_of(model) == {"c0": precision, "c1": other, "head": precision}
    assert 0 < error < 2e-3
    _, plain = pack_with(tmp_path, precision, f"* {precision}\n", device)
    assert plain < 1e-6 or precision == "fp16"


def test_three_types_in_one_file(device, tmp_path):
    x = np.random.default_rng(4).standard_normal((8, 1, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    model, error = pack_with(tmp_path, "int8", "head fp32\nc1 fp16\n", device,
                             calibration=tmp_path / "samples.npz")
    found = weights_of(model)
    assert found["c1"] == "fp16" and found["head"] == "fp32"
    assert {t.dtype for t in model.tensors} >= {"uint8", "fp16", "fp32"}
    assert error < 3e-2


@pytest.mark.parametrize("precision", ["source", "fp16"])
@pytest.mark.parametrize("lines, loosest", [("* int8\n", "int8"), ("head int16\n", "int16"),
                                            ("head fp32\n", None)])
def test_vectors_are_held_to_the_types_of_overrides(device, tmp_path, precision, lines, loosest):
    """Not to the precision of what is not overridden; `verify` against the source model too."""
    x = np.random.default_rng(4).standard_normal((8, 1, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    np.savez(tmp_path / "four.npz", x=x[:4])
    (tmp_path / "overrides.txt").write_text(lines)
    out = tmp_path / "small.edge"
    source = onnx_model(tmp_path / "small.onnx")
    assert main.main([
        "pack", str(source), "-o", str(out), "--precision", precision,
        "--overrides", str(tmp_path / "overrides.txt"), "--vectors", str(tmp_path / "four.npz"),
        "--calibration", str(tmp_path / "samples.npz"), "--device", device.info.platform]) == 0
    model = loader.read(out)
    label = "fp32" if precision == "source" else precision
    wanted = verify.tolerance_of(label, [loosest] if loosest else [])
    assert model.precision == label and len(model.vectors) == 4
    assert {round(v.tolerance, 6) for v in model.vectors} == {round(wanted, 6)}
    assert verify.tolerance_of(label, verify.types_of(model)) == wanted
    assert main.main(["verify", str(out), "--device", device.info.platform]) == 0


def test_overrides_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="needs the range of every tensor"):
        pack_with(tmp_path, "fp32", "c1 int8\n")
    with pytest.raises(InputError, match="line 1: 'c7' names no op"):
        pack_with(tmp_path, "fp32", "c7 fp16\n")
