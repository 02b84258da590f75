"""Mixed precision: noise, the problem and its optimum, and files within a bound."""
from __future__ import annotations

import itertools
import json
import math

import numpy as np
import onnxruntime
import pytest

from edgerun import __main__ as main, loader
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools.calibrate import calibrate
from edgerun.tools.graph import Graph
from edgerun.tools.mixed import MAX_ERROR, sensitivity
from edgerun.tools.mixed.error import Meter
from edgerun.tools.mixed.problem import DTYPES, Problem, excess
from edgerun.tools.mixed.sensitivity import Sensitivity
from edgerun.tools.mixed.solve import solve

from edgerun.tools.mixed.search import unclipped
from edgerun.tools.pack import pack
from edgerun.tools.quantize.grids import weight_quantization
from tests.test_precision_storage import onnx_model

NOISE = {"fp16": 1e-8, "int16": 1e-9, "int8": 1e-5}


def network(seed: int = 0) -> Graph:
    """Two layers and a branch that joins them; one pool that only moves numbers, one output that
    is not last, one op that counts."""
    rng = np.random.default_rng(seed)
    graph = Graph("network")
    x = graph.input("x", (1, 8, 8, 4), "fp32")

    def conv(x, name, out, **options):
        w = rng.standard_normal((out, 3, 3, x.shape[3])).astype(np.float32) / 6
        return graph.add("conv2d", [x, graph.constant(w, f"{name}.w"),
                                    graph.constant(rng.standard_normal(out), f"{name}.b")], name,
                         pad_top=1, pad_left=1, pad_bottom=1, pad_right=1,
                         **options)

    a = conv(x, "a", 8, activation="relu")
    pooled = graph.add("pool2d", [a], "pooled", kind="max", kernel_h=2, kernel_w=2,
                       stride_h=2, stride_w=2)
    b = conv(pooled, "b", 8)
    c = graph.add("unary", [b], "c", kind="sigmoid")
    joined = graph.add("binary", [c, pooled], "joined", kind="mul")
    graph.output("joined", joined)
    flat = graph.add("reshape", [joined], "flat", shape=(1, 128))
    w = rng.standard_normal((10, 128)).astype(np.float32) / 10
    scores = graph.add("dense", [flat, graph.constant(w, "d.w")], "scores")
    graph.output("scores", scores)
    graph.output("best", graph.add("arg", [scores], "best", kind="max", axis=1))
    return graph


def noises(graph: Graph, seed: int) -> Sensitivity:
    """Made-up noise for every tensor and layer."""
    rng = np.random.default_rng(seed)

    def noise(dtype: str) -> dict[str, float]:
        return {"joined": NOISE[dtype] * rng.lognormal(0, 2), "best": 0.0,
                "scores": NOISE[dtype] * rng.lognormal(0, 2)}

    found = Sensitivity()
    for dtype in NOISE:
        for name in ("x", "a", "pooled", "b", "c", "joined", "scores"):
            found.stored[name, dtype] = noise(dtype)
        for name in ("a", "b", "scores"):
            found.weights[name, dtype] = noise(dtype)
    found.stored["c", "fp16"] = {"joined": math.inf, "scores": math.inf, "best": 1.0}
    return found


def every_choice(problem: Problem):
    for types in itertools.product(*(problem.allowed[op] for op in problem.groups)):
        yield dict(zip(problem.groups, types))


@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_trying_all(seed):
    graph = network(seed)
    allowed = {op: DTYPES for op in graph.ops if op.code not in ("arg", "reshape")}
    allowed[graph.ops[0]] = ("fp32", "fp16", "int8")
    problem = Problem(graph, noises(graph, seed), allowed)
    assert len(problem.groups) == 5  # the pool goes with the convolution in front
    tried = [(choice, *problem.evaluate(choice)) for choice in every_choice(problem)]
    for bound in (1e-9, 3e-8, 1e-6, 3e-5, 1e-2, 10.0):
        allowance = {"joined": bound, "scores": 2 * bound, "best": 0.5}
        least = min((size for _, size, noise in tried if excess(noise, allowance) <= 1))
        found, claimed = solve(problem, allowance)
        size, noise = problem.evaluate(found)
        assert excess(noise, allowance) <= 1 and claimed == pytest.approx(size, rel=1e-6)
        assert size <= least * (1 + 2e-4), (seed, bound, found)


