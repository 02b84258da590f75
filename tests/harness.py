"""Run single ops on a device and compare with their NumPy reference, with guard bytes around."""
from __future__ import annotations

import numpy as np

from edgerun import loader
from edgerun.device import Device
from edgerun.ops import OPS
from edgerun.quantization import Quantization
from edgerun.session import Session
from edgerun.tools import blob, layout, passes, plan as planner, reference
from edgerun.tools.graph import Graph, Tensor
from edgerun.tools.precision import convert

GUARD = 256  # bytes before and behind everything in the arena
CANARY = 0xA5


class Const:
    """Marks an input of check_op as a constant of the graph, quantized or not; dtype: of words."""

    def __init__(self, array, quantization: Quantization | None = None, dtype: str | None = None):
        self.array = np.asarray(array)
        self.quantization = quantization
        self.dtype = dtype


class Quantized:
    """Integers as an input of check_integer, with what they mean."""

    def __init__(self, array, scale: float = 1.0, zero_point: int = 0):
        self.array = np.asarray(array)
        self.quantization = Quantization.per_tensor(scale, zero_point)


def _operand(graph: Graph, value, number: int) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Const):
        return graph.constant(value.array, f"c{number}", value.dtype, value.quantization)
    quantization = None
    if isinstance(value, Quantized):
        value, quantization = value.array, value.quantization
    value = np.asarray(value)
    from edgerun import dtypes
    x = graph.input(f"x{number}", value.shape, dtypes.name_of(value.dtype))
    x.quantization = quantization
    return x


def session_of(device: Device, graph: Graph, precision: str = "fp32") -> Session:
    """Plan a graph with guard bytes around the arena, and prepare it on a device."""
    aliases = passes.alias.apply(graph)
    convert(graph, precision, aliases, exact_inputs=False)
    return prepared(device, graph, aliases, precision)


def prepared(device: Device, graph: Graph, aliases: dict, precision: str) -> Session:
    """The same for a graph whose storage types are chosen."""
    layout.apply(graph)
    plan = planner.plan(graph, aliases)
    plan.offsets = {tensor: at + GUARD for tensor, at in plan.offsets.items()}
    plan.scratch = {op: (at + GUARD, size) for op, (at, size) in plan.scratch.items()}
    plan.arena_bytes += 2 * GUARD
    data = blob.encode(graph, plan, aliases, precision)
    model = loader.from_bytes(np.frombuffer(data, np.uint8), "test")
    return Session(model, device)


def run_guarded(session: Session, inputs: dict) -> dict:
    """Run with the arena full of canaries; fail if a byte that is no tensor's has changed."""
    cl, queue = session.device.cl, session.device.queue
    arena = np.full(session.model.plan.arena_bytes, CANARY, np.uint8)
    cl.enqueue_copy(queue, session.memory_objects[0], arena)
    outputs = session.run(inputs)
    cl.enqueue_copy(queue, arena, session.memory_objects[0])
    free = np.ones(len(arena), bool)
    for tensor in session.model.tensors:
        if not tensor.constant:
            free[tensor.offset:tensor.offset + tensor.bytes] = False
    for op in session.model.ops:
        free[op.scratch_offset:op.scratch_offset + op.scratch_bytes] = False
    touched = np.flatnonzero(free & (arena != CANARY))
    assert not len(touched), f"bytes outside every tensor were written: {touched[:8]}"
    return outputs


def check_op(device: Device, code: str, inputs: list, tolerance: float = 1e-5,
             precision: str = "fp32", **options) -> dict[str, np.ndarray]:
    """Run one op on the device and compare with the reference.

    Args:
        device: an opened device.
        code: op code.
        inputs: arrays, Const(array) for constants, None for an optional input left out.
        tolerance: largest |difference| relative to max(1, largest |expected|); 0 means equality. At
            fp16 the inputs are rounded first, and 2e-3 is allowed for the rounding of the output.
        precision: "fp32" or "fp16".
        **options: of the op.

    Returns:
        The device's outputs by name (y0, y1, ...).
    """
    if precision == "fp16":
        tolerance = max(tolerance, 2e-3)
    inputs = [_as_stored(value, precision) for value in inputs]

    def build() -> Graph:
        graph = Graph("test")
        operands = [_operand(graph, value, i) for i, value in enumerate(inputs)]
        op = graph.insert(0, code, operands, "y", **options)
        for i, tensor in enumerate(op.outputs):
            graph.output(f"y{i}", tensor)
        return graph

    feeds = {f"x{i}": np.asarray(value) for i, value in enumerate(inputs)
             if value is not None and not isinstance(value, Const)}
    expected = reference.execute(build(), feeds)
    with session_of(device, build(), precision) as session:
        found = run_guarded(session, feeds)
    for name, want in expected.items():
        compare(found[name], want, tolerance, f"{code} {options} {name}")
    return found


