"""Storage types."""
import numpy as np

from edgerun.tools.graph import Graph
from edgerun.tools.precision import convert


def test_a_bias_that_is_also_added_elsewhere_has_two_types():
    """Recurrent cells add one vector to a dense layer and, at the first step, to another tensor."""
    graph = Graph("shared")
    x = graph.input("x", (1, 4), "fp32")
    bias = graph.constant(np.linspace(-1, 1, 4, dtype=np.float32) / 3, "bias")
    y = graph.add("dense", [x, graph.constant(np.ones((4, 4), np.float32)), bias], "y")
    z = graph.add("binary", [x, bias], "z", kind="add")
    graph.output("y", y)
    graph.output("z", z)
    convert(graph, "fp16", {})
    dense, add = graph.ops
    assert dense.inputs[2].dtype == "fp32" and dense.inputs[2].data.dtype == np.float32
    assert add.inputs[1].dtype == add.inputs[0].dtype
    graph.reinfer()
