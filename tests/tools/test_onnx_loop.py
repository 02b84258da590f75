"""Loops whose number of steps is known: unrolled, against ONNX Runtime; others refused by name."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_node, make_tensor_value_info as info

from edgerun.errors import ModelError, UnsupportedError
from edgerun.tools.importers.onnx import import_proto
from tests.tools.onnx_models import check, codes, floats, ints, model_of

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def body(*nodes: onnx.NodeProto, scans: bool = True, name: str = "go") -> onnx.GraphProto:
    """A body that carries `v` to `w`, gives `part` of every step, and goes on while `name`."""
    outputs = [info(name, BOOL, None), info("w", FLOAT, None)]
    return make_graph(list(nodes), "body", [info("i", INT64, ()), info("cond", BOOL, ()),
                                            info("v", FLOAT, None)],
                      [*outputs, info("part", FLOAT, None)] if scans else outputs)


GO = make_node("Identity", ["cond"], ["go"])
GROW = [make_node("Cast", ["i"], ["f"], to=FLOAT), make_node("Mul", ["v", "x"], ["m"]),
        make_node("Add", ["m", "f"], ["w"]), make_node("Neg", ["w"], ["part"])]
CONSTANTS = {"steps": np.array(4, np.int64), "yes": np.array(True)}


def the_loop(graph: onnx.GraphProto, trips: str = "steps", condition: str = "yes",
             outputs: tuple[str, ...] = ("last", "y")) -> onnx.NodeProto:
    return make_node("Loop", [trips, condition, "x"], list(outputs), "turn", body=graph)


def test_a_trip_count():
    """The body reads x, which is outside of it, and the number of the step."""
    graph = check([the_loop(body(GO, *GROW))], {"x": floats(2, 3)}, CONSTANTS,
                  outputs=("last", "y"))
    assert codes(graph).count("concat") == 1 and "where" not in codes(graph)


@pytest.mark.parametrize("trips, condition, steps", [("steps", "", 3), ("", "yes", 3),
                                                     ("steps", "yes", 3), ("few", "yes", 2)])
def test_a_condition_of_the_step_s_number(trips, condition, steps):
    """The body goes on while i is below 2."""
    less = [make_node("Less", ["i", "two"], ["go"])]
    constants = {**CONSTANTS, "two": np.array(2, np.int64), "few": np.array(2, np.int64)}
    graph = check([the_loop(body(*less, *GROW), trips, condition)], {"x": floats(5)}, constants,
                  outputs=("last", "y"))
    assert graph.outputs[1].shape == (steps, 5)


def test_no_step_at_all():
    constants = {"steps": np.array(0, np.int64), "yes": np.array(True)}
    node = the_loop(body(GO, *GROW, scans=False), outputs=("last",))
    graph = check([node, make_node("Relu", ["last"], ["y"])], {"x": floats(3)}, constants)
    assert codes(graph) == ["unary"]


def test_a_trip_count_from_a_shape():
    nodes = [make_node("Shape", ["x"], ["shape"]),
             make_node("Gather", ["shape", "zero"], ["steps"]), the_loop(body(GO, *GROW))]
    graph = check(nodes, {"x": floats(3, 2)}, {"yes": np.array(True), "zero": ints(0)},
                  outputs=("last", "y"))
    assert graph.outputs[1].shape == (3, 3, 2)


def test_a_loop_in_a_loop_and_a_branch():
    inner = make_graph([make_node("Identity", ["c2"], ["g2"]),
                        make_node("Add", ["v2", "x"], ["w2"])], "inner",
                       [info("i2", INT64, ()), info("c2", BOOL, ()),
                        info("v2", FLOAT, None)],
                       [info("g2", BOOL, None), info("w2", FLOAT, None)])
    branches = {f"{name}_branch": make_graph([make_node(kind, ["u"], ["b"])], name, [],
                                             [info("b", FLOAT, None)])
                for name, kind in (("then", "Neg"), ("else", "Abs"))}
    outer = body(GO, make_node("Loop", ["three", "yes", "v"], ["u"], body=inner),
                 make_node("Less", ["i", "three"], ["low"]),
                 make_node("If", ["low"], ["w"], **branches),
                 scans=False)
    constants = {**CONSTANTS, "three": np.array(3, np.int64)}
    graph = check([the_loop(outer, outputs=("y",))], {"x": floats(4)}, constants)
    kinds = [op.options["kind"] for op in graph.ops]
    assert kinds == (["add"] * 3 + ["neg"]) * 3 + ["add"] * 3 + ["abs"]


REFUSED = {
    "condition": (body(make_node("ReduceSum", ["v"], ["s"], keepdims=0),
                       make_node("Greater", ["s", "zero"], ["go"]), *GROW), {},
                  "Loop .*first 'turn'.*its condition is computed at run time"),
    "first condition": (body(GO, *GROW), {"condition": "b"}, "condition is computed at run time"),
    "trips": (body(GO, *GROW), {"trips": "n"}, "trip count is computed at run time"),
    "endless": (body(GO, *GROW), {"trips": "", "condition": ""}, "no trip count and no condition"),
    "too many": (body(GO, *GROW), {"trips": "many"},
                 "more than 819 steps of 5 nodes, needed at most"),
    "forever": (body(GO, *GROW), {"trips": ""}, "more than 819 steps"),
    "nothing": (body(GO, *GROW), {"trips": "none"}, "has no elements: it has no steps"),
    "op": (body(GO, make_node("NonZero", ["v"], ["w"]), make_node("Neg", ["v"], ["part"])), {},
           "NonZero"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    graph, changed, message = REFUSED[name]
    constants = {**CONSTANTS, "many": np.array(10**9, np.int64), "none": np.array(0, np.int64),
                 "zero": np.array(0, np.float32)}
    model = model_of([the_loop(graph, **changed)], {
        "x": floats(3), "n": np.array(2, np.int64), "b": np.array(True)}, constants,
        outputs=("last", "y"))
    with pytest.raises(UnsupportedError, match=message):
        import_proto(model)


def test_loops_in_loops_have_a_limit():
    """Every one of them is small."""
    graph = body(GO, make_node("Neg", ["v"], ["w"]), scans=False)
    for depth in range(3):
        graph = make_graph([make_node("Identity", [f"c{depth}"], [f"g{depth}"]),
                            make_node("Loop", ["steps", "yes", f"v{depth}"], [f"w{depth}"],
                                      body=graph)], f"body{depth}",
                           [info(f"i{depth}", INT64, ()), info(f"c{depth}", BOOL, ()),
                            info(f"v{depth}", FLOAT, None)],
                           [info(f"g{depth}", BOOL, None), info(f"w{depth}", FLOAT, None)])
    model = model_of([the_loop(graph, outputs=("y",))], {"x": floats(3)},
                     {"steps": np.array(40, np.int64), "yes": np.array(True)})
    with pytest.raises(UnsupportedError, match="more than 16384 nodes"):
        import_proto(model)


@pytest.mark.parametrize("change", ["inputs", "outputs", "trips"])
def test_damaged(change):
    graph = body(GO, *GROW)
    constants = dict(CONSTANTS)
    if change == "inputs":
        del graph.input[2]
    elif change == "outputs":
        del graph.output[1:]
    else:
        constants["steps"] = ints(1, 2)
    model = model_of([the_loop(graph)], {"x": floats(3)}, constants, outputs=("last", "y"))
    with pytest.raises(ModelError):
        import_proto(model)


@pytest.mark.parametrize("count", [0, 2])
def test_a_condition_of_other_than_one_element(count):
    constants = {**CONSTANTS, "c": np.ones(count, bool)}
    branch = {f"{name}_branch": make_graph([make_node("Neg", ["x"], ["y"])], name, [],
                                           [info("y", FLOAT, None)]) for name in ("then", "else")}
    for node, outputs in (
            (the_loop(body(GO, *GROW), condition="c"), ("last", "y")),
            (the_loop(body(make_node("Identity", ["c"], ["go"]), *GROW)), ("last", "y")),
            (make_node("If", ["c"], ["y"], **branch), ("y",))):
        model = model_of([node], {"x": floats(3)}, constants, outputs=outputs)
        with pytest.raises(ModelError, match=f"{node.op_type} '.*': its condition has {count} "
                                             "elements, needed 1"):
            import_proto(model)