def check_integer(device: Device, code: str, inputs: list, dtype: str = "",
                  quantization: Quantization | None = None, tolerance: float = 0,
                  precision: str = "fp32", within: int = 0, **options) -> np.ndarray:
    """Run one op on quantized tensors on the device, and require what the reference gives, exactly.

    Args:
        device: an opened device.
        code: op code.
        inputs: Quantized, Const, plain arrays, None for an optional input left out.
        dtype, quantization: of the output, where it is quantized; `dtype` "" is what infer says.
        tolerance: as in check_op, for outputs that are real numbers.
        precision: storage of real numbers.
        within: largest difference of integers, for ops that compute with real numbers in between.
        **options: of the op.

    Returns:
        The device's output.
    """
    def build() -> Graph:
        graph = Graph("test")
        operands = [_operand(graph, value, i) for i, value in enumerate(inputs)]
        chosen = {"dtype": dtype} if OPS[code].options == "CastOptions" else {}
        y = graph.add(code, operands, "y", **chosen, **options)
        y.dtype, y.quantization = dtype or y.dtype, quantization
        graph.output("y", y)
        return graph

    feeds = {f"x{i}": value.array if isinstance(value, Quantized) else np.asarray(value)
             for i, value in enumerate(inputs)
             if value is not None and not isinstance(value, Const)}
    expected = reference.execute(build(), feeds)["y"]
    with session_of(device, build(), precision) as session:
        found = run_guarded(session, feeds)["y"]
    assert found.dtype == expected.dtype
    if within:
        apart = np.abs(found.astype(np.int64) - expected)
        assert apart.max() <= within, f"{code} {options}: {apart.max()} steps apart"
        return found
    compare(found, expected, tolerance, f"{code} {options}")
    return found


def check_mixed(device: Device, code: str, inputs: list, precisions: tuple[str, str],
                **options) -> None:
    """Like check_op for an op whose inputs are stored in one float type and its output in another.

    Args:
        precisions: of the inputs and of the output, "fp32" or "fp16".
    """
    rounded = [_as_stored(value, precisions[0]) for value in inputs]

    def build() -> Graph:
        graph = Graph("test")
        operands = [_operand(graph, value, i) for i, value in enumerate(rounded)]
        graph.output("y0", graph.add(code, operands, "y", **options))
        return graph

    feeds = {f"x{i}": value for i, value in enumerate(rounded)
             if value is not None and not isinstance(value, Const)}
    expected = reference.execute(build(), feeds)["y0"]
    graph = build()
    convert(graph, precisions[0], {}, exact_inputs=False)
    graph.ops[0].outputs[0].dtype = precisions[1]
    with prepared(device, graph, {}, "fp16") as session:
        found = run_guarded(session, feeds)["y0"]
    compare(found, expected, 2e-3 if precisions[1] == "fp16" else 1e-5, f"{code} {precisions}")
    assert np.array_equal(found, _rounded(found, precisions[1]))
    if precisions[1] == "fp32":
        assert not np.array_equal(found, _rounded(found, "fp16")), "the output was rounded to fp16"


def _as_stored(value, precision: str):
    """Return an input of an op rounded to its stored type, if it is fp32."""
    if isinstance(value, Const):
        return Const(_as_stored(value.array, precision), value.quantization)
    if value is None or np.asarray(value).dtype != np.float32:
        return value
    return _rounded(value, precision)


def _rounded(array: np.ndarray, precision: str) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float16).astype(np.float32) if precision == "fp16" else array


def compare(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Fail unless the arrays agree: shape, non-finite values, differences in tolerance."""
    assert found.shape == expected.shape, f"{what}: {found.shape} instead of {expected.shape}"
    if tolerance == 0 or expected.dtype.kind in "bui":
        wrong = np.argwhere(found != expected)
        assert not len(wrong), (f"{what}: {len(wrong)} of {expected.size} differ, first at "
                                f"{tuple(wrong[0])}: {found[tuple(wrong[0])]} instead of "
                                f"{expected[tuple(wrong[0])]}")
        return
    finite = np.isfinite(expected)
    assert np.array_equal(found[~finite], expected[~finite], equal_nan=True), \
        f"{what}: other non-finite values"
    if not finite.any():
        return
    bound = tolerance * max(1.0, float(np.abs(expected[finite]).max()))
    difference = np.abs(found[finite].astype(np.float64) - expected[finite])
    assert difference.max() <= bound, (f"{what}: differs by {difference.max():.3g}, allowed "
                                       f"{bound:.3g} ({(difference > bound).sum()} elements)")