@pytest.mark.parametrize("seed", range(20))
def test_program_says_what_evaluation_says(seed):
    """With every type given, the program has one solution: its size and noise are those computed
    directly."""
    graph, rng = network(seed), np.random.default_rng(seed)
    shared = graph.ops[0].inputs[1]
    late = graph.add("conv2d", [graph.inputs[0].tensor, shared], "late")
    twice = graph.add("concat", [late, late], "twice", axis=3)
    gain = graph.constant(np.ones(twice.shape[3], np.float32), "gain")
    graph.output("late", graph.add("instance_norm", [twice, gain, gain], "norm", epsilon=1e-5))
    ops = [op for op in graph.ops if op.code not in ("arg", "reshape")]
    free = Problem(graph, Sensitivity(), dict.fromkeys(ops, DTYPES))
    choice = {head: str(rng.choice(DTYPES)) for head in free.groups}
    found = noises(graph, seed)
    found.stored["late", "int8"] = found.stored["twice", "int8"] = {"joined": 1e-5}
    found.stored["c", "fp16"] = {"joined": 1e-7}
    problem = Problem(graph, found, {op: (choice[free.group[op]],) for op in ops})
    own = {head: problem.allowed[head][0] for head in problem.groups}
    size, noise = problem.evaluate(own)
    most = {name: noise.get(name, 0.0) for name in ("joined", "scores", "best")}
    given, claimed = solve(problem, {name: 1.001 * value + 1e-15 for name, value in most.items()})
    assert given == own and claimed == pytest.approx(size, rel=1e-6)
    for name, value in most.items():
        if value:
            assert solve(problem, most | {name: 0.99 * value} | {
                other: 2 * most[other] + 1e-15 for other in most if other != name}) is None


def test_no_choice_within_the_allowance():
    graph = network()
    allowed = {op: ("int8",) for op in graph.ops if op.code not in ("arg", "reshape")}
    problem = Problem(graph, noises(graph, 0), allowed)
    assert solve(problem, {"joined": 1e-9, "scores": 1e-9, "best": 1.0}) is None


def test_noise_of_one_tensor_and_one_layer(device):
    """y = 3 (x w): what rounding x, x w and w does to y can be computed."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 8)).astype(np.float32)
    graph = Graph("one")
    x = graph.input("x", (4, 8), "fp32")
    t = graph.add("dense", [x, graph.constant(w, "w")], "t")
    graph.output("y", graph.add("unary", [t], "y", kind="affine", alpha=3.0, beta=0.0))
    samples = [{"x": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(3)]
    ranges = calibrate(graph, samples, device=device)
    found = sensitivity.measure(graph, ranges, samples, unclipped, device)
    values = np.concatenate([sample["x"] for sample in samples]).astype(np.float64)
    signal = np.square(values @ w.T).sum()
    for dtype in ("fp16", "int16", "int8"):
        def rounded(array, name):
            return sensitivity.rounded(array.astype(np.float32), dtype,
                                       lambda bits: ranges.range(name, bits))

        before = rounded(values, "x") - values
        after = rounded(values @ w.T, "t") - values @ w.T
        assert found.stored["x", dtype]["y"] == pytest.approx(
            np.square(before @ w.T).sum() / signal, rel=0.02)
        assert found.stored["t", dtype]["y"] == pytest.approx(
            np.square(after).sum() / signal, rel=0.02)
        if dtype == "fp16":
            inexact = w.astype(np.float16)
        else:
            step = weight_quantization(w, 0, dtype).scale[:, None]
            inexact = np.rint(w / step) * step
        lost = inexact.astype(np.float64) - w
        assert found.weights["t", dtype]["y"] == pytest.approx(
            np.square(values @ lost.T).sum() / signal, rel=0.02)
    assert ("y", "fp16") not in found.weights


def test_overflow_is_infinite_noise(device):
    graph = Graph("far")
    x = graph.input("x", (1, 8), "fp32")
    far = graph.add("unary", [x], "far", kind="affine", alpha=2.0**20, beta=1.0)
    graph.output("y", graph.add("unary", [far], "y", kind="log"))
    samples = [{"x": np.linspace(0.1, 1, 8, dtype=np.float32)[None]}]
    found = sensitivity.measure(graph, calibrate(graph, samples, device=device), samples,
                                unclipped, device)
    assert found.stored["far", "fp16"]["y"] == math.inf
    assert found.stored["far", "int16"]["y"] < 1e-8


def test_error_of_outputs():
    meter = Meter()
    want = {"y": np.array([[3.0, 4.0]], np.float32), "k": np.array([1, 2, 3, 4])}
    meter.add({"y": np.array([[3.0, 4.5]], np.float32), "k": np.array([1, 2, 3, 5])}, want)
    meter.add({"y": np.array([[5.0, 4.0]], np.float32), "k": want["k"]}, want)
    error = meter.error
    assert error.relative == {"y": pytest.approx(math.sqrt(4.25 / 50)), "k": 1 / 8}
    assert error.worst == error.relative["y"] and error.top1 == 0.5
    assert error.snr_db == pytest.approx(10 * math.log10(50 / 4.25))
    meter.add({"y": np.array([[math.nan, 4.0]], np.float32), "k": want["k"]}, want)
    assert meter.error.worst == math.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small model and samples for it."""
    folder = tmp_path_factory.mktemp("mixed")
    onnx_model(folder / "small.onnx")
    rng = np.random.default_rng(4)
    np.savez(folder / "samples.npz", x=rng.standard_normal((8, 1, 3, 8, 8)).astype(np.float32))
    return folder


