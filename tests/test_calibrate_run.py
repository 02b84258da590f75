"""Calibration on a device: what is observed equals the reference, and nothing is missed."""
from __future__ import annotations

import re

import numpy as np
import pytest

from edgerun.errors import DeviceError, InputError
from edgerun.quantization import Quantization
from edgerun.tools import reference
from edgerun.tools.calibrate import calibrate, channel_means, collect
from edgerun.tools.calibrate.data import Samples
from edgerun.tools.calibrate.observers import Observation, choose
from edgerun.tools.calibrate.run import session_of
from edgerun.tools.graph import Graph, copy_of
from edgerun.trace import trace

RNG = np.random.default_rng(5)


def network() -> Graph:
    """Convolution, pooling, an unused second input of the sum, a reshape, dense, argmax."""
    rng = np.random.default_rng(0)
    graph = Graph("network", source="network.onnx")
    x = graph.input("x", (1, 6, 6, 3), "fp32")
    shift = graph.input("shift", (1, 4), "fp64")
    graph.inputs[0].perm, graph.inputs[0].shape = (0, 2, 3, 1), (1, 3, 6, 6)
    w = graph.constant(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w")
    y = graph.add("conv2d", [x, w], "conv", pad_top=1, pad_left=1, pad_bottom=1, pad_right=1,
                  activation="relu")
    y = graph.add("pool2d", [y], "pooled", kind="max", kernel_h=2, kernel_w=2, stride_h=2,
                  stride_w=2)
    y = graph.add("reshape", [y], "flat", shape=(1, 72))
    w = graph.constant(rng.standard_normal((4, 72)).astype(np.float32), "w2")
    y = graph.add("dense", [y, w], "scores")
    y = graph.add("binary", [y, shift], "shifted", kind="add")
    graph.output("y", y)
    graph.output("best", graph.add("arg", [y], "best", kind="max", axis=1))
    return graph


def data(count: int = 40) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32),
             "shift": rng.standard_normal((1, 4))} for _ in range(count)]


def expected(samples) -> dict[str, np.ndarray]:
    """Every tensor of network() by the NumPy reference, with an axis of samples."""
    graph = network()
    names = [tensor.name for tensor in graph.tensors() if not tensor.constant]
    graph.outputs = []
    for tensor in graph.tensors():
        if not tensor.constant:
            graph.output(tensor.name, tensor)
    results = [reference.execute(graph, sample) for sample in samples]
    return {name: np.stack([result[name] for result in results]) for name in names}


REALS = ["x", "shift", "conv", "pooled", "flat", "scores", "shifted"]


def test_every_real_tensor_is_observed(device):
    graph, samples = network(), data()
    before = [op.code for op in graph.ops]
    seen: list[tuple[int, int]] = []
    found = calibrate(graph, samples, device=device, progress=lambda *at: seen.append(at))
    assert sorted(found.ranges) == sorted(REALS)
    want = expected(samples)
    for name in REALS:
        low, high = want[name].min(), want[name].max()
        entry = found.ranges[name]
        assert (entry.low, entry.high) == pytest.approx((low, high), rel=1e-5, abs=1e-5)
        assert found.range(name, 8) == pytest.approx((min(low, 0), max(high, 0)), rel=1e-5)
        assert found.observations[name].count == want[name].size
    assert (found.observer, found.samples, found.warnings) == ("minmax", 40, [])
    assert seen == [(i + 1, 40) for i in range(40)]
    assert [op.code for op in graph.ops] == before  # the caller's graph is untouched
    assert all(t.layout == "rows" for t in graph.tensors())


def test_calibration_is_deterministic_and_observers_need_no_second_run(device):
    graph, samples = network(), data()
    found = calibrate(graph, samples, "mse", device)
    again = calibrate(graph, samples, "mse", device)
    assert found.ranges == again.ranges
    kl = calibrate(graph, samples, "kl", device)
    for name in REALS:
        assert kl.range(name, 8) == choose(found.observations[name], "kl", 8)
        assert kl.range(name, 4) == choose(found.observations[name], "kl", 4)
        assert kl.range(name, 16) == choose(found.observations[name], "kl", 16)


def test_trace_shows_what_each_op_wrote(device):
    samples = data(3)
    want = expected(samples)
    with session_of(network(), device) as (session, roots):
        assert roots == {"flat": "pooled"}
        for number, sample in enumerate(samples):
            names = []
            for tensor, array in trace(session, sample):
                names.append(tensor.name)
                assert array.shape == tensor.shape
                np.testing.assert_allclose(array, want[tensor.name][number], 1e-4, 1e-5)
            assert names == ["x", "shift", "conv", "pooled", "scores", "shifted", "best"]
            outputs = session.run(sample)  # the session is as good as before
            np.testing.assert_allclose(outputs["y"], want["shifted"][number], 1e-4, 1e-5)
        stopped = trace(session, samples[0])
        next(stopped)
        stopped.close()
        assert np.array_equal(session.run(samples[2])["y"], outputs["y"])
    with pytest.raises(DeviceError, match="is closed"):
        next(trace(session, samples[0]))


