"""`edgerun pack --tanh ktanh`: what it replaces, what it tells, and a recurrent network with it."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerun import loader
from edgerun.__main__ import main
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools import pack

DATA = Path(__file__).parent / "data"
SHAPE = (1, 1, 96, 1366)


@pytest.fixture
def source(tmp_path) -> Path:
    """A dense layer with a tanh, another with a sigmoid."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), name)
               for name in ("v", "w")]
    nodes = [helper.make_node("MatMul", ["x", "v"], ["a"]), helper.make_node("Tanh", ["a"], ["b"]),
             helper.make_node("MatMul", ["b", "w"], ["c"]),
             helper.make_node("Sigmoid", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "test", [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def functions(path: Path) -> list[str]:
    return [op.options.get("activation") or op.options.get("kind") or op.code
            for op in loader.read(path).ops]


def test_command(source, tmp_path, capsys):
    out = str(tmp_path / "m.edge")
    assert main(["pack", str(source), "-o", out, "--tanh", "ktanh"]) == 0
    assert "note: K-TanH approximates tanh in 1 sigmoid, 1 tanh." in capsys.readouterr().out
    assert functions(out) == ["ktanh", "ksigmoid"]
    for given in ([], ["--tanh", "exact"]):
        assert main(["pack", str(source), "-o", out, *given]) == 0
        assert functions(out) == ["tanh", "sigmoid"]
        assert "K-TanH" not in capsys.readouterr().out


def test_what_is_refused(source, tmp_path, capsys):
    out = str(tmp_path / "m.edge")
    with pytest.raises(InputError, match="tanh 'fast' is not available, needed one of exact"):
        pack(source, out, tanh="fast")
    assert main(["pack", str(source), "-o", out, "--tanh", "ktanh", "--ram", "1M"]) == 1
    assert "--tanh and a budget exclude each other" in capsys.readouterr().err


def test_integers_keep_exact_tables(device, source, tmp_path):
    """They are made of the exact functions, and cost the same; a layer that reads integers and
    writes numbers has the approximation."""
    samples, files = tmp_path / "samples.npz", [tmp_path / "a.edge", tmp_path / "b.edge"]
    np.savez(samples, x=np.random.default_rng(1).normal(size=(8, 4, 8)).astype(np.float32))
    for file, tanh in zip(files, ("exact", "ktanh")):
        report = pack(source, file, "int8", calibration=samples, tanh=tanh)
    assert [functions(file) for file in files] == [
        ["dense", "table", "sigmoid"], ["dense", "table", "ksigmoid"]]
    tables = [loader.read(file) for file in files]
    assert len({bytes(s.data) for model in tables for s in model.segments
                if s.dtype == "uint8"}) == 1
    assert "K-TanH approximates tanh in 1 sigmoid." in report.notes
    with Session(tables[1], device) as session:
        x = np.load(samples)["x"][0]
        y = session.run({"x": x})["y"]
    with Session(tables[0], device) as session:
        assert 1e-5 < np.abs(session.run({"x": x})["y"] - y).max() < 0.006


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_recurrent_network(device, tmp_path, precision):
    """The convolutional recurrent network of tests/test_crnn.py: two GRUs, and sigmoids."""
    out = tmp_path / "crnn.edge"
    report = pack(DATA / "crnn.onnx", out, precision, tanh="ktanh")
    assert any(note == "K-TanH approximates tanh in 2 gru, 1 sigmoid." for note in report.notes)
    with np.load(DATA / "crnn.npz") as stored, Session(loader.read(out), device) as session:
        for seed, expected in enumerate(stored["tags"][:2]):
            x = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
            y, = session.run({"x": x}).values()
            assert 1e-4 < np.abs(y - expected).max() <= 0.03
