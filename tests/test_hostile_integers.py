"""Hostile files of ops on quantized tensors: each is a ModelError before anything is launched."""
from __future__ import annotations

import functools
import random

import numpy as np
import pytest

from edgerun import ModelError, dots, loader
from edgerun.model import Model
from edgerun.ops import OPS, Facts
from edgerun.tools import blob, layout, plan as planner
from edgerun.tools.graph import Graph
from tests import mutate
from tests.damage import damaged, process
from tests.fuzz_integers import NETWORKS
from tests.integer_ops import FORMS, add

DEVICES = (Facts(dot="vnni"), Facts(lanes=8, dot="float"), Facts("gpu", 4, dot="khr"))
NAN, INF = float("nan"), float("inf")
WEIGHTED = [name for name in FORMS if name.startswith(("conv", "dense", "depthwise"))
            and "of one channel" not in name]
INTEGER = [name for name in WEIGHTED if "weights" not in name]  # forms (a) and (b)
TO_INTEGER = [name for name in INTEGER if "fp32" not in name]  # form (a)


@functools.cache
def file_of(name: str) -> bytes:
    """Return a model file of one op; its tensors are x0, c1, ... and y."""
    graph = Graph("one")
    op = add(graph, FORMS[name])
    graph.output("y", op.outputs[0])
    layout.apply(graph)
    plan = planner.plan(graph, {})  # with room for elements of four times the bytes
    plan.offsets = {tensor: 4 * at for tensor, at in plan.offsets.items()}
    plan.scratch = {op: (4 * at, size) for op, (at, size) in plan.scratch.items()}
    plan.arena_bytes *= 4
    return blob.encode(graph, plan, {}, "fp32")


def prepared(data: bytes) -> Model:
    """Read a file, and prepare its ops for several devices as a session does."""
    model = loader.from_bytes(np.frombuffer(data, np.uint8), "m.edge")
    for facts in DEVICES:
        for op in model.ops:
            OPS[op.code].prepare(op, facts)
    return model


def tensor(graph: dict, name: str) -> dict:
    """Return a tensor of the Graph table by name, or by the start of it."""
    found = [t for t in graph["tensors"] if t["name"] == name]
    return found[0] if found else next(t for t in graph["tensors"] if t["name"].startswith(name))


def refused(name: str, change, message: str = "") -> None:
    """The file of a form is refused once change(root, graph) has altered it."""
    with pytest.raises(ModelError, match=message):
        prepared(mutate.changed(file_of(name), change))


def grid(scale, zero=0, axis=-1, rounding="once") -> dict:
    """Return a Quantization table."""
    scales = list(np.atleast_1d(scale))
    return {"scale": scales, "zero_point": [zero] * len(scales), "axis": axis,
            "rounding": rounding}


@pytest.mark.parametrize("name", FORMS)
def test_good_file_prepares(name):
    """Whatever is refused below is refused for its change."""
    model = prepared(mutate.changed(file_of(name), lambda root, graph: None))
    assert model.ops[0].code == FORMS[name].code


# quantization of any tensor

BAD_GRIDS = {
    "no scale": ({"scale": [], "zero_point": [0], "axis": -1}, "0 scales and 1 zero points"),
    "no zero point": ({"scale": [1.0], "zero_point": [], "axis": -1}, "0 zero points"),
    "two scales": (grid([1.0, 2.0]), "needed 1"),
    "zero": (grid(0.0), "not a positive finite number"),
    "negative": (grid(-1.0), "not a positive finite number"),
    "NaN": (grid(NAN), "not a positive finite number"),
    "infinite": (grid(INF), "not a positive finite number"),
    "zero point above": (grid(1.0, 40_000), "zero point outside"),
    "zero point below": (grid(1.0, -40_000), "zero point outside"),
    "zero point of 32 bits": (grid(1.0, -2**31), "zero point outside"),
    "axis past the end": (grid(1.0, axis=8), "along axis 8"),
    "axis before the start": (grid(1.0, axis=-2), "along axis -2"),
    "axis of another length": (grid([1.0] * 7, axis=0), "needed"),
}


@pytest.mark.parametrize("what", BAD_GRIDS)
@pytest.mark.parametrize("place", ["x0", "c1", "y"])
def test_grids(what, place):
    bad, message = BAD_GRIDS[what]
    refused("conv2d uint8", lambda r, g: tensor(g, place).update(quantization=bad), message)


