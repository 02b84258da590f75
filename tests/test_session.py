"""Sessions: boundary, bad input, no allocation in run, failing allocations and builds."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import edgerun
from edgerun import DeviceError, InputError, loader
from edgerun.model import Model
from edgerun.ops import OPS, Launch, OpDef
from edgerun.session import Session
from edgerun.tools import blob, plan as planner
from edgerun.tools.graph import Graph


def small() -> Graph:
    graph = Graph("small")
    x = graph.input("x", (2, 3, 5), "fp32")
    y = graph.add("unary", [x], "r", kind="relu")
    y = graph.add("binary", [y, graph.constant(np.arange(5, dtype=np.float32), "c")], "m", kind="mul")
    graph.output("y", y)
    return graph


def encoded(graph: Graph) -> np.ndarray:
    return np.frombuffer(blob.encode(graph, planner.plan(graph, {}), {}, "fp32"), np.uint8)


def model_of(graph: Graph) -> Model:
    return loader.from_bytes(encoded(graph), "small.edge")


def expected(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) * np.arange(5, dtype=np.float32)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)


def test_run(device, x):
    with Session(model_of(small()), device) as session:
        assert [(i.name, i.shape, i.dtype) for i in session.inputs] == [("x", (2, 3, 5), np.float32)]
        np.testing.assert_array_equal(session.run({"x": x})["y"], expected(x))
        np.testing.assert_array_equal(session.run({"x": -x})["y"], expected(-x))


def test_outputs_belong_to_the_caller(device, x):
    """A later run does not change what an earlier one returned."""
    with Session(model_of(small()), device) as session:
        first = session.run({"x": x})["y"]
        kept = first.copy()
        session.run({"x": -x})
        np.testing.assert_array_equal(first, kept)


def test_not_contiguous_input(device, x):
    with Session(model_of(small()), device) as session:
        wide = np.repeat(x, 2, axis=2)[:, :, ::2]
        np.testing.assert_array_equal(session.run({"x": wide})["y"], expected(x))


def test_boundary_order_and_dtype(device):
    """The device's axis order and int32 never show: names, shapes, dtypes are the source's."""
    graph = Graph("b")
    x = graph.input("x", (2, 5, 7, 3), "fp32")
    i = graph.input("i", (4,), "int64")
    graph.inputs[0].perm, graph.inputs[0].shape = (0, 2, 3, 1), (2, 3, 5, 7)
    graph.output("y", graph.add("unary", [x], kind="neg"))
    graph.outputs[0].perm, graph.outputs[0].shape = (0, 2, 3, 1), (2, 3, 5, 7)
    graph.output("j", graph.add("unary", [i], kind="abs"), "int64")
    source = np.random.default_rng(1).standard_normal((2, 3, 5, 7)).astype(np.float32)
    with Session(model_of(graph), device) as session:
        outputs = session.run({"x": source, "i": np.int64([-1, 2, -3, 2**31 - 1])})
    np.testing.assert_array_equal(outputs["y"], -source)
    assert outputs["j"].dtype == np.int64 and outputs["j"].tolist() == [1, 2, 3, 2**31 - 1]


def test_input_that_is_an_output(device, x):
    graph = Graph("same")
    graph.output("y", graph.input("x", (2, 3, 5), "fp32"))
    with Session(model_of(graph), device) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], x)


def test_constant_output(device, x):
    graph = Graph("constant")
    graph.input("x", (2, 3, 5), "fp32")
    graph.output("y", graph.constant(np.float32([1, 2, 3]), "c"))
    with Session(model_of(graph), device) as session:
        assert session.run({"x": x})["y"].tolist() == [1, 2, 3]


BAD_INPUTS = {
    "unknown name": (lambda x: {"x": x, "z": x}, "unknown input 'z': the model has 'x'"),
    "missing name": (lambda x: {}, "missing input 'x': the model needs 'x'"),
    "wrong shape": (lambda x: {"x": x[0]}, r"input 'x': .* shape \(3, 5\), needed \(2, 3, 5\)"),
    "wrong dtype": (lambda x: {"x": x.astype(np.float64)}, "is float64, needed float32"),
    "not a number": (lambda x: {"x": np.where(x > 0, np.nan, x)}, "of 30 values are not finite"),
    "infinite": (lambda x: {"x": np.where(x > 0, np.float32(np.inf), x)}, "not finite"),
    "not an array": (lambda x: {"x": "text"}, "needed float32"),
}


@pytest.mark.parametrize("what", sorted(BAD_INPUTS))
def test_bad_input(device, x, what):
    make, message = BAD_INPUTS[what]
    with Session(model_of(small()), device) as session:
        with pytest.raises(InputError, match=message):
            session.run(make(x))
        np.testing.assert_array_equal(session.run({"x": x})["y"], expected(x))


def test_int64_beyond_32_bits(device):
    graph = Graph("i")
    graph.output("j", graph.add("unary", [graph.input("i", (2,), "int64")], kind="abs"), "int64")
    with Session(model_of(graph), device) as session:
        with pytest.raises(InputError, match="does not fit into 32 bits"):
            session.run({"i": np.int64([1, 2**40])})


def test_run_creates_nothing(device, x, monkeypatch):
    """After the session is made, run creates no buffer, program, kernel, queue or context."""
    import pyopencl as cl
    with Session(model_of(small()), device) as session:
        before = dict(device.created)

        def forbidden(*_, **__):
            raise AssertionError("run created an OpenCL object")
        for name in ("Buffer", "Program", "Kernel", "CommandQueue", "Context", "Image"):
            monkeypatch.setattr(cl, name, forbidden)
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"x": x})["y"], expected(x))
        assert device.created == before


def test_every_failing_allocation(device, monkeypatch):
    """Whichever buffer creation fails, the session raises DeviceError, names it, and leaks nothing."""
    import pyopencl as cl
    real, released = cl.Buffer, []
    for failing in range(2):
        made = []

        class Buffer:
            def __init__(self, *args, **kwargs):
                if len(made) == failing:
                    raise cl.MemoryError("clCreateBuffer", cl.status_code.MEM_OBJECT_ALLOCATION_FAILURE)
                self.real = real(*args, **kwargs)
                made.append(self)

            def release(self):
                released.append(self)
                self.real.release()
        monkeypatch.setattr(cl, "Buffer", Buffer)
        with pytest.raises(DeviceError, match="no room for the (weights fp32|arena): [0-9]+ bytes"):
            Session(model_of(small()), device)
        assert released[len(released) - len(made):] == made
        monkeypatch.setattr(cl, "Buffer", real)


def test_kernel_that_does_not_build(device, monkeypatch):
    """A compiler error is one sentence with the file, the defines and the head of the log."""
    def broken(op, facts):
        return [Launch("elementwise", "unary", {"T_fp32": 1, "EXPRESSION": "nonsense(x)"}, (1,), ())]
    monkeypatch.setitem(OPS, "unary", OpDef(OPS["unary"].infer, broken, (1, 1), "UnaryOptions"))
    with pytest.raises(DeviceError, match="kernels/elementwise.cl .*nonsense.* cannot build it: .*error"):
        Session(model_of(small()), device)


def test_closed_session(device, x):
    session = Session(model_of(small()), device)
    session.close()
    session.close()
    with pytest.raises(DeviceError, match="the session is closed"):
        session.run({"x": x})


def test_two_sessions_of_one_file(device, x, tmp_path):
    path = tmp_path / "small.edge"
    path.write_bytes(encoded(small()).tobytes())
    with Session(loader.read(path), device) as a, Session(loader.read(path), device) as b:
        ya, yb = a.run({"x": x})["y"], b.run({"x": -x})["y"]
        np.testing.assert_array_equal(ya, expected(x))
        np.testing.assert_array_equal(yb, expected(-x))


def test_public_names():
    assert {name for name in edgerun.__all__ if getattr(edgerun, name) is None} == set()
    assert dataclasses.is_dataclass(edgerun.TensorInfo)
