"""Run a source model in its own runtime: ONNX Runtime for .onnx, LiteRT for .tflite."""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from edgerun.errors import EdgerunError, InputError, ModelError
from edgerun.model import TensorInfo

ONNX_TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16,
    "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


class Runtime(Protocol):
    """A source model ready to run.

    Attributes:
        name: of the runtime, with its version.
        inputs, outputs: as the model declares them; -1 for a dimension that is not fixed.
    """
    name: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; returns name -> array.

        Raises:
            InputError: the runtime refuses the arrays.
        """


def open_source(path: str | os.PathLike, outputs: Sequence[str] | None = None) -> Runtime:
    """Open a source model, by its file extension.

    Args:
        path: the model.
        outputs: names of a packed model's outputs, which may be inside a .tflite model; default:
            the source model's outputs.

    Raises:
        InputError: there is no such file, or no runtime is known for its extension.
        ModelError: the runtime cannot read the model.
        EdgerunError: the runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; needed a source model (.onnx or .tflite)")
    if path.suffix == ".onnx":
        return OnnxRuntime(path)
    if path.suffix == ".tflite":
        return LiteRt(path, outputs=outputs)
    raise InputError(f"{path}: no runtime is known for the extension {path.suffix!r}, needed .onnx "
                     "or .tflite")


def _missing(package: str, pip_name: str, path: Path) -> EdgerunError:
    return EdgerunError(f"{path}: the Python package {package!r} is missing, which runs such "
                        f"models for comparison: pip install {pip_name}")


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        path: the model; names it in errors.
        model: its bytes, if they are not those of the file.
    """

    def __init__(self, path: Path, model: bytes | None = None):
        try:
            import onnxruntime
        except ImportError:
            raise _missing("onnxruntime", "onnxruntime", path) from None
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings about the model are not news here
        try:
            self._session = onnxruntime.InferenceSession(
                path if model is None else model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            raise ModelError(f"{path}: {self.name} cannot load it: {error}") from None
        self.inputs = [self._info(value, path) for value in self._session.get_inputs()]
        self.outputs = [self._info(value, path) for value in self._session.get_outputs()]

    @staticmethod
    def _info(value, path: Path) -> TensorInfo:
        if value.type not in ONNX_TYPES:
            raise ModelError(f"{path}: {value.name!r} is a {value.type}, needed one of "
                             f"{', '.join(ONNX_TYPES)}")
        shape = tuple(n if isinstance(n, int) else -1 for n in value.shape)
        return TensorInfo(value.name, shape, np.dtype(ONNX_TYPES[value.type]))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; see Runtime."""
        names = [info.name for info in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs))))
        except Exception as error:  # as above
            raise InputError(f"{self.name} refuses the inputs: {error}") from None


class LiteRt:
    """LiteRT with its built-in CPU kernels, without delegates: the reference of the format.

    Args:
        path: the model.
        keep: whether every tensor stays readable after a run.
        outputs: names of what run() returns; default: the model's outputs. Others are tensors
            inside of it, as of a model that was packed without its last op.
    """

    def __init__(self, path: Path, keep: bool = False, outputs: Sequence[str] | None = None):
        try:
            import ai_edge_litert
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise _missing("ai_edge_litert", "ai-edge-litert", path) from None
        self.name = f"LiteRT {getattr(ai_edge_litert, '__version__', '')}".strip()

        def opened(keep: bool) -> Interpreter:
            interpreter = Interpreter(
                os.fspath(path), experimental_preserve_all_tensors=keep,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
            interpreter.allocate_tensors()
            return interpreter

        try:
            self._interpreter = opened(keep)
            self._given = self._interpreter.get_output_details()
            inner = set(outputs or ()) - {detail["name"] for detail in self._given}
            found = {detail["name"]: detail for detail in self.details()}
            if inner and set(outputs) <= set(found):
                self._interpreter = opened(True)
                self._given = [found[name] for name in outputs]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"{path}: {self.name} cannot load it: {error}") from None
        self.inputs = self._infos(self._interpreter.get_input_details())
        self.outputs = self._infos(self._given)

    @staticmethod
    def _infos(details: Sequence[dict]) -> list[TensorInfo]:
        infos = []
        for detail in details:
            signature = detail["shape_signature"]
            shape = signature if len(signature) else detail["shape"]
            infos.append(TensorInfo(detail["name"], tuple(int(n) for n in shape),
                                    np.dtype(detail["dtype"])))
        return infos

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; see Runtime."""
        interpreter = self._interpreter
        try:
            for detail in interpreter.get_input_details():
                array = inputs[detail["name"]]
                if tuple(detail["shape"]) != array.shape:
                    interpreter.resize_tensor_input(detail["index"], array.shape)
            interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], inputs[detail["name"]])
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{self.name} refuses the inputs: {error}") from None
        return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in self._given}

    def details(self) -> list[dict]:
        """Return what LiteRT tells of every tensor."""
        return self._interpreter.get_tensor_details()

    def tensor(self, index: int) -> np.ndarray:
        """Return a tensor as the last run left it, by its index in details()."""
        return self._interpreter.get_tensor(index)