NEEDS_GRID = [(name, where) for name, form in FORMS.items()
              for where in ("x0", "x1", "y") if name not in ("arg", "largest")
              and not name.startswith("table")
              and (form.quantization if where == "y" else form.inputs[int(where[1]):]
                   and getattr(form.inputs[int(where[1])], "quantization", None))
              and not (where == "x0" and name in INTEGER and not name.startswith("conv_trans"))]
PER_AXIS = [(name, where) for name, where in NEEDS_GRID if not name.startswith("concat")]


@pytest.mark.parametrize("name, where", NEEDS_GRID)
def test_missing_grids(name, where):
    """A quantized tensor without a quantization, where a number of the launch comes from it."""
    def change(root, graph):
        tensor(graph, where).update(quantization=None)
    if name in COPIES_WITHOUT.get(where, ()):
        prepared(mutate.changed(file_of(name), change))
    else:
        refused(name, change, "needed one scale|needed a quantization|has no kind")


# Without quantization these copy or compare integers, and have no number to get wrong.
COPIES_WITHOUT = {"x0": ("pad", "concat"), "x1": ("concat",), "y": ("concat",)}


@pytest.mark.parametrize("name, where", PER_AXIS)
def test_grids_per_axis(name, where):
    """One scale per channel, which no activation has."""
    def change(root, graph):
        shape = tensor(graph, where)["shape"]
        tensor(graph, where).update(quantization=grid([1.0] * shape[-1], 0, len(shape) - 1))
    refused(name, change, "needed one scale")


EXTREME = [np.float32(1e-45), np.float32(2**-126), np.float32(1e-20), np.float32(1e20),
           np.float32(3e38)]
ROUNDINGS = ("once", "twice", "short", "upward", "single")


@pytest.mark.parametrize("name", FORMS)
def test_extreme_grids(name):
    """Every scale that a file can hold, with every rounding, gives launches or a ModelError."""
    places = [t["name"] for t in mutate.unpack(file_of(name))[1]["tensors"]
              if t["quantization"] is not None]
    for place in places:
        for rounding in ROUNDINGS:
            for scale in EXTREME:
                def change(root, graph):
                    found = tensor(graph, place)["quantization"]
                    found.update(scale=[scale], rounding=rounding)
                    if place != "y":
                        tensor(graph, "y")["quantization"] = (
                            None if tensor(graph, "y")["quantization"] is None
                            else dict(tensor(graph, "y")["quantization"], rounding=rounding))
                try:
                    prepared(mutate.changed(file_of(name), change))
                except ModelError:
                    pass


@pytest.mark.parametrize("name", [
    "matmul int16 to fp32", "conv_transpose2d int16", "conv_transpose2d wide", "add int16", "max"])
def test_zero_points_of_int16(name):
    """int16 activations of arithmetic are symmetric: their kernels subtract nothing from them."""
    refused(name, lambda r, g: tensor(g, "x0").update(quantization=grid(0.5, 3)), "needed 0")


# inputs of ops with weights

def drop(number: int):
    def change(root, graph):
        inputs = list(graph["ops"][0]["inputs"])
        inputs[number] = -1
        graph["ops"][0]["inputs"] = inputs
    return change


def shaped(place: str, *shape: int):
    return lambda root, graph: tensor(graph, place).update(shape=list(shape))


def of_dtype(place: str, dtype: str):
    """Make a tensor of another dtype; a constant keeps to a segment that has the bytes for it."""
    def change(root, graph):
        found = tensor(graph, place)
        if found["segment"] < 0:
            for role in ("inputs", "outputs"):
                for boundary in graph[role]:
                    if graph["tensors"][boundary["tensor"]] is found:
                        boundary["dtype"] = dtype
        else:
            known = [s["dtype"] for s in root["segments"]]
            if dtype not in known:
                root["segments"].append({"dtype": dtype, "data": np.zeros(8192, np.uint8)})
                known.append(dtype)
            at = known.index(dtype)
            root["segments"][at]["data"] = np.zeros(8192, np.uint8)
            found.update(segment=at, offset=0)
        if found["quantization"] is not None and dtype in ("fp32", "fp16"):
            found["quantization"] = None
        if found["layout"] != "rows":
            found["layout"] = {"int8": "oc16x4", "int16": "oc16x2"}.get(dtype, "oc16")
        found["dtype"] = dtype
    return change


