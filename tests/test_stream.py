"""Streams: states carried inside of the arena or through the host, against golden steps."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from edgerun import loader
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools.pack import pack
from tests.test_parity import output_range, read_golden


def test_golden_steps(device, shared_data, tmp_path):
    """gtcrn_simple has three caches; the golden steps start at 0 and go on from each other."""
    golden = read_golden(shared_data / "golden" / "onnx" / "gtcrn_simple.npz")
    pack(shared_data / "models" / "onnx" / "gtcrn_simple.onnx", tmp_path / "m.edge")
    names = [name for name in golden.outputs if name != "enh"]
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        stream = session.stream({name: name.removesuffix("_out") for name in names})
        for _ in range(2):
            for step, (mix, want) in enumerate(zip(golden.inputs["mix"], golden.outputs["enh"])):
                found = stream.run({"mix": mix})
                assert list(found) == ["enh"]
                error = np.abs(found["enh"] - want).max() / output_range(golden.outputs["enh"])
                assert error <= 1e-3, step
            stream.reset()


@pytest.fixture
def swapping(device, tmp_path):
    """a' = b + x, b' = a, and their difference."""
    infos = {name: make_tensor_value_info(name, 1, (2, 3)) for name in "abxcdy"}
    nodes = [make_node("Add", ["b", "x"], ["c"]), make_node("Neg", ["a"], ["n"]),
             make_node("Neg", ["n"], ["d"]), make_node("Sub", ["c", "d"], ["y"])]
    graph = make_graph(nodes, "m", [infos[n] for n in "abx"], [infos[n] for n in "ycd"])
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 13)], ir_version=8),
              tmp_path / "m.onnx")
    pack(tmp_path / "m.onnx", tmp_path / "m.edge")
    with Session(loader.read(tmp_path / "m.edge"), device) as session:
        yield session


@pytest.mark.parametrize("way", ["arena", "arrays"])
def test_states_that_change_places(swapping, way):
    stream = swapping.stream({"c": "a", "d": "b"})
    if way == "arrays":
        stream.way = way
    rng = np.random.default_rng(0)
    a = b = np.zeros((2, 3), np.float32)
    for step in range(6):
        if step == 3:
            a = np.ones((2, 3), np.float32)
            b = np.zeros((2, 3), np.float32)
            stream.reset({"a": a})
        x = rng.normal(size=(2, 3)).astype(np.float32)
        a, b = b + x, a
        found = stream.run({"x": x})
        assert list(found) == ["y"] and np.allclose(found["y"], a - b, atol=1e-6)


def test_wrong_states(swapping):
    for states, message in (({"no": "a"}, "no output 'no'"), ({"c": "no"}, "no input 'no'"),
                            ({"c": "a", "d": "a"}, "state of two outputs")):
        with pytest.raises(InputError, match=message):
            swapping.stream(states)
    with pytest.raises(InputError, match="'x' is no state"):
        swapping.stream({"c": "a"}).reset({"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(InputError, match="missing input 'b'"):
        swapping.stream({"c": "a"}).run({"x": np.zeros((2, 3), np.float32)})
