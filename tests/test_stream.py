"""Streams: states carried inside of the arena or through the host, against golden steps."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from edgerun import loader
from edgerun.arena import Arena
from edgerun.errors import DeviceError, InputError
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
    with pytest.raises(InputError, match="input 'a' is a state, .*: give it to reset()"):
        swapping.stream({"c": "a"}).run(dict.fromkeys("abx", np.zeros((2, 3), np.float32)))
    with pytest.raises(InputError, match="missing input 'b'"):
        swapping.stream({"c": "a"}).run({"x": np.zeros((2, 3), np.float32)})


def ones(times: float = 1.0) -> np.ndarray:
    return np.full((2, 3), times, np.float32)


@pytest.mark.parametrize("way", ["arena", "arrays"])
def test_a_reset_is_checked_and_copied(swapping, way):
    stream = swapping.stream({"c": "a", "d": "b"})
    stream.way = way
    stream.run({"x": ones(7)})
    for wrong, message in ((ones()[0], "has the shape"), (ones().astype(int), "array is int64"),
                           (ones(np.inf), "not finite")):
        with pytest.raises(InputError, match=f"input 'a': .*{message}"):
            stream.reset({"a": wrong})
    a = ones()
    stream.reset({"a": a})
    a += 5
    assert (stream.run({"x": ones(0)})["y"] == -1).all()  # b + x - a


@pytest.mark.parametrize("way", ["arena", "arrays"])
def test_states_that_overflow_are_carried(swapping, way):
    """Both ways alike: only what the caller gives is checked."""
    stream = swapping.stream({"c": "a", "d": "b"})
    stream.way = way
    for _ in range(4):
        found = stream.run({"x": ones(3e38)})
    assert not np.isfinite(found["y"]).any()
    with pytest.raises(InputError, match="input 'x': 6 of 6 values"):
        stream.run({"x": ones(np.inf)})


@pytest.mark.parametrize("way", ["arena", "arrays"])
@pytest.mark.parametrize("failing", ["enqueue", "copy_out"])
def test_a_step_that_fails(swapping, monkeypatch, way, failing):
    """The states are lost: no step goes on silently from others."""
    stream = swapping.stream({"c": "a", "d": "b"})
    stream.way = way
    stream.run({"x": ones()})
    with monkeypatch.context() as patch, pytest.raises(DeviceError, match="planted"):
        patch.setattr(swapping, failing,
                      lambda *_, **__: (_ for _ in ()).throw(DeviceError("planted")))
        stream.run({"x": ones()})
    with pytest.raises(DeviceError, match="m.edge: a step of the stream failed, .*: reset"):
        stream.run({"x": ones()})
    stream.reset()
    assert (stream.run({"x": ones()})["y"] == 1).all()
    with pytest.raises(InputError):  # refused before anything is written: the states stay
        stream.run({"x": ones()[0]})
    assert (stream.run({"x": ones()})["y"] == 0).all()


def test_a_run_between_two_steps(swapping):
    """It writes over states that are in the arena; those in arrays do not mind."""
    stream = swapping.stream({"c": "a", "d": "b"})
    x = {"x": ones()}
    stream.run(x)
    swapping.run(dict.fromkeys("abx", ones(9)))
    if stream.way == "arrays":
        assert (stream.run(x)["y"] == 0).all()
        return
    with pytest.raises(DeviceError, match="ran outside of the stream"):
        stream.run(x)
    stream.reset()
    assert (stream.run(x)["y"] == 1).all()


def test_an_arena_that_others_may_join(swapping):
    """States stay apart from what sessions write that join after the first step."""
    model, device = swapping.model, swapping.device
    assert swapping.stream({"c": "a"}).way == ("arena" if swapping.arena.host is not None
                                               else "arrays")
    with Arena(model.plan.arena_bytes, device) as arena, \
            Session(model, device, arena=arena) as session:
        stream = session.stream({"c": "a", "d": "b"})
        assert stream.way == "arrays" and (stream.run({"x": ones()})["y"] == 1).all()
        with Session(model, device, arena=arena) as other:
            other.run(dict.fromkeys("abx", ones(9)))
            other.write([ones(9)] * 3)
            with pytest.raises(DeviceError, match="which is running"):
                stream.run({"x": ones()})
            other.read()
            assert (stream.run({"x": ones()})["y"] == 0).all()
