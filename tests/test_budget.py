"""Budgets: sizes, the program against trying all, files that fit, and what is said if none does."""
from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgerun import __main__ as main, loader
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools import budget as budgets, profiles, verify
from edgerun.tools.budget import Budget, BudgetError, Source, account, sizes
from edgerun.tools.budget.least import Limits, least_excess, least_noise, noise_of
from edgerun.tools.budget.suggest import shrink
from edgerun.tools.graph import Graph
from edgerun.tools.mixed.problem import DTYPES, Problem
from edgerun.tools.pack import pack
from tests import moe_networks
from tests.test_mixed import every_choice, network, noises
from tests.test_precision_storage import onnx_model

ALLOWED = {"joined": 1e-4, "scores": 1e-4, "best": 0.5}


@pytest.mark.parametrize("given, size", [
    ("256K", 262144), ("1.5M", 1572864), ("300000", 300000), ("64KiB", 65536), ("1G", 1 << 30),
    (" 12 k ", 12288), ("7B", 7), (".5K", 512), (4096, 4096), ("2.M", 2 << 20), ("1mib", 1 << 20)])
def test_sizes(given, size):
    assert sizes.parse(given, "--ram") == size


@pytest.mark.parametrize("given, message", [
    ("", "is no size"), ("K", "is no size"), ("-1K", "is no size"), ("12X", "is no size"),
    ("1e6", "is no size"), ("nan", "is no size"), ("1.2.3M", "is no size"),
    ("12 K B", "is no size"),
    ("256KB", "1000 or 1024 times so much"), ("0", "less than a byte"), ("0.5", "less than a byte"),
    ("9" * 400, "which no device has"), ("99999999G", "which no device has"), ("١K", "is no size")])
def test_what_is_no_size(given, message):
    with pytest.raises(InputError, match=f"--flash: .*{message}"):
        sizes.parse(given, "--flash")


def a_problem(seed: int) -> Problem:
    graph = network(seed)
    allowed = {op: DTYPES for op in graph.ops if op.code not in ("arg", "reshape")}
    allowed[graph.ops[0]] = ("fp32", "fp16", "int8")
    return Problem(graph, noises(graph, seed), allowed)


