"""Every program compiles for Intel GPUs and keeps to their registers; what is reported is so."""
from __future__ import annotations

import json
import platform

import numpy as np
import pytest

from edgerun import DeviceError, loader
from edgerun.tools import blob, demo, layout, networks, offline, passes, plan as planner
from edgerun.tools.graph import Graph
from edgerun.tools.pack import pack
from edgerun.tools.precision import convert
from tests import integer_ops

SIZE = 64  # of images: programs depend on kinds of layers, hardly on sizes
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64",
                                reason="Intel's compiler runs on x86-64 only")
MOST_SPILLED = 256  # bytes of a thread: 8 of its 128 registers
REAL = ("resnet18", "mobilenetv2", "alexnet", "mlp", "attention")
INTEGER = ("squeezenet", "mobilenetv2")


def of_form(name: str):
    """The model of one op on quantized tensors."""
    graph = Graph(name)
    op = integer_ops.add(graph, integer_ops.FORMS[name])
    for i, tensor in enumerate(op.outputs):
        graph.output(f"y{i}", tensor)
    aliases = passes.alias.apply(graph)
    convert(graph, "fp32", aliases)
    layout.apply(graph)
    data = blob.encode(graph, planner.plan(graph, aliases), aliases, "fp32")
    return loader.from_bytes(np.frombuffer(data, np.uint8), name)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list:
    """Networks in every precision."""
    folder = tmp_path_factory.mktemp("offline")
    wanted = [(name, p) for name in REAL for p in ("fp32", "fp16")]
    wanted += [(name, p) for name in INTEGER for p in ("int8", "int16")]
    found = []
    for name, precision in wanted:
        path = folder / f"{name}.{precision}.edge"
        networks.write(name, path, precision, SIZE if len(networks.shape_of(name)) == 4 else None)
        found.append(loader.read(path))
    for precision in ("fp32", "fp16"):
        path = folder / f"demo.{precision}.edge"
        pack(demo.DATA / "fashion_mnist.onnx", path, precision)
        found.append(loader.read(path))
    return found


def check(models, targets, at_least: int) -> None:
    outcomes = offline.compile_all(models, targets)
    print("\n".join(offline.summary(outcomes)))
    assert len(outcomes) >= at_least
    assert {f"{o.target}: {o.program}": o.error for o in outcomes if o.error} == {}
    assert all(kernel.simd in (8, 16, 32) and kernel.instructions for o in outcomes
               for kernel in o.kernels)
    assert [f"{o.target}: {o.program}: {k}" for o in outcomes for k in o.kernels
            if k.spill_bytes > MOST_SPILLED] == []


@pytest.mark.parametrize("target", offline.TARGETS)
def test_programs_of_networks(models, target):
    """None fails, none spills more than a few registers."""
    check(models, [target], 30)


@pytest.mark.parametrize("target", ["skl", "dg2"])
def test_programs_of_integer_ops(target):
    """The same for every op on quantized tensors, on the oldest and the newest target."""
    check([of_form(name) for name in integer_ops.FORMS], [target], 30)


def program(family: str, **defines: int) -> offline.Program:
    return offline.Program(family, tuple((name, str(value)) for name, value in defines.items()))


def compiled(target: str, wanted: offline.Program, tmp_path) -> offline.Outcome:
    return offline._compile(offline.compiler(), tmp_path, wanted, target)


@pytest.mark.parametrize("way", ["KHR", "DP4A"])
def test_only_newer_gpus_have_instructions_for_products(tmp_path, way):
    """A target without them refuses, which shows that the others have made use of them."""
    wanted = program("conv_integer", **{f"DOT_{way}": 1, "T_uint8": 1, "VEC": 4})
    assert compiled("dg2", wanted, tmp_path).error == ""
    assert "dp4a" in compiled("skl", wanted, tmp_path).error


def test_an_error_is_that_of_the_compiler(tmp_path):
    outcome = compiled("skl", program("elementwise", T_fp32=1, EXPRESSION="missing(x)"), tmp_path)
    assert "elementwise.cl:" in outcome.error and "missing" in outcome.error
    assert outcome.kernels == ()


@pytest.mark.parametrize("text, missing", [
    ("int absent(int); __kernel void f(__global int *y) { y[0] = absent(y[0]); }", ["absent"]),
    ("__kernel void f(__global int *y) { y[0] = 1; }", [])])
def test_functions_that_are_nowhere(monkeypatch, tmp_path, text, missing):
    """The compiler builds a call of them without a word."""
    monkeypatch.setattr(offline, "source", lambda family, defines: text)
    error = compiled("tgllp", program("any"), tmp_path).error
    assert all(name in error for name in missing) and bool(error) == bool(missing)


def test_spills_and_private_arrays(monkeypatch, tmp_path):
    many = range(200)  # numbers of a work-item: at 8 lanes a thread has registers for 128
    load, mix, store = (" ".join(line.format(i, (i + 7) % 200) for i in many) for line in (
        "float a{0} = x[{0} * n + g];", "a{0} = a{0} * a{1} + k;", "x[{0} * n + g] = a{0};"))
    monkeypatch.setattr(offline, "source", lambda family, defines: (
        "__kernel void f(__global float *x, const int n) { const int g = get_global_id(0);"
        f"{load} for (int k = 0; k < n; k++) {{ {mix} }} {store} }}"))
    kernel, = compiled("skl", program("any"), tmp_path).kernels
    assert kernel.name == "f" and kernel.simd == 8 and kernel.again and kernel.spill_bytes > 1000
    monkeypatch.setattr(offline, "source", lambda family, defines: (
        "__kernel void f(__global int *x) { int a[900]; x += get_global_id(0);"
        "for (int i = 0; i < 900; i++) a[x[i]] = i; x[0] = a[x[64]]; }"))
    for target in ("skl", "dg2"):
        kernel, = compiled(target, program("any"), tmp_path).kernels
        assert kernel.private_bytes >= 900 * 4 * kernel.simd and not kernel.spill_bytes


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02", b"\x7fELF\x01" + bytes(99), bytes(200)])
def test_other_files_are_refused(data):
    with pytest.raises((ValueError, offline.struct.error)):
        offline.elf_sections(data)


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="apt install intel-opencl-icd"):
        offline.compile_all([], [])


def test_the_same_programs_once():
    """Two models that build the same programs compile them once per target."""
    model = of_form("dense uint8")
    facts = offline.TARGETS["skl"][0]
    assert len(offline.programs_of(model, facts)) == 1
    first, second = (offline.compile_all(some, ["skl"]) for some in ([model], [model, model]))
    assert first == second and len(first) == 1


def test_command_line(capsys, tmp_path):
    pack(demo.DATA / "fashion_mnist.onnx", tmp_path / "m.edge")
    assert offline.main([str(tmp_path / "m.edge"), "--target", "skl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["family"] for entry in found} >= {"conv"}
    assert all(entry["kernels"][0]["simd"] and not entry["error"] for entry in found)
    assert offline.main([str(demo.DATA / "fashion_mnist.onnx"), "--target", "skl"]) == 0
    assert f"{len(found)} of {len(found)} compile" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        offline.main([])
    assert offline.main([str(tmp_path / "none.edge")]) == 1


def test_command_line_fails_with_a_program(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(offline, "source", lambda family, defines: "not OpenCL")
    assert offline.main([str(demo.DATA / "fashion_mnist.onnx"), "--target", "skl"]) == 1
    shown = capsys.readouterr().out
    assert "skl: conv " in shown and "error" in shown
