"""One adapter per runtime: open a model file with a number of threads, run it on fixed inputs.

Every runtime is set up for its lowest latency, as its documentation says. Nothing here is imported
before a worker asks for it: a worker process holds one runtime and no other.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Peer(Protocol):
    """A model open in a runtime, with its inputs.

    Attributes:
        version: of the runtime.
        facts: what to tell about how it runs.
    """
    version: str
    facts: dict[str, Any]

    def run(self) -> None:
        """Run once: inputs in, outputs out."""

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs of the last run, in the order of the source model."""


class Edgerun:
    """The project's own runtime, on an OpenCL device."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import edgerun
        self.version = edgerun.__version__
        self._session = edgerun.load(path, device)
        self._inputs = inputs
        info, plan = self._session.device.info, self._session.model.plan
        units = self._session.device.facts.compute_units
        if info.kind == "cpu" and units != threads:
            raise ValueError(f"{info.name} computes with {units} threads, needed {threads}")
        self.facts = {
            "device": info.name, "platform": info.platform,
            "launches": self._session.route.launches, "commands": self._session.route.commands,
            "arena_bytes": plan.arena_bytes,
            "weight_bytes": sum(len(s.data) for s in self._session.model.segments)}
        self._found: dict[str, np.ndarray] = {}

    def run(self) -> None:
        """Run once; see Peer."""
        self._found = self._session.run(self._inputs)

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return list(self._found.values())


class OnnxRuntime:
    """ONNX Runtime's CPU provider. Its threads spin for work, as they do by default."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import onnxruntime
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        self._session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"])
        self._inputs = dict(inputs)
        self.facts = {"spinning": True}
        self._found: list[np.ndarray] = []

    def run(self) -> None:
        """Run once; see Peer."""
        self._found = self._session.run(None, self._inputs)

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return self._found


class LiteRt:
    """LiteRT (TensorFlow Lite) with its default delegate, XNNPACK."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import importlib.metadata
        from ai_edge_litert.interpreter import Interpreter
        self.version = importlib.metadata.version("ai-edge-litert")
        self._interpreter = Interpreter(os.fspath(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = [(detail["index"], inputs[detail["name"]])
                        for detail in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]
        self.facts = {"delegate": "XNNPACK"}
        self._found: list[np.ndarray] = []

    def run(self) -> None:
        """Run once; see Peer."""
        for index, array in self._inputs:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        self._found = [self._interpreter.get_tensor(index) for index in self._outputs]

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return self._found


class OpenVino:
    """OpenVINO's CPU plugin, hint "latency". fp32 stays fp32: it would take bf16 where it can."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import openvino
        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        compiled = core.compile_model(os.fspath(path), "CPU", {
            "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32"})
        self._request = compiled.create_infer_request()
        self._inputs = {port.get_any_name(): inputs[_named(port, inputs)]
                        for port in compiled.inputs}
        self._ports = compiled.outputs
        self.facts = {"inference precision of floats": "f32"}

    def run(self) -> None:
        """Run once; see Peer."""
        self._request.infer(self._inputs, share_inputs=True, share_outputs=True)

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return [np.array(self._request.get_tensor(port).data) for port in self._ports]


def _named(port, inputs: Arrays) -> str:
    """Return the name by which an input of OpenVINO is known; it adds its own to .tflite ones."""
    return next(name for name in inputs if name in port.get_names())


class Mnn:
    """MNN's CPU backend; floats stay fp32."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import MNN
        from MNN import nn
        self.version = MNN.version()
        self._expr, self._cv = MNN.expr, MNN.numpy
        names = list(inputs)
        runtime = nn.create_runtime_manager(({"backend": 0, "numThread": threads,
                                              "precision": "high"},))
        self._net = nn.load_module_from_file(os.fspath(path), names, [], runtime_manager=runtime)
        self._inputs = list(inputs.values())
        self.facts = {"precision": "high"}
        self._found: list = []

    def _variable(self, array: np.ndarray):
        variable = self._expr.placeholder(list(array.shape), self._expr.NCHW)
        variable.write(array)
        return variable

    def run(self) -> None:
        """Run once; see Peer."""
        found = self._net.onForward([self._variable(array) for array in self._inputs])
        self._found = [self._expr.convert(value, self._expr.NCHW).read_as_tuple()
                       for value in found]

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return [np.array(values, np.float32) for values in self._found]


class Ncnn:
    """ncnn on the CPU, Winograd and packing as by default; floats stay fp32."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        import ncnn
        self.version = ncnn.__version__
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                       "use_bf16_storage"):
            setattr(self._net.opt, option, False)
        if self._net.load_param(os.fspath(path)) or self._net.load_model(
                os.fspath(path.with_suffix(".bin"))):
            raise ValueError(f"ncnn cannot load {path.name}")
        self._mat = ncnn.Mat
        self._inputs = list(zip(self._net.input_names(), (a[0] for a in inputs.values())))
        self._outputs = self._net.output_names()
        self.facts = {"precision": "fp32"}
        self._found: list[np.ndarray] = []

    def run(self) -> None:
        """Run once; see Peer."""
        extractor = self._net.create_extractor()
        for name, array in self._inputs:
            extractor.input(name, self._mat(array))
        self._found = [np.array(extractor.extract(name)[1]) for name in self._outputs]

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return self._found


class Tinygrad:
    """tinygrad on the same OpenCL device, its kernels captured and replayed (TinyJit)."""

    def __init__(self, path: Path, inputs: Arrays, threads: int, device: str | None):
        os.environ["DEV"] = "CL"
        import importlib.metadata
        from tinygrad import Tensor, TinyJit
        from tinygrad.nn.onnx import OnnxRunner
        self.version = importlib.metadata.version("tinygrad")
        runner = OnnxRunner(os.fspath(path))
        self._tensor = Tensor
        self._jit = TinyJit(lambda **given: [value.realize() for value in runner(given).values()])
        self._inputs = dict(inputs)
        self.facts = {"device": "CL"}
        self._found: list[np.ndarray] = []

    def run(self) -> None:
        """Run once; see Peer."""
        given = {name: self._tensor(array).realize() for name, array in self._inputs.items()}
        self._found = [value.numpy() for value in self._jit(**given)]

    def outputs(self) -> list[np.ndarray]:
        """Return the outputs; see Peer."""
        return self._found


PEERS = {"edgerun": Edgerun, "onnxruntime": OnnxRuntime, "litert": LiteRt, "openvino": OpenVino,
         "mnn": Mnn, "ncnn": Ncnn, "tinygrad": Tinygrad}
