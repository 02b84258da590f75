"""The file that each runtime reads: a network or a given model, converted once and kept.

Files are kept in a folder under a key of what they are made from: the source model's bytes, the
precision, and for edgerun's own the text of the packer. Converting runs in a process of its own, so
that the one that measures loads no runtime.
"""
from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgerun._paths import folder as source_folder
from edgerun.errors import EdgerunError, InputError
from edgerun.tools import networks

CONVERT_S = 240.0
PRECISIONS = ("fp32", "fp16", "int16", "int8")
SOURCE = "source"  # the precision of a model that is quantized already


class NoFile(Exception):
    """A runtime has no form of this model; the message says why."""


@dataclass(frozen=True)
class Source:
    """A model to compare on.

    Attributes:
        name: of the network, or of the file without its extension.
        path: .onnx or .tflite.
        quantized: its numbers are integers already.
        inputs: an .npz with one sample; samples: one with several, for calibration.
    """
    name: str
    path: Path
    quantized: bool
    inputs: Path
    samples: Path

    def precisions(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of `wanted` that the model can have: a quantized one has its own."""
        return (SOURCE,) if self.quantized else wanted


@functools.cache
def _packer() -> str:
    """Return a digest of the source text that decides what a packed file looks like."""
    digest = hashlib.sha256()
    for folder in (source_folder("schema"), Path(__file__).parents[1],
                   source_folder("kernels").parent / "edgerun" / "ops"):
        for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.fbs"))):
            if not {"compare", "networks"} & {*path.parts}:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Files:
    """Makes and keeps files in `folder`."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._digests: dict[Path, str] = {}

    def source(self, model: str) -> Source:
        """Return the source model of a network's name or a path.

        Raises:
            InputError: it is neither.
            EdgerunError: the model cannot be read.
        """
        if model in networks.NAMES:
            text = "".join(path.read_text() for path in sorted(
                Path(networks.__file__).parent.glob("*.py")))
            name, path = model, self.folder / f"{model}-{_key(text)}.onnx"
            self._make(path, kind="network", name=model)
        else:
            path = Path(model)
            if not path.is_file():
                raise InputError(f"{model}: is neither a file nor one of "
                                 f"{', '.join(networks.NAMES)}")
            name = path.stem
        about = self.folder / f"{name}-{_key(self._of(path))}.json"
        inputs, samples = about.with_suffix(".input.npz"), about.with_suffix(".samples.npz")
        self._make(about, kind="inputs", source=path, inputs=inputs, samples=samples)
        return Source(name, path, json.loads(about.read_text())["quantized"], inputs, samples)

    def _of(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = _digest(path)
        return self._digests[path]

    def file(self, source: Source, runtime: str, precision: str) -> Path:
        """Return the file that a runtime reads for a precision.

        Raises:
            NoFile: the runtime cannot have this model, or not in this precision.
        """
        onnx = source.path.suffix == ".onnx"
        own = precision in ("fp32", SOURCE)
        if runtime == "edgerun":
            key = _key(self._of(source.path), _packer())
            return self._make(self.folder / f"{source.name}-{key}.{precision}.edge", kind="pack",
                              source=source.path, precision=precision, samples=source.samples)
        if precision in ("fp16", "int16"):
            raise NoFile(f"{precision} is edgerun's own")
        if runtime in ("onnxruntime", "tinygrad") and not onnx:
            raise NoFile("reads .onnx")
        if runtime == "litert":
            if onnx:
                raise NoFile("reads .tflite")
            if not own:
                raise NoFile("the model has no int8 form")
            return source.path
        if runtime in ("onnxruntime", "openvino"):
            if own:
                return source.path
            if not onnx:
                raise NoFile("the model has no int8 form")
            out = self.folder / f"{source.name}-{_key(self._of(source.path))}.qdq.onnx"
            return self._make(out, kind="qdq", source=source.path, samples=source.samples)
        if not own or source.quantized:
            raise NoFile("compared in fp32 only")
        if runtime == "tinygrad":
            return source.path
        if runtime == "ncnn" and not onnx:
            raise NoFile("its converter reads .onnx")
        suffix = {"mnn": ".mnn", "ncnn": ".param"}[runtime]
        out = self.folder / f"{source.name}-{_key(self._of(source.path))}{suffix}"
        return self._make(out, kind=runtime, source=source.path, inputs=source.inputs)

    def _make(self, out: Path, **request: object) -> Path:
        if not out.exists():
            self._convert(out=out, **request)
        return out

    def _convert(self, out: Path, **request: object) -> None:
        """Run one conversion in a process of its own; `out` appears whole or not at all."""
        refused = out.with_name(out.name + ".refused")
        if refused.exists():
            raise NoFile(refused.read_text())
        given = {**{key: str(value) for key, value in request.items()}, "out": str(out)}
        path = os.pathsep.join(p for p in sys.path if p)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgerun.tools.compare.convert", json.dumps(given)],
                capture_output=True, text=True, timeout=CONVERT_S, errors="replace",
                env={**os.environ, "PYTHONPATH": path})
        except subprocess.TimeoutExpired:
            raise NoFile(f"converting took more than {CONVERT_S:g} s") from None
        if done.returncode or not out.exists():
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            reason = lines[-1][:300] if lines else f"its converter ended with {done.returncode}"
            if request["kind"] in ("network", "inputs"):
                raise EdgerunError(f"{request.get('source', request.get('name'))}: {reason}")
            refused.write_text(reason)
            raise NoFile(reason)
