"""Ops that run strip by strip: against the same ops over whole images, and what strips cost."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from edgerun import InputError
from edgerun.quantization import Quantization
from edgerun.tools import patch, reference
from edgerun.tools.graph import Graph, copy_of
from edgerun.tools.patch.rewrite import demands, results
from edgerun.tools.plan import aligned
from tests.patch_networks import Network, feed
from tests.tools.pass_checks import conv, unary, values


def same(graph: Graph, cut: Graph) -> None:
    """Require the same numbers of both graphs: bit for bit, if they are integers."""
    given_ = feed(graph)
    whole, parts = reference.execute(graph, given_), reference.execute(cut, given_)
    assert list(whole) == list(parts)
    for name, expected in whole.items():
        if expected.dtype == np.uint8:
            np.testing.assert_array_equal(parts[name], expected)
        else:
            np.testing.assert_allclose(parts[name], expected, rtol=1e-5, atol=1e-5)


def runs_of(graph: Graph) -> list[tuple[int, int]]:
    """Every run of ops that can be cut."""
    able = list(map(patch.can_cut, graph.ops))
    return [(first, last) for first in range(len(able)) for last in range(first, len(able))
            if all(able[first:last + 1])]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.booleans(), st.integers(1, 7), st.data())
def test_strips_of_random_networks(seed, integers, ops, data):
    """Any run of ops, any number of strips, streamed or not: the same numbers."""
    graph = Network(seed, integers, ops).graph
    runs = runs_of(graph)
    if not runs:
        return
    first, last = data.draw(st.sampled_from(runs))
    stage = patch.Stage(first, last, data.draw(st.integers(2, 9)), data.draw(st.booleans()))
    cut = copy_of(graph)
    wanted = results(graph, first, last)
    if None in (demands(graph.ops[first:last + 1], wanted, k, stage.strips)
                for k in range(stage.strips)):
        with pytest.raises(ValueError, match="cannot run strip by strip"):
            patch.cut(cut, stage)
        return
    names = patch.cut(cut, stage)
    assert {b.tensor.name for b in cut.outputs} == {b.tensor.name for b in graph.outputs}
    assert {*names.values()} <= {t.name for t in graph.tensors()}
    assert {*names} <= {t.name for t in cut.tensors()}
    same(graph, cut)


def tower(rows: int = 32, strides=(2, 1, 2), integers: bool = False) -> Graph:
    """Three 3x3 convolutions over a square image; the first result is the largest tensor."""
    graph = Graph("tower")
    x = graph.input("x", (1, rows, rows, 4), "fp32")
    for number, stride in enumerate(strides):
        x = conv(graph, x, 16, stride_h=stride, stride_w=stride, pad_top=1, pad_left=1,
                 pad_bottom=1, pad_right=1, seed=number)
    graph.output("y", unary(graph, "relu", graph.add("reduce", [x], kind="mean", axes=(1, 2))))
    return graph


def test_rows_by_hand():
    """Rows 4 to 7 of the result of two 3x3 convolutions, the first of stride 2."""
    graph = tower(32, (2, 1))
    first, second = graph.ops[:2]
    needs = demands([first, second], [second.outputs[0]], 1, 4)
    assert needs[second.outputs[0]] == (4, 8)
    assert needs[first.outputs[0]] == (3, 9)  # a row of halo on either side
    assert needs[graph.inputs[0].tensor] == (5, 18)  # rows 2 * 3 - 1 to 2 * 8 + 1
    needs = demands([first, second], [second.outputs[0]], 0, 4)
    assert needs[graph.inputs[0].tensor] == (0, 10)
    cut = copy_of(graph)
    patch.cut(cut, patch.Stage(0, 1, 4))
    convs = [op for op in cut.ops if op.code == "conv2d"]
    assert [(op.options["pad_top"], op.options["pad_bottom"]) for op in convs] == [
        (1, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 1)]
    assert [op.inputs[0].shape[1] for op in convs[::2]] == [10, 13, 13, 11]


def test_streamed_input_is_nowhere_whole():
    graph = tower()
    cut = copy_of(graph)
    patch.cut(cut, patch.Stage(0, 2, 4, True))
    boundary, = cut.inputs
    assert boundary.tensor is boundary.pieces[0][0] and len(boundary.pieces) == 4
    assert boundary.shape == (1, 32, 32, 4)
    assert all(t.shape[1] < 32 for t in cut.tensors() if len(t.shape) == 4 and not t.constant)
    same(graph, cut)


@pytest.mark.parametrize("case", ["output too", "read elsewhere", "vector"])
def test_inputs_that_are_not_streamed(case):
    graph = tower()
    if case == "output too":
        graph.output("x2", graph.inputs[0].tensor)
    elif case == "read elsewhere":
        graph.output("x2", unary(graph, "neg", graph.inputs[0].tensor))
    else:
        graph = Graph()
        x = graph.input("x", (1, 1, 9, 4), "fp32")
        graph.output("y", graph.add("pad", [x], mode="constant", before=(0, 0, 0, 0),
                                    after=(0, 0, 1, 0)))
    cut = copy_of(graph)
    patch.cut(cut, patch.Stage(0, 0, 1 if case == "vector" else 4, True))
    assert not cut.inputs[0].pieces
    same(graph, cut)


def test_branches_keep_their_rows():
    """A residual block: strips read the halo for the branch, their own rows for the sum."""
    graph = Graph()
    x = graph.input("x", (1, 16, 8, 4), "fp32")
    padded = {"pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1}
    x = conv(graph, x, 4, seed=1, **padded)
    y = conv(graph, x, 12, 1, seed=2)
    w = graph.constant(values((3, 3, 12)), "w")
    y = graph.add("depthwise_conv2d", [y, w], **padded)
    y = conv(graph, y, 4, 1, seed=4)
    graph.ops[-1].inputs.append(x)  # the residual
    graph.output("y", y)
    cut = copy_of(graph)
    patch.cut(cut, patch.Stage(0, 3, 4))
    same(graph, cut)
    sums = [op for op in cut.ops if op.code == "conv2d" and len(op.inputs) == 4]
    assert [op.inputs[3].shape[1] for op in sums] == [4] * 4


PADS = {"stride_h": 2, "kernel_h": 3, "kernel_w": 1, "pad_top": 1, "pad_bottom": 1}


@pytest.mark.parametrize("options", [
    {**PADS, "kind": "average"}, {**PADS, "kind": "average", "count_include_pad": True},
    {**PADS, "kind": "average", "ceil_mode": True, "count_include_pad": True},
    {**PADS, "kind": "max", "ceil_mode": True}, {**PADS, "kind": "max", "dilation_h": 2}])
@pytest.mark.parametrize("rows", [15, 16])
def test_windows_at_the_border_count_the_same(options, rows):
    graph = Graph()
    x = graph.input("x", (1, rows, 2, 3), "fp32")
    graph.output("y", graph.add("pool2d", [x], **options))
    for strips in (2, 3, 7):
        cut = copy_of(graph)
        patch.cut(cut, patch.Stage(0, 0, strips))
        same(graph, cut)


def test_average_that_would_round_otherwise():
    """A strip of fewer rows than the window has would round its sums with more bits."""
    graph = Graph()
    x = graph.input("x", (1, 8, 2, 3), "uint8")
    x.quantization = Quantization.per_tensor(0.03, 3)
    graph.output("y", graph.add("pool2d", [x], "", Quantization.per_tensor(0.05, 9),
                                kind="average", kernel_h=3, pad_top=1, pad_bottom=1))
    patch.cut(cut := copy_of(graph), patch.Stage(0, 0, 2))
    same(graph, cut)
    with pytest.raises(ValueError, match="cannot run strip by strip"):
        patch.cut(graph, patch.Stage(0, 0, 8))


NOT_CUT = {
    "rows across": ("transpose", {"perm": (0, 2, 1, 3)}, (1, 4, 4, 2)),
    "mirrored": ("pad", {"mode": "reflect", "before": (0, 1, 0, 0), "after": (0,) * 4},
                 (1, 4, 4, 2)),
    "batch": ("unary", {"kind": "relu"}, (2, 4, 4, 2)),
    "rank": ("unary", {"kind": "relu"}, (4, 4, 2)),
    "rows of concat": ("concat", {"axis": 1}, (1, 4, 4, 2)),
    "over rows": ("softmax", {"axis": 1}, (1, 4, 4, 2)),
    "mean of rows": ("reduce", {"kind": "mean", "axes": (1,)}, (1, 4, 4, 2)),
    "backwards": ("slice", {"starts": (0, 3, 0, 0), "steps": (1, -1, 1, 1),
                            "sizes": (1, 4, 4, 2)}, (1, 4, 4, 2)),
}


@pytest.mark.parametrize("what", sorted(NOT_CUT))
def test_ops_that_are_not_cut(what):
    code, options, shape = NOT_CUT[what]
    graph = Graph()
    graph.output("y", graph.add(code, [graph.input("x", shape, "fp32")], **options))
    assert not patch.can_cut(graph.ops[0])
    with pytest.raises(ValueError, match="cannot run strip by strip"):
        patch.cut(graph, patch.Stage(0, 0, 2))


def test_constants_with_rows_are_not_cut():
    graph = Graph()
    x = graph.input("x", (1, 4, 2, 3), "fp32")
    graph.output("y", graph.add("binary", [x, graph.constant(values((4, 1, 3)))], kind="add"))
    assert not patch.can_cut(graph.ops[0])


def planned_peak(graph: Graph, names: dict[str, str] | None = None) -> int:
    """Most bytes live at once, if slices and concats of rows cost nothing."""
    roots = {}
    for op in graph.ops:  # a slice lies in its input, what is concatenated in the result
        if op.code == "slice":
            roots[op.outputs[0]] = roots.get(op.inputs[0], op.inputs[0])
    for op in graph.ops:
        if op.code == "concat":
            roots |= {x: op.outputs[0] for x in op.inputs}
    spans: dict = {}
    for number, op in enumerate(graph.ops):
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None and not tensor.constant:
                root = roots.get(tensor, tensor)
                spans[root] = spans.get(root, (number, number))[0], number
    for boundary in graph.inputs:
        if not boundary.pieces:
            spans[boundary.tensor] = -1, spans[boundary.tensor][1]
    for boundary in graph.outputs:
        spans[boundary.tensor] = spans[boundary.tensor][0], len(graph.ops)
    return max(sum(aligned(t.bytes) for t, (a, b) in spans.items() if a <= n <= b)
               for n in range(len(graph.ops)))


@pytest.mark.parametrize("inner", [False, True], ids=["one result", "two results"])
@pytest.mark.parametrize("streamed", [False, True])
def test_estimates_are_exact(streamed, inner):
    """What a candidate says of memory and work is what the graph with its strips has."""
    from edgerun.ops import OPS
    graph = tower(48)
    if inner:  # strips of it have a halo, and are kept until their own rows are copied
        graph = Graph()
        x = z = conv(graph, graph.input("x", (1, 48, 48, 3), "fp32"), 8, pad_top=1, pad_bottom=1)
        for channels, kernel in ((8, 3), (64, 1), (4, 1)):
            x = conv(graph, x, channels, kernel, pad_top=kernel // 2, pad_bottom=kernel // 2)
        graph.output("y", x)
        graph.output("z", z)
    outline = patch.Outline(graph)
    candidates = [c for c in outline.candidates(9.0) if c.stage.streamed == streamed]
    assert len(candidates) > 5
    for candidate in candidates:
        cut = copy_of(graph)
        patch.cut(cut, candidate.stage)
        macs = sum(OPS[op.code].macs(op) for op in cut.ops)
        assert macs - outline.total_macs == candidate.extra_macs
        first, last = candidate.stage.first, candidate.stage.last
        outside = [n for k, n in enumerate(outline.live) if not first <= k <= last]
        told, peak = max([candidate.live_bytes, *outside]), planned_peak(cut)
        # a whole input is counted to the end of the stage, though its last strip may be read before
        assert peak == told or inner and not streamed and peak < told
        computed = [op for op in cut.ops if op.code not in ("slice", "concat")]
        assert len(computed) - len(graph.ops) == candidate.extra_ops


def test_frontier_is_in_order():
    graph = tower(96, (2, 1, 2, 1, 2))
    outline = patch.Outline(graph)
    choices = patch.frontier(outline, outline.candidates())
    assert len(choices) > 3 and not choices[-1].stages
    assert choices[-1].live_bytes == max(outline.live)
    sizes, work = [c.live_bytes for c in choices], [c.work for c in choices]
    assert sizes == sorted(sizes) and work == sorted(work, reverse=True)
    assert all(c.extra_macs <= 0.25 * outline.total_macs for c in choices)
    for choice in choices:
        ends = [(s.first, s.last) for s in choice.stages]
        assert all(a[1] < b[0] for a, b in zip(ends, ends[1:]))
        cut = copy_of(graph)
        for stage in reversed(choice.stages):
            patch.cut(cut, stage)
        assert planned_peak(cut) <= choice.live_bytes
    same(graph, cut)


def test_smallest_choice_below_a_size():
    """No single stage within the limit does with less work what `below` finds."""
    graph = tower(64)
    outline = patch.Outline(graph)
    found = outline.candidates()
    for size in range(min(c.live_bytes for c in found), max(outline.live), 4096):
        choice = patch.below(outline, found, size)
        alone = [c for c in found if c.live_bytes <= size and all(
            live <= size for n, live in enumerate(outline.live)
            if not c.stage.first <= n <= c.stage.last)]
        assert choice is not None or not alone
        if choice is not None:
            assert choice.live_bytes <= size
            assert choice.work <= min((c.work for c in alone), default=choice.work)


def test_apply_says_what_it_did():
    graph = tower(64)
    report, names = patch.apply(before := copy_of(graph), "auto", planned_peak)
    assert report.arena_without_bytes == planned_peak(graph) > 2 * planned_peak(before)
    assert 0 < report.extra_part < 0.25 and report.streamed
    assert before.patch.arena_bytes == report.arena_without_bytes
    assert before.patch.extra_macs == report.extra_macs
    assert before.patch.stages == tuple(report.stages)
    assert {*names} < {tensor.name for tensor in before.tensors()}
    same(graph, before)


def test_apply_with_a_number_of_strips():
    report, _ = patch.apply(tower(64), "4", planned_peak)
    assert {stage.strips for stage in report.stages} == {4}


def test_nothing_to_gain():
    graph = Graph()
    x = graph.input("x", (1, 64), "fp32")
    graph.output("y", unary(graph, "relu", x))
    assert patch.apply(graph, "auto", planned_peak) == (None, {}) and graph.patch is None
    assert "lowers the arena by nothing" in graph.notes[-1]
    assert patch.apply(graph, "off", planned_peak) == (None, {})


@pytest.mark.parametrize("bad", ["", "on", "1", "0", "-3", "2.5", "257", "²", True, 1, None])
def test_bad_values(bad):
    with pytest.raises(InputError, match="needed off, auto, or a number of strips"):
        patch.parse(bad)