@pytest.mark.parametrize("name", WEIGHTED)
def test_lengths_of_constants(name):
    """bias, multipliers or scales, and shifts have one value per output channel."""
    out_c = 20 if name.startswith("depthwise") else 18
    numbers = [2, 5] + ([6] if name in TO_INTEGER else [])
    for number in numbers:
        role = {2: "bias", 5: "multipliers|scales", 6: "shifts"}[number]
        for shape in ([out_c - 1], [out_c + 1], [1], [1, out_c], [out_c, 1], [2, out_c - 1],
                      [3, out_c], [2**20]):
            refused(name, shaped(f"c{number}", *shape),
                    f"{role}|has the shape|takes bytes|of a segment")
        if number > 2:
            refused(name, drop(number), "has no multipliers|has no scales|has no shifts|scales")
    if "wide" in name:
        refused(name, shaped("c2", out_c), "bias|has the shape")
        refused(name, shaped("c2", out_c, 2), "bias|has the shape")
    else:
        refused(name, shaped("c2", 2, out_c), "bias|has the shape|takes bytes")


@pytest.mark.parametrize("number, dtypes", [
    (0, ("int8", "int32", "bool", "fp32")), (1, ("uint8", "int16", "int32", "fp32", "bool")),
    (2, ("fp32", "int16", "int8")), (5, ("fp16", "int16", "uint8")),
    (6, ("uint8", "int16", "int32"))])
@pytest.mark.parametrize("name", [name for name in TO_INTEGER if name.endswith("uint8")])
def test_dtypes_of_inputs(name, number, dtypes):
    for dtype in dtypes:
        place = f"{'x' if number == 0 else 'c'}{number}"
        refused(name, of_dtype(place, dtype), "needed|mixes|its inputs give|has the layout")


@pytest.mark.parametrize("name", WEIGHTED)
def test_layouts(name):
    """Weights in blocks of other words would be read past their end."""
    blocked = not name.startswith("depthwise")
    for wrong in ("rows", "oc16", "oc16x2", "oc16x4"):
        if tensor(mutate.unpack(file_of(name))[1], "c1")["layout"] != wrong:
            refused(name, lambda r, g: tensor(g, "c1").update(layout=wrong),
                    "has the layout|takes bytes")
        if wrong != "rows":
            for number in [2, 5] + ([6] if name in TO_INTEGER else []):
                refused(name, lambda r, g: tensor(g, f"c{number}").update(layout=wrong),
                        "has the layout|takes bytes")
    if blocked:
        def cut(root, graph):
            """The elements would fit, what fills up the last word of each tap does not."""
            found = tensor(graph, "c1")
            segment = root["segments"][found["segment"]]
            needed = int(np.prod(found["shape"])) * (2 if segment["dtype"] == "int16" else 1)
            segment["data"] = segment["data"][:found["offset"] + needed + 64].copy()
        refused(name, cut, "c1.*takes bytes .* and 64 behind it")


@pytest.mark.parametrize("name", [n for n in WEIGHTED if n.startswith("conv2d")])
def test_rows_of_zero_points(name):
    """What taps outside the image read: whole words of the dtype of x."""
    word = 2 if name.endswith(("wide", "weights int16")) else 4
    refused(name, shaped("zeros", 5), "has 5 zeros, needed " + ("6" if word == 2 else "8"))
    refused(name, shaped("zeros", 3), "has 3 zeros, needed")
    refused(name, drop(4), "needed a fifth input")
    for dtype in ("int32", "int8", "bool"):
        refused(name, of_dtype("zeros", dtype), "mixes the dtypes")


def options(**changed):
    return lambda root, graph: graph["ops"][0]["options"][1].update(changed)


def test_wide_where_it_is_not_possible():
    for name in WEIGHTED:
        if "wide" not in name:
            refused(name, options(wide=True), "is wide|has the shape|bias")
        else:
            refused(name, options(wide=False), "has the shape")
            for rounding in ("twice", "upward", "single"):
                refused(name, lambda r, g: tensor(g, "y")["quantization"].update(
                    rounding=rounding), "is wide and rounds")


def test_zero_points_of_weights():
    """Only int8 weights beside uint8 activations may have one, and one only."""
    for name in WEIGHTED:
        def change(root, graph):
            tensor(graph, "c1").update(quantization=grid(0.01, 5))
        if any(word in name for word in ("uint8", "to fp32")):
            prepared(mutate.changed(file_of(name), change))
        else:
            refused(name, change, "zero point")

    def several(root, graph):
        found = tensor(graph, "c1")
        scale = [0.1] * found["shape"][0]
        found.update(quantization={"scale": scale, "zero_point": list(range(len(scale))),
                                   "axis": 0})
    refused("conv2d uint8", several, "several zero points")