def test_collect(device):
    samples = data(4)
    want = expected(samples)
    found = collect(network(), samples, ["conv", "flat", "pooled", "x"], device=device)
    for name in ("conv", "flat", "pooled", "x"):
        assert found[name].shape == want[name].shape
        np.testing.assert_allclose(found[name], want[name], 1e-4, 1e-5)
    means = collect(network(), samples, ["conv"], channel_means, device)["conv"]
    assert means.shape == (4, 8)
    np.testing.assert_allclose(means, want["conv"].mean(axis=(1, 2, 3)), 1e-4, 1e-5)
    for name in ("w", "nothing"):
        with pytest.raises(InputError, match=f"^network.onnx: has no tensor '{name}' that a run "
                                             "computes$"):
            collect(network(), samples, [name], device=device)


def test_collect_turns_integers_into_real_numbers(device):
    graph = Graph("quantized")
    x = graph.input("x", (1, 5), "fp32")
    quantization = Quantization.per_tensor(0.25, 100)
    q = graph.quantize(x, "uint8", quantization, "q")
    graph.output("y", graph.add("unary", [graph.dequantize(q)], "y", kind="tanh"))
    values = np.float32([[-3, -0.3, 0, 0.3, 100]])
    found = collect(graph, [{"x": values}], ["q"], device=device)["q"]
    assert found.tolist() == [[[-3, -0.25, 0, 0.25, 38.75]]]


def test_a_copy_shares_nothing_that_passes_change():
    graph = network()
    copy = copy_of(graph)
    copy.ops[0].options["activation"] = ""
    copy.ops[0].outputs[0].dtype = "fp16"
    copy.ops.pop()
    copy.notes.append("note")
    assert graph.ops[0].options["activation"] == "relu"
    assert graph.ops[0].outputs[0].dtype == "fp32" and len(graph.ops) == 6 and not graph.notes
    assert copy.ops[1].inputs[0] is copy.ops[0].outputs[0]
    assert copy.inputs[0].tensor is copy.ops[0].inputs[0]
    assert copy.ops[0].inputs[1].data is graph.ops[0].inputs[1].data


# what is wrong, and what is odd

def refuses(sentence: str, *args, **options) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        calibrate(*args, **options)


def test_wrong_arguments(device):
    refuses("observer 'best' is not available, needed one of minmax, moving-average, percentile, "
            "mse, kl", network(), data(1), "best", device)
    refuses("calibration data: has no samples", network(), [], device=device)
    wrong = [dict(data(1)[0], x=np.zeros((1, 6, 6, 3), np.float32))]
    refuses("calibration data: sample 0: 'x' has the shape (1, 6, 6, 3), needed (1, 3, 6, 6), or "
            "one more axis of samples in front of it", network(), wrong, device=device)


def test_images_that_turn_out_not_to_be_finite(device):
    """Samples that are made when they are asked for are checked by the session."""
    bad = Samples("folder", [dict(data(1)[0], shift=np.full((1, 4), np.nan))])
    refuses("input 'shift': 4 of 4 values are not finite numbers", network(), bad, device=device)


def test_unknown_tensors_and_bits(device):
    found = calibrate(network(), data(2), device=device)
    with pytest.raises(InputError, match="^calibration data: has no range of the tensor 'other': "
                                         "was it calibrated from this model.$"):
        found.range("other", 8)


def odd(**values) -> list[str]:
    from edgerun.tools.calibrate.ranges import oddities
    seen = {}
    for name, array in values.items():
        seen[name] = Observation()
        seen[name].add(np.float32(array))
    return oddities(seen, "a.npz")


def test_degenerate_ranges_are_warned_of():
    assert odd(fine=[0, 1], zero=np.zeros(9), five=np.full(9, 5)) == [
        "a.npz: the range is degenerate, all values are the same in 'zero' (0), 'five' (5)"]
    assert odd(**{f"t{i}": [i] * 3 for i in range(6)}) == [
        "a.npz: the range is degenerate, all values are the same in 't0' (0), 't1' (1), 't2' (2) "
        "and 3 more tensors"]


def test_outliers_are_warned_of():
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert odd(fine=x, wide=np.append(x, 19)) == []
    assert odd(torn=np.append(x, [-30, 5])) == [
        "a.npz: outliers, more than 20 times what 99.9% of the values stay within, set the range "
        "of 'torn' (-30 to 5, mostly within 1); a clipping observer (percentile, mse, kl) may "
        "do better"]
    sparse = np.where(np.arange(100_000) % 2000, 0, x)
    assert odd(sparse=sparse) == []  # zeros are no values to compare with


def test_values_that_are_not_finite_are_warned_of():
    assert odd(masked=[1, -np.inf, 0, np.nan]) == [
        "a.npz: values that are not finite numbers are left out of the range of 'masked' (2 of 4)"]