def exceeds(cost, limits: Limits) -> float:
    """Return the sum of both excesses, each in its limit."""
    ram = max(live / ratio for live, ratio in zip(cost.live, limits.ratios))
    ram += cost.flash if limits.copied else 0
    return max(cost.flash / limits.flash - 1, 0) + max(ram / limits.ram - 1, 0)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_trying_all(seed, copied):
    problem = a_problem(seed)
    rng = np.random.default_rng(seed)
    ratios = rng.uniform(0.5, 4, len(problem.graph.ops)).tolist() if seed else (
        [1.0] * len(problem.graph.ops))
    tried = [(choice, problem.cost(choice), noise_of(problem, choice, ALLOWED))
             for choice in every_choice(problem)]
    flash, ram = sorted(cost.flash for _, cost, _ in tried), sorted(
        exceeds(replace(cost, flash=0), Limits(1, 1, ratios)) + 1 for _, cost, _ in tried)
    for a, b in itertools.product((0, len(tried) // 8, len(tried) // 2), repeat=2):
        limits = Limits(flash[a] + 1, ram[b] + 1 + (flash[a] if copied else 0), ratios, copied)
        within = [noise for _, cost, noise in tried if not exceeds(cost, limits)]
        found = least_noise(problem, limits, ALLOWED)
        if not within or min(within) == math.inf:
            assert found is None
        else:
            assert not exceeds(problem.cost(found[0]), limits)
            assert found[1] <= min(within) * (1 + 1e-3), (a, b)
        least = min(exceeds(cost, limits) for _, cost, _ in tried)
        nearest = least_excess(problem, limits)
        assert exceeds(problem.cost(nearest), limits) <= least + 1e-3, (a, b)


def test_types_that_must_not_come_together():
    problem = a_problem(0)
    small = {group: "int8" for group in problem.groups}
    limits = Limits(math.inf, max(problem.cost(small).live) * 1.5, [1.0] * len(problem.graph.ops))
    first, noise = least_noise(problem, limits, ALLOWED)
    second, more = least_noise(problem, replace(limits, never=[first]), ALLOWED)
    assert second != first and more >= noise * (1 - 1e-6)
    others = [noise_of(problem, choice, ALLOWED) for choice in every_choice(problem)
              if choice != first and not exceeds(problem.cost(choice), replace(limits, flash=1e9))]
    assert more <= min(others) * (1 + 1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small model and samples for it."""
    folder = tmp_path_factory.mktemp("budget")
    onnx_model(folder / "small.onnx")
    rng = np.random.default_rng(4)
    np.savez(folder / "samples.npz", x=rng.standard_normal((8, 1, 3, 8, 8)).astype(np.float32))
    return folder


def source_of(folder, device=None, **arguments) -> Source:
    return Source(folder / "small.onnx", device=device, **arguments)


def test_search_is_as_good_as_trying_all(device, folder):
    """Every choice of types is built: none that fits has less noise than the one that is found."""
    source = source_of(folder, device, calibration=folder / "samples.npz")
    project = budgets.Finder(source).project
    from edgerun.tools.budget.noise import modelled
    from edgerun.tools.budget.search import Search
    allowed = project.allowed(project.types)
    search = Search(project.graph, project.build, Budget(1 << 30), None, allowed,
                    lambda: modelled(project.graph))
    search.problem = Problem(project.graph, modelled(project.graph), allowed)
    search.noise = dict.fromkeys((b.name for b in project.graph.outputs), 1e-4)
    everything = [search.point(search.problem.types(choice), "").tried
                  for choice in every_choice(search.problem)]
    rams = sorted({t.ram for t in everything})
    files = sorted({t.flash for t in everything})
    for ram, flash in itertools.product((rams[0], rams[len(rams) // 2], rams[-1]),
                                        (files[0], files[len(files) // 2], files[-1])):
        fitting = [t.estimated for t in everything if t.ram <= ram and t.flash <= flash]
        found = Search(project.graph, project.build, Budget(ram, flash), None, allowed,
                       lambda: modelled(project.graph))
        found.run()
        if fitting:
            assert found.best is not None, (ram, flash)
            assert found.best.tried.estimated <= min(fitting) * 1.1 + 1e-9, (ram, flash)
        else:
            assert found.best is None


def test_budget_that_is_met(device, folder, tmp_path):
    out = tmp_path / "m.edge"
    source = source_of(folder, device, calibration=folder / "samples.npz")
    whole = pack(source.path, tmp_path / "fp32.edge", "fp32")
    small = pack(source.path, tmp_path / "int8.edge", "int8", calibration=source.calibration,
                 device=device)
    budget = Budget((whole.arena_bytes + small.arena_bytes) // 2,
                    (whole.file_bytes + small.file_bytes) // 2)
    report, found = budgets.pack(source, out, budget)
    model = loader.read(out)
    assert found.fits and found.ram == model.plan.arena_bytes <= budget.ram
    assert found.flash == model.file_bytes == report.file_bytes <= budget.flash
    assert found.samples == 8 and found.error < 0.1 and found.drop is not None
    assert sum(found.types.values()) == len(found.choices)
    assert all(t.error is not None for t in found.tried if t.fits)
    assert found.error == min(t.error for t in found.tried if t.fits) or any(
        t.error * 1.02 > found.error for t in found.tried if t.fits)
    loose = budgets.fit(source, Budget(whole.arena_bytes, whole.file_bytes))
    assert loose.fits and loose.types == {"fp32": len(found.choices)} and loose.error == 0


def test_what_the_device_allocates(device, folder, tmp_path):
    """The runtime asks OpenCL for what was predicted, to the byte."""
    onnx.save(moe_networks.network(batch=3, twice=True), folder / "moe.onnx")
    for source, precision in (("small", "fp32"), ("small", "int8"), ("moe", "fp32")):
        pack(folder / f"{source}.onnx", tmp_path / "m.edge", precision, device=device,
             calibration=folder / "samples.npz" if precision == "int8" else None)
        model = loader.read(tmp_path / "m.edge")
        cpu = profiles.load("cpu")
        facts = cpu.facts | {"compute_units": replace(cpu.facts["compute_units"],
                                                      value=device.info.compute_units)}
        with Session(model, device) as session:
            got = dict(session.buffers.bytes_by_category)
            chained = session.route.name == "chain"
        weights = {k: got.pop(k) for k in list(got) if k.startswith("weights")}
        facts |= {"chained": replace(cpu.facts["chained"], value=chained)}
        assert account.ram_of(model, replace(cpu, facts=facts)) == got
        copies = facts | {"weights": replace(cpu.facts["weights"], value="shared memory")}
        assert account.ram_of(model, replace(cpu, facts=copies)) == got | weights
        assert account.ram_of(model) == {"arena": got["arena"]}


def test_without_calibration(folder):
    report = budgets.fit(source_of(folder), Budget(ram=1 << 20))
    assert report.fits and "without calibration data only fp32 and fp16" in report.notes[-1]
    half = budgets.fit(source_of(folder), Budget(flash=report.flash - 1))
    assert half.fits and {*half.types} <= {"fp16", "fp32"} and half.error is None
    none = budgets.fit(source_of(folder), Budget(ram=half.ram // 2 - 64))
    assert not none.fits and none.over_ram == none.ram - none.budget.ram > 0
    assert {*none.types} <= {"fp16", "fp32"}
    assert none.suggestions


def test_suggestions_hold(device, folder, tmp_path):
    """What is suggested is done, and then it fits."""
    source = source_of(folder, device, without=("patch",))
    half = pack(source.path, tmp_path / "half.edge", "fp16")
    budget = Budget(ram=half.arena_bytes * 3 // 4)
    with pytest.raises(BudgetError) as error:
        budgets.pack(source, tmp_path / "m.edge", budget)
    assert not (tmp_path / "m.edge").exists()
    report = error.value.report
    assert report.sentence() in str(error.value)
    assert 1 <= len(report.suggestions) <= 3
    assert all(s.ram <= budget.ram for s in report.suggestions if "--ram" not in s.what)
    strips, integers, smaller = report.suggestions
    assert strips.what == "not --without patch" and "no loss" in strips.cost
    assert budgets.fit(replace(source, without=()), budget).fits
    assert "int" in integers.what and "calibration" in integers.cost
    calibrated = replace(source, calibration=folder / "samples.npz")
    assert budgets.fit(calibrated, budget).fits
    assert "an input of" in smaller.what and "instead of 8x8" in smaller.what


def test_larger_budget_that_is_suggested(folder):
    half = budgets.fit(source_of(folder), Budget(flash=20000))
    none = budgets.fit(source_of(folder), Budget(ram=64, flash=half.flash))
    last = none.suggestions[-1]
    assert last.what.startswith("--ram ") and last.cost == "more memory"
    words = last.what.split()
    given = {name[2:]: sizes.parse(size, name) for name, size in zip(words[::2], words[1::2])}
    larger = Budget(**{"flash": half.flash, **given})
    assert larger.ram >= last.ram and budgets.fit(source_of(folder), larger).fits


def test_strips(device, folder, tmp_path):
    """Where RAM is scarce the ops with large images run strip by strip: the same numbers."""
    source = Source(folder / "large.onnx", device=device)
    onnx_images(folder / "large.onnx")
    whole = budgets.fit(replace(source, without=("patch",)), Budget(ram=1 << 40))
    budget = Budget(ram=whole.ram * 2 // 3)
    report, found = budgets.pack(source, tmp_path / "m.edge", budget)
    assert found.types == whole.types and "strip by strip" in found.how
    assert report.patch is not None and found.ram <= budget.ram and found.estimated == 0
    pack(source.path, tmp_path / "fp32.edge", "fp32")
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)}
    with (Session(loader.read(tmp_path / "m.edge"), device) as small,
          Session(loader.read(tmp_path / "fp32.edge"), device) as large):
        np.testing.assert_array_equal(small.run(x)["y"], large.run(x)["y"])
    without = budgets.fit(replace(source, without=("patch",)), budget)
    assert {*without.types} != {"fp32"} or not without.fits
    none = budgets.fit(replace(source, without=("patch",)), Budget(ram=whole.ram * 2 // 5))
    if not none.fits:
        assert none.suggestions[0].what == "not --without patch"


def onnx_images(path) -> None:
    """A network whose first convolutions have large results."""
    import onnx
    from onnx import helper, numpy_helper
    rng = np.random.default_rng(0)
    weights = {"w0": rng.standard_normal((8, 3, 3, 3)) / 5, "w1": rng.standard_normal((8, 8, 3, 3)),
               "w2": rng.standard_normal((8, 8, 3, 3))}
    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
             helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4, strides=[2, 2]),
             helper.make_node("Relu", ["c"], ["d"]),
             helper.make_node("Conv", ["d", "w2"], ["e"], pads=[1] * 4, strides=[2, 2]),
             helper.make_node("GlobalAveragePool", ["e"], ["y"])]
    graph = helper.make_graph(
        nodes, "large", [helper.make_tensor_value_info("x", 1, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 8, 1, 1])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
              path)


def test_drop(device, folder, tmp_path):
    source = source_of(folder, device, calibration=folder / "samples.npz")
    small = pack(source.path, tmp_path / "int8.edge", "int8", calibration=source.calibration,
                 device=device)
    budget = Budget(ram=small.arena_bytes)
    report = budgets.fit(source, budget)
    assert report.fits and report.drop is not None
    assert budgets.fit(source, replace(budget, max_drop=100.0)).fits
    if report.drop > 0:
        none = budgets.fit(source, replace(budget, max_drop=report.drop / 2))
        assert not none.fits and none.suggestions[0].what.startswith("--max-drop")


def test_smaller_inputs_are_inferred():
    graph = network()
    with pytest.raises(Exception, match="shape|elements"):  # 128 values become a row
        shrink(graph, 0.5)
    graph = Graph("g")
    x = graph.input("x", (1, 8, 12, 4), "fp32")
    graph.inputs[0].shape, graph.inputs[0].perm = (1, 4, 8, 12), (0, 2, 3, 1)
    pooled = graph.add("pool2d", [x], "p", kind="max", kernel_h=2, kernel_w=2, stride_h=2,
                       stride_w=2)
    y = graph.add("reduce", [pooled], "y", kind="mean", axes=(1, 2), keep_dims=False)
    graph.output("y", y)
    shrink(graph, 0.5)
    assert x.shape == (1, 4, 6, 4) and graph.inputs[0].shape == (1, 4, 4, 6)
    assert pooled.shape == (1, 2, 3, 4) and y.shape == (1, 4)


@pytest.mark.parametrize("budget, arguments, message", [
    (Budget(), {}, "needs --ram, --flash, or both"),
    (Budget(ram=1, max_drop=0.5), {}, "needs samples to measure it"),
    (Budget(ram=1, max_drop=-1.0), {"calibration": "samples.npz"}, "drop of -1 percentage points"),
    (Budget(ram=1, max_drop=math.nan), {"calibration": "samples.npz"}, "drop of nan"),
    (Budget(ram=1, target="mali"), {}, "no device profile called 'mali', there are: cpu, "),
    (Budget(ram=1), {"samples": 3}, "needed calibration data too"),
    (Budget(ram=1), {"calibration": "fp32.edge"}, "a budget needs samples"),
])
def test_requests_that_cannot_be(folder, budget, arguments, message):
    if not (folder / "fp32.edge").exists():
        pack(folder / "small.onnx", folder / "fp32.edge", "fp32",
             calibration=folder / "samples.npz")
    arguments = {name: folder / value if name == "calibration" else value
                 for name, value in arguments.items()}
    with pytest.raises(InputError, match=message):
        budgets.fit(source_of(folder, **arguments), budget)


def test_allocation_that_a_device_cannot_make(folder, tmp_path):
    pack(folder / "small.onnx", tmp_path / "m.edge", "fp32")
    model, cpu = loader.read(tmp_path / "m.edge"), profiles.load("cpu")
    segment = len(model.segments[0].data)
    small = replace(cpu, facts=cpu.facts | {
        "max_allocation": replace(cpu.facts["max_allocation"], value=segment - 1)})
    found = account.obstacles(model, small)
    assert f"the segment of {model.segments[0].dtype} constants is one buffer" in found[0]
    assert account.obstacles(model, cpu) == [] and account.obstacles(model, None) == []


def test_command_line(device, folder, tmp_path, capsys):
    model, out = str(folder / "small.onnx"), tmp_path / "m.edge"
    assert main.main(["fit", model, "--ram", "1M", "--flash", "64KiB"]) == 0
    assert "fits" in capsys.readouterr().out
    assert main.main(["fit", model, "--ram", "100", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"] and found["over_ram"] > 0 and found["suggestions"]
    assert main.main(["pack", model, "-o", str(out), "--ram", "100"]) == 1
    shown = capsys.readouterr()
    assert not out.exists() and "does not fit" in shown.err and "--ram" in shown.err
    assert main.main(["pack", model, "-o", str(out), "--ram", "1M", "--target", "cpu"]) == 0
    assert "1,048,576 B" in capsys.readouterr().out and loader.read(out).target == "cpu"
    assert main.main(["fit", "--target", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in profiles.names()) and "not verified" in listed
    assert main.main(["fit", model, "--ram", "256KB"]) == 1
    assert "1000 or 1024" in capsys.readouterr().err
    assert main.main(["fit", model, "--ram", "1M", "--target", "toaster"]) == 1
    assert "there are: cpu" in capsys.readouterr().err
    for wrong in (["fit", "--ram", "1M"], ["pack", model, "-o", str(out), "--ram", "1M",
                                           "--precision", "int8"],
                  ["pack", model, "-o", str(out), "--max-drop", "1"],
                  ["pack", model, "-o", str(out), "--target", "cpu"]):
        assert main.main(wrong) == 1, wrong
        assert "needed" in capsys.readouterr().err


def test_vectors_are_held_to_the_types_chosen(device, folder, tmp_path, capsys):
    """The file and the report name one type; the tolerance is the loosest of those in the file."""
    source = source_of(folder, device, calibration=folder / "samples.npz")
    whole = budgets.fit(source, Budget(ram=1 << 40))
    with np.load(folder / "samples.npz") as data:
        np.savez(tmp_path / "four.npz", x=data["x"][:4])
    out, seen = tmp_path / "m.edge", set()
    for part in (1.0, 0.5, 0.4, 0.3, 0.26):
        command = ["pack", str(source.path), "-o", str(out), "--ram", str(int(whole.ram * part)),
                   "--calibration", str(folder / "samples.npz"),
                   "--vectors", str(tmp_path / "four.npz"), "--json"]
        if main.main(command) != 0:
            capsys.readouterr()
            continue
        report, model = json.loads(capsys.readouterr().out), loader.read(out)
        assert model.precision == report["precision"]
        types = report["budget"]["types"]
        assert model.precision == ([*types][0] if len(types) == 1 else "mixed")
        loosest = max(map(verify.tolerance_of, types))
        assert [round(v.tolerance, 6) for v in model.vectors] == [round(loosest, 6)] * 4
        assert main.main(["verify", str(out)]) == 0
        capsys.readouterr()
        seen |= {*types}
    assert "int8" in seen and "fp32" in seen


def test_one_type_for_all_ops_is_the_label(device, folder):
    finder = budgets.Finder(source_of(folder, device, calibration=folder / "samples.npz"))
    project = finder.project
    for dtype in DTYPES:
        built = project.build({op: dtype for op in project.allowed(project.types)}, "", None)
        assert loader.from_bytes(np.frombuffer(built.data, np.uint8), "m").precision == dtype


def test_options_beside_a_budget(folder, tmp_path, capsys):
    model, out, page = str(folder / "small.onnx"), tmp_path / "m.edge", tmp_path / "m.html"
    command = ["pack", model, "-o", str(out), "--ram", "1M"]
    assert main.main([*command, "--html", str(page)]) == 1
    assert "--html and a budget exclude each other" in capsys.readouterr().err
    assert main.main([*command, "--target", ""]) == 1
    assert "--target is empty: needed the name" in capsys.readouterr().err
    assert not out.exists() and not page.exists()
    assert main.main(command) == 0
    notes = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note: ")]
    assert notes and len(notes) == len({*notes})
