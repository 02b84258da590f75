"""Tuning launches whose tensors are parts of others, or lie in the place of an input."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgerun import loader
from edgerun.ops import _tile
from edgerun.tools.graph import Graph
from edgerun.tools.pack import Stages
from edgerun.tune import measure

PADS = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}


def benches_of_views(device, work):
    """Call work(bench) for convolutions that write channels of one tensor, and one that reads it
    and adds to what is in its output's place; returns the ops."""
    rng, graph = np.random.default_rng(0), Graph("net")

    def conv(inputs, channels, name, *more):
        w = rng.normal(0, 0.2, (16 * len(name), 3, 3, channels)).astype(np.float32)
        return graph.add("conv2d", [inputs, graph.constant(w, f"w {name}"), *more], name, **PADS)
    x = graph.input("x", (1, 20, 21, 32), "fp32")
    both = graph.add("concat", [conv(x, 32, "l"), conv(x, 32, "r")], "both", axis=3)
    other = graph.add("unary", [both], "other", kind="abs")
    graph.output("y", graph.add("unary", [conv(both, 32, "yy", None, other)], kind="neg"))
    data = Stages(graph).encode("fp32", "fp32")[0]
    model = loader.from_bytes(np.frombuffer(data, np.uint8), "net")
    convs = [op for op in model.ops if op.code == "conv2d"]
    buffers = measure.Buffers(device)
    weights = buffers.weights(model)
    try:
        for op in convs:
            bench = measure.Bench(device, op, weights, rng)
            try:
                work(bench)
            finally:
                bench.close()
    finally:
        buffers.release()
    return convs


def test_views_and_ops_in_place_are_measured_where_they_lie(device):
    """Buffers have room for rows that lie apart; y is in the bytes of the residual."""
    def work(bench):
        bench.check(bench.default)
        key = bench.default.launches[0].key
        bench.check(bench.prepare({str(key): _tile.candidates(key, device.facts)[-1]}))
    left, right, last = benches_of_views(device, work)
    assert left.outputs[0].pitch == right.outputs[0].pitch == 32
    assert last.outputs[0].offset == last.inputs[3].offset


def changed_launch(bench, change):
    """What the bench says of its default launch with a change."""
    launch = change(bench.default.launches[0])
    kernel = bench.device.kernel(launch.family, launch.kernel, launch.defines)
    kernel.set_args(*bench._args(launch))
    bench.check(measure.Prepared((launch,), (kernel,)))


def test_what_lies_between_rows_is_not_written(device):
    def work(bench):
        y = bench.op.outputs[0]
        if y.pitch:  # y as if it had the gap before it: the same bytes, but wider rows
            with pytest.raises(measure.WrongVariant, match="writes outside its outputs"):
                changed_launch(bench, lambda launch: dataclasses.replace(launch, args=tuple(
                    np.int32(y.pitch - 1) if isinstance(a, np.int32) and a == y.pitch else a
                    for a in launch.args)))
    benches_of_views(device, work)


def test_a_launch_that_is_wrong_in_place_is_found(device):
    """Adding the residual twice is right where y has bytes of its own."""
    def work(bench):
        if bench.op.inputs[3] is not None:
            twice = measure.Prepared(bench.default.launches * 2, bench.default.kernels * 2)
            with pytest.raises(measure.WrongVariant, match="computes another"):
                bench.check(twice)
    benches_of_views(device, work)