def test_activations_that_are_no_clamp():
    for name in (*TO_INTEGER, "matmul uint8", "add", "max pool", "average pool"):
        refused(name, options(activation="sigmoid"), "needed relu, clip or none")
        refused(name, options(activation="nonsense"), "unknown activation|needed relu, clip")
    refused("clip", options(kind="tanh"), "has no kind 'tanh' for quantized")
    refused("leaky relu", options(alpha=-1.0), "needed at least 0")
    refused("leaky relu", options(alpha=INF), "too small")


def test_residuals_of_integers():
    for name in TO_INTEGER:
        def change(root, graph):
            inputs = list(graph["ops"][0]["inputs"])
            inputs[3] = inputs[0]
            graph["ops"][0]["inputs"] = inputs
        refused(name, change, "has a residual")


# the other ops

CHANGES = {
    "table of 255": ("table uint8", shaped("c1", 255), r"needed \(256,\)"),
    "table of 257": ("table uint8 to int16", shaped("c1", 257), "needed|takes bytes"),
    "table in two rows": ("table uint8", shaped("c1", 2, 128), r"needed \(256,\)"),
    "table of 256 for int16": ("table int16", shaped("c1", 256), r"needed \(513,\)"),
    "table of 512 for int16": ("table int16", shaped("c1", 512), r"needed \(513,\)"),
    "table of another dtype": ("table uint8", of_dtype("c1", "int8"), "needed uint8 or int16"),
    "table of bytes for int16": ("table int16", of_dtype("c1", "uint8"), "needed int16"),
    "table of an int8": ("table uint8", of_dtype("x0", "int8"), "needed uint8 or int16"),
    "result of another dtype": ("table uint8", of_dtype("y", "int16"), "its inputs give"),
    "table in the arena": ("table uint8", lambda r, g: tensor(g, "c1").update(
        segment=-1, offset=1024), "before anything has written it|takes bytes"),
    "exponentials of 255": ("softmax", shaped("c1", 255), r"needed \(256,\)"),
    "exponentials in fp32": ("softmax", of_dtype("c1", "fp32"), "needed int32"),
    "exponentials for int16": ("softmax", of_dtype("x0", "int16"), "needed uint8"),
    "exponentials of a logarithm": ("softmax", options(log=True), "no integer form"),
    "a tiny softmax": ("softmax", lambda r, g: tensor(g, "y").update(quantization=grid(1e-30)),
                       "needed more than"),
    "sum of dtypes": ("add", of_dtype("x1", "int16"), "mixes the dtypes"),
    "one operand not quantized": ("add", lambda r, g: tensor(g, "x1").update(quantization=None),
                                  "needed one scale"),
    "quotient of integers": ("add", options(kind="div"), "has no kind 'div' for quantized"),
    "sum of far scales": ("add", lambda r, g: tensor(g, "y").update(quantization=grid(1e-9)),
                          "too small"),
    "int16 with a zero point": ("add int16", lambda r, g: tensor(g, "x1").update(
        quantization=grid(0.5, 1)), "needed 0"),
    "square of int16": ("max", options(kind="squared_difference"), "has no kind"),
    "product of dtypes": ("matmul uint8", of_dtype("x1", "int16"), "mixes the dtypes"),
    "int16 product with a zero point": ("matmul int16 to fp32", lambda r, g: tensor(
        g, "x1").update(quantization=grid(0.5, 1)), "needed 0"),
    "product without its scale": ("matmul int16 to fp32", lambda r, g: g["ops"][0].update(
        inputs=g["ops"][0]["inputs"][:2]), "its inputs give"),
    "two scales of a product": ("matmul int16 to fp32", shaped("c2", 2), "scale|takes bytes"),
    "a product rounded in two steps": ("matmul uint8", lambda r, g: tensor(g, "y").update(
        quantization=grid(1e-12)), "less than 2"),
    "maximum on two grids": ("max pool", lambda r, g: tensor(g, "y").update(
        quantization=grid(0.25)), "differ in scale"),
    "maximum of two zero points": ("max pool", lambda r, g: tensor(g, "y").update(
        quantization=grid(0.5, 101)), "differ in scale or zero point"),
    "average of a far origin": ("average pool", options(origin=2**31 - 1), "origin"),
    "average of far scales": ("average pool", lambda r, g: tensor(g, "y").update(
        quantization=grid(1e-9)), "exceed 32 bits"),
    "resize on two grids": ("resize linear", lambda r, g: tensor(g, "y").update(
        quantization=grid(0.25)), "differ in scale"),
    "resize of a far origin": ("resize linear", options(origin=-2**31), "origin"),
    "coarse mode": ("resize coarse", options(coordinate_mode="pytorch_half_pixel"), "is coarse"),
    "pad on two grids": ("pad", lambda r, g: tensor(g, "y").update(
        quantization=grid(0.5, 0)), "differ in scale"),
    "mean of a far origin": ("mean", options(origin=1000), "origin"),
    "mean of far scales": ("mean", lambda r, g: tensor(g, "y").update(quantization=grid(1e-12)),
                           "exceed 32 bits|less than 2"),
    "concat of far scales": ("concat", lambda r, g: tensor(g, "x1").update(
        quantization=grid(1e12)), "too small"),
    "to fp16": ("quantize", options(dtype="fp16"), "needed uint8|to fp16"),
    "to int64": ("requantize", options(dtype="int64"), "to int64"),
    "from integers": ("dequantize", options(dtype="uint8"), "to uint8"),
    "dequantize without a scale": ("dequantize", lambda r, g: tensor(g, "x0").update(
        quantization=None), "needed a quantization"),
    "quantize with a denormal scale": ("quantize", lambda r, g: tensor(g, "y").update(
        quantization=grid(1e-40)), "has the scale"),
    "requantize of far scales": ("requantize", lambda r, g: tensor(g, "y").update(
        quantization=grid(1e-9)), "too small"),
    "gamma of integers": ("layer norm", of_dtype("c1", "int32"), "needed fp32"),
    "norm with a denormal scale": ("layer norm", lambda r, g: tensor(g, "y").update(
        quantization=grid(1e-42)), "beyond what fp32 divides by"),
    "boundary of real numbers without a scale": ("max pool", lambda r, g: (
        g["inputs"][0].update(dtype="fp32"), tensor(g, "x0").update(quantization=None)),
        "is fp32, its tensor uint8"),
    "boundary of int8 without a scale": ("max pool", lambda r, g: (
        g["inputs"][0].update(dtype="int8"), tensor(g, "x0").update(quantization=None)),
        "is int8, its tensor uint8"),
    "boundary of real numbers per channel": ("max pool", lambda r, g: (
        g["inputs"][0].update(dtype="fp32"),
        tensor(g, "x0").update(quantization=grid([1.0] * 5, 0, 3))), "is fp32, its tensor uint8"),
    "boundary of another integer": ("max pool", lambda r, g: g["outputs"][0].update(
        dtype="int16"), "is int16, its tensor uint8"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changes(what):
    name, change, message = CHANGES[what]
    refused(name, change, message)


def found_range(**changed) -> dict:
    return {"name": "y", "low": -1.0, "high": 1.0, "low8": -1.0, "high8": 1.0, "low16": -1.0,
            "high16": 1.0, **changed}


@pytest.mark.parametrize("changed", [
    {key: value} for key in ("low", "high", "low8", "high8", "low16", "high16")
    for value in (NAN, INF, -INF)] + [
    {"low": 2.0}, {"low8": 0.5}, {"high8": -0.5}, {"low16": 1.0}, {"high16": -2.0}])
def test_ranges(changed):
    assert prepared(mutate.changed(file_of("add"), lambda r, g: g.update(
        ranges=[found_range()]))).ranges[0].high == 1
    refused("add", lambda r, g: g.update(ranges=[found_range(**changed)]),
            "the range of 'y': is|is not a number")


def test_ranges_given_twice_or_by_long_names():
    refused("add", lambda r, g: g.update(ranges=[found_range()] * 2), "is given twice")
    refused("add", lambda r, g: g.update(ranges=[found_range(name="n" * 5000)]), "characters")


# what is launched all the same

@pytest.mark.parametrize("network", NETWORKS)
def test_random_damage(device, network):
    """Seeded damage ends in a result or a ModelError, and writes to no byte outside a tensor."""
    process("fuzz_integers", device.info.platform, network, "150")


@pytest.mark.parametrize("name", ["plain", "float", "vnni"])
def test_no_form_reads_or_writes_outside_its_tensors(device, name):
    if not dots.has(device, name):
        pytest.skip(f"{device.info.name} cannot sum by {name}")
    process("guard_page", device.info.platform, name, "forms")


@pytest.mark.parametrize("name", FORMS)
def test_random_damage_of_one_op(name):
    """The same up to the launches, of every form."""
    rng, whole = random.Random(name), file_of(name)
    outcomes = {"prepared": 0, "refused": 0}
    for _ in range(60):
        try:
            data = damaged(whole, rng)
        except (KeyError, OverflowError, TypeError, ValueError):
            continue  # the writer refuses it
        try:
            prepared(data)
            outcomes["prepared"] += 1
        except ModelError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 3, outcomes
