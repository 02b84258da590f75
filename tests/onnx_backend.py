"""edgerun as an ONNX backend, and the ONNX node tests run on it."""
from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from edgerun.device import Device
from edgerun.errors import UnsupportedError
from edgerun.tools import lower, passes
from edgerun.tools.importers.onnx import import_proto
from edgerun.tools.precision import widen
from tests.harness import run_guarded, session_of

# Absolute tolerance where the expected numbers themselves are roundings of fp32: of a Fourier
# transform of the length 10, which is 0 in truth, 2e-7.
ABSOLUTE = {"DFT": 1e-6}
SUITES = ("pytorch-converted", "pytorch-operator", "simple")  # stored models with weights


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a model that are not constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in constants]


class Prepared(BackendRep):
    """A model on a device, between guard bytes.

    Attributes:
        session: the prepared Session.
        names: inputs in the order of the model.
    """

    def __init__(self, model: onnx.ModelProto, device: Device, constants: Mapping[str, np.ndarray]):
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        for name, array in constants.items():
            frozen.graph.initializer.append(numpy_helper.from_array(array, name))
        self.names = [info.name for info in inputs_of(frozen)]
        graph = import_proto(frozen)
        widen(graph)  # float16 models run in fp32 here: their tolerances are not those of storage
        for _, run_pass in passes.PIPELINE:
            run_pass(graph)
        lower.apply(graph)
        self.session = session_of(device, graph, "fp32")

    def run(self, inputs: Sequence[np.ndarray], **_) -> tuple[np.ndarray, ...]:
        """Return the outputs in the order of the model, for inputs in its order.

        A session refuses inputs that are not finite; here they go through, since they may arise
        inside a model.

        Raises:
            UnsupportedError: an input holds integers of more than 32 bits.
        """
        finite = {}
        for name, array in zip(self.names, inputs):
            floats = array.dtype.kind == "f"
            finite[name] = np.where(np.isfinite(array), array, 0) if floats else array
            if array.dtype == np.int64 and array.size and np.abs(array).max() > 2**31 - 1:
                raise UnsupportedError("the test feeds integers of more than 32 bits, which a "
                                       "session refuses")
        self.session.check(finite)
        with mock.patch.object(self.session, "check", lambda given: list(given.values())):
            return tuple(run_guarded(self.session, dict(zip(self.names, inputs))).values())


class EdgerunBackend(Backend):
    """The ONNX backend interface; the device is an EDGERUN_DEVICE name or an opened Device."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether tests for "CPU" or "CUDA" make sense here."""
        return device == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str | Device = "CPU",
                constants: Mapping[str, np.ndarray] | None = None, **_) -> Prepared:
        """Pack a model and prepare it.

        Args:
            model: ONNX model.
            device: opened Device; "CPU" opens the default one.
            constants: inputs that become constants of the model, by name.

        Raises:
            UnsupportedError: edgerun has no such op.
        """
        opened = device if isinstance(device, Device) else Device(None)
        return Prepared(model, opened, constants or {})


@dataclass(frozen=True)
class Result:
    """What became of one ONNX test.

    Attributes:
        name: of the test.
        op: that it tests; with its domain if that is not ai.onnx.
        outcome: "passed", "failed" or "not supported".
        reason: of a failure or a refusal.
        frozen: all inputs but the first were made constants, as they are in real models.
    """
    name: str
    op: str
    outcome: str
    reason: str = ""
    frozen: bool = False


@functools.cache
def cases() -> dict[str, list]:
    """Return the ONNX tests by the op they test, or by suite if they test a model.

    Takes several seconds the first time.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    ops: dict[str, str] = {}
    grouped: dict[str, list] = {}
    for test in sorted(tests, key=lambda t: t.name):
        base = test.name.split("_expanded")[0]
        if base == test.name:  # sorts before its expanded form
            node = test.model.graph.node[0]
            ops[base] = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        grouped.setdefault(ops[base], []).append(test)
    for suite in SUITES:
        stored = sorted(load_model_tests(kind=suite), key=lambda t: t.name)
        grouped[f"suite {suite}"] = [_from_files(test) for test in stored]
    return grouped


def _from_files(test):
    folder = Path(test.model_dir)
    test.model = onnx.load(folder / "model.onnx")
    test.data_sets = [
        tuple([_read(data / f"{what}_{i}.pb", info) for i, info in enumerate(infos)]
              for what, infos in (("input", inputs_of(test.model)),
                                  ("output", test.model.graph.output)))
        for data in sorted(folder.glob("test_data_set_*"))]
    test.atol = max(test.atol, 1e-6)  # the suite's 1e-7 is less than one rounding of fp32 near 1
    return test


def _read(path: Path, info: onnx.ValueInfoProto):
    if info.type.WhichOneof("value") != "tensor_type":
        return None
    return numpy_helper.to_array(onnx.load_tensor(path))


def run_case(test, op: str, device: Device) -> Result:
    """Run one ONNX test.

    Most tests feed as inputs what real models have as constants (weights, axes, shapes). If that is
    not supported, all inputs but the first become constants.
    """
    for frozen in (False, True):
        try:
            for inputs, expected in test.data_sets:
                _run_data(test, device, inputs, expected, frozen)
        except UnsupportedError as error:
            if not frozen and len(inputs_of(test.model)) > 1:
                continue
            return Result(test.name, op, "not supported", str(error), frozen)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip().replace("\n", " ")
            return Result(test.name, op, "failed", reason, frozen)
        return Result(test.name, op, "passed", frozen=frozen)
    raise AssertionError("unreachable: the second round returns")


def _run_data(test, device: Device, inputs: Sequence, expected: Sequence, frozen: bool) -> None:
    arrays = [_array(value) for value in inputs]
    names = [info.name for info in inputs_of(test.model)]
    constants = dict(zip(names[1:], arrays[1:])) if frozen else {}
    for name, array in constants.items():
        if not isinstance(array, np.ndarray):
            raise UnsupportedError(f"input {name!r}: is no tensor")
    prepared = EdgerunBackend.prepare(test.model, device, constants)
    with prepared.session:
        found = prepared.run(arrays[:1] if frozen else arrays)
    atol = max(test.atol, ABSOLUTE.get(test.model.graph.node[0].op_type, 0.0))
    Runner.assert_similar_outputs([_array(v) for v in expected], found, test.rtol, atol)


def _array(value) -> np.ndarray:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


@functools.cache
def results(op: str, device: Device) -> tuple[Result, ...]:
    """Return what became of every test of an op."""
    return tuple(run_case(test, op, device) for test in cases()[op])