def mix(folder, device=None, lines: str = "", **arguments):
    """Pack the small model; returns the report and the model."""
    overrides = None
    if lines:
        overrides = folder / "overrides.txt"
        overrides.write_text(lines)
    report = pack(folder / "small.onnx", folder / "mixed.edge", "mixed", overrides=overrides,
                  calibration=folder / "samples.npz", device=device, **arguments)
    return report, loader.read(folder / "mixed.edge")


def true_error(folder, device, model) -> float:
    """Measure the error with ONNX Runtime as the reference."""
    runtime = onnxruntime.InferenceSession(folder / "small.onnx")
    samples = np.load(folder / "samples.npz")["x"]
    with Session(model, device) as session:
        found = np.concatenate([session.run({"x": x})["head"] for x in samples])
    want = np.concatenate([runtime.run(None, {"x": x})[0] for x in samples]).astype(np.float64)
    return float(np.sqrt(np.square(found - want).sum() / np.square(want).sum()))


def size_of(report) -> int:
    return report.file_bytes + report.arena_bytes


def test_files_within_a_bound(device, folder):
    name = device.info.name
    sizes = []
    for bound in (0.3, MAX_ERROR, 2e-3, 1e-6):
        report, model = mix(folder, name, max_error=bound)
        found = true_error(folder, device, model)
        assert report.mixed.error <= bound
        assert found == pytest.approx(report.mixed.error, rel=0.02, abs=1e-6)
        sizes.append(size_of(report))
    assert sizes == sorted(sizes)
    whole = [size_of(pack(folder / "small.onnx", folder / "one.edge", precision,
                          calibration=folder / "samples.npz", device=name))
             for precision in ("int8", "fp16", "fp32")]
    assert sizes[0] <= whole[0] and sizes[2] <= whole[1] and sizes[3] == whole[2]
    assert {choice.dtype for choice in report.mixed.choices} == {"fp32"}


def test_a_bound_just_below_an_error(device, folder):
    report, _ = mix(folder, device.info.name, max_error=0.3)
    bound = 0.95 * report.mixed.error
    report, model = mix(folder, device.info.name, max_error=bound)
    assert true_error(folder, device, model) <= bound * 1.001


def test_overrides_are_kept(device, folder):
    report, model = mix(folder, device.info.name, "c1 fp32\nhead fp16\n", max_error=0.3)
    chosen = {choice.op: choice for choice in report.mixed.choices}
    assert chosen["c1"].dtype == "fp32" and chosen["head"].dtype == "fp16"
    assert chosen["c1"].reason == "override" and chosen["c0"].reason != "override"
    weights = {op.name: op.inputs[1].dtype for op in model.ops if op.code in ("conv2d", "dense")}
    assert weights == {"c0": chosen["c0"].dtype, "c1": "fp32", "head": "fp16"}


@pytest.mark.parametrize("arguments, message", [
    ({"max_error": 1e-7, "lines": "c1 int8\n"}, "no choice of types stays within an error of 1e-0"),
    ({"max_error": -1.0}, "the error bound is -1.0, needed a number above 0"),
    ({"max_error": math.nan}, "the error bound is nan"),
    ({"lines": "nothing fp16\n"}, "'nothing' names no op"),
])
def test_requests_that_cannot_be(folder, arguments, message):
    (folder / "mixed.edge").unlink(missing_ok=True)
    with pytest.raises(InputError, match=message):
        mix(folder, **arguments)
    assert not (folder / "mixed.edge").exists()


def test_what_mixed_needs(folder):
    source, out = folder / "small.onnx", folder / "x.edge"
    with pytest.raises(InputError, match="--calibration"):
        pack(source, out, "mixed")
    with pytest.raises(InputError, match="an error bound is for --precision mixed, not fp16"):
        pack(source, out, "fp16", max_error=0.1)
    pack(source, out, "fp32", calibration=folder / "samples.npz")
    with pytest.raises(InputError, match="needs samples"):
        pack(source, folder / "y.edge", "mixed", calibration=out)


def test_command_line(folder, capsys):
    arguments = ["pack", str(folder / "small.onnx"), "-o", str(folder / "cli.edge"), "--precision",
                 "mixed", "--calibration", str(folder / "samples.npz"), "--max-error", "0.05"]
    assert main.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "of at most 0.05, measured on 8 samples" in shown and "constants" in shown
    assert main.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["mixed"]
    assert report["error"] <= 0.05 and {c["op"] for c in report["choices"]} >= {"c0", "c1", "head"}
    with pytest.raises(SystemExit):
        main.main([*arguments[:-1], "0"])
