"""Pack a source model into a model file: import, passes, precision, plan, write."""
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgerun import loader
from edgerun.errors import InputError, UnsupportedError
from edgerun.tools import (
    blob, calibrate, layout, lower, mixed, mixture, passes, patch as patches, plan as planner,
    quantize, reductions)
from edgerun.tools.graph import Graph, Op, Tensor, copy_of
from edgerun.tools.planes import packing
from edgerun.tools.planes.codes import coded
from edgerun.tools.precision import convert, widen
from edgerun.tools.verify import held
from edgerun.tune.report import TuneReport

IMPROVEMENTS = ("equalize", "clip-weights", "correct-bias")
TANH = ("exact", "ktanh")
PRECISIONS = ("source", "fp32", "fp16", "int16", "int8", "mixed")
CALIBRATED = (*quantize.INTEGERS, "mixed")


@dataclass(frozen=True)
class PackReport:
    """What packing did, in numbers.

    Attributes:
        path: the file written.
        precision: of the floats in the file.
        file_bytes, weight_bytes, arena_bytes, lower_bound_bytes: sizes in bytes.
        proven: no arena is smaller for the ops in the order of the file.
        source_ops, ops: number of ops in the source model and in the file.
        passes: (name of the pass, ops before, ops after).
        notes: what the user should know, one sentence each.
        mixed: what was chosen for precision "mixed", and the error; None for others.
        tuning: what tuning measured; None without.
        reductions: what the arena would be without each of them.
        patch: what runs strip by strip; None where every op runs once.
    """
    path: str
    precision: str
    file_bytes: int
    weight_bytes: int
    arena_bytes: int
    lower_bound_bytes: int
    proven: bool
    source_ops: int
    ops: int
    passes: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mixed: mixed.MixedReport | None = None
    tuning: TuneReport | None = None
    reductions: list[reductions.Reduction] = field(default_factory=list)
    patch: patches.PatchReport | None = None


FORMATS = ".onnx, .tflite or .prototxt"


def import_model(path: str | os.PathLike, shapes: Mapping[str, Sequence[int]] | None = None,
                 weights: str | os.PathLike | None = None, random_weights: int | None = None
                 ) -> Graph:
    """Read a source model into a graph, by its file extension.

    Args:
        path: of the model.
        shapes: input name -> shape, for inputs with dynamic dimensions.
        weights, random_weights: for .prototxt, see edgerun.tools.importers.caffe.load.

    Raises:
        InputError: there is no such file, or its extension is not that of a known format.
        UnsupportedError: the model has ops that edgerun has not; the message lists every one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; needed a source model ({FORMATS})")
    if path.suffix == ".prototxt":
        from edgerun.tools.importers import caffe
        return caffe.load(path, dict(shapes or {}), weights, random_weights)
    if weights is not None or random_weights is not None:
        raise InputError(f"{path}: holds its weights itself; a file of weights, or random ones, "
                         "go with a .prototxt")
    if path.suffix == ".onnx":
        from edgerun.tools.importers.onnx import load
    elif path.suffix == ".tflite":
        from edgerun.tools.importers.tflite import load
    else:
        raise InputError(f"{path}: the extension {path.suffix!r} is not a known model format, "
                         f"needed {FORMATS}")
    return load(path, dict(shapes or {}))


class Stages:
    """A graph on its way into a file.

    Attributes:
        graph: changed in place.
        given_planes: whether the source model has weights in planes.
        steps: (name of the pass, ops before, ops after) of everything that ran.
        without: names of reductions of the arena that are switched off.
        reductions: returns what the others bring, after encode().
        patched: what runs strip by strip, after encode(); None where every op runs once.

    Args:
        patch: see edgerun.tools.patch.parse.
        most_bytes: of the arena, for patch; see edgerun.tools.patch.apply.
        tanh: "exact", or "ktanh": see edgerun.tools.passes.ktanh.
        modes: name -> planes of the weights that count; see edgerun.tools.planes.packing.
    """

    def __init__(self, graph: Graph, progress: Callable[[str], None] = lambda stage: None,
                 without: Sequence[str] = (), patch: str | int = patches.OFF,
                 most_bytes: int | None = None, tanh: str = "exact",
                 modes: Mapping[str, int] | None = None):
        self.graph = graph
        self.modes = modes or {}
        self.given_planes = any(map(coded, graph.tensors()))
        self.tanh = tanh
        self.progress = progress
        self.without = without
        self.most_bytes = most_bytes
        self.patch = patches.OFF if "patch" in without else patches.parse(patch)
        self.patched: patches.PatchReport | None = None
        self.reductions: Callable[[], list[reductions.Reduction]] = list
        self.steps: list[tuple[str, int, int]] = []
        self._whole_ops = 0  # of the file, if every op runs once; known when ops are cut

    def run(self, name: str, step: Callable[[Graph], object]) -> None:
        """Run one pass."""
        self.progress(name)
        before = len(self.graph.ops)
        step(self.graph)
        self.steps.append((name, before, len(self.graph.ops)))

    def optimize(self, integers: bool = False) -> None:
        """Run the passes on real numbers.

        Args:
            integers: some ops have quantized tensors, or will have.
        """
        for name, step in passes.pipeline(integers):
            self.run(name, step)

    def encode(self, real: str, label: str, vectors: Sequence = (), integers: bool = False,
               ranges: calibrate.Calibration | None = None,
               storage: Mapping[str, str] | None = None) -> tuple[bytes, planner.Plan]:
        """Lower, choose the storage of real numbers, plan; return the bytes of the file.

        Args:
            real: "fp32" or "fp16": storage of what is not quantized.
            label: the precision that the file tells.
            vectors: as in pack().
            integers: as in optimize().
            ranges: stored in the file, if given.
            storage: name of an op's output -> "fp32" or "fp16", where that is not `real`.
        """
        self.run("lower", lower.apply)
        packing.finish(self.graph, self.modes, self.given_planes)
        for name, step in passes.FINISH if integers else ():
            self.run(name, step)
        if self.tanh == "ktanh":
            self.run("ktanh", passes.ktanh.apply)
        storage = dict(storage or {})
        if self.patch != patches.OFF:
            self.run("patch", lambda graph: self._cut(graph, real, storage))
        self.progress("precision")
        views = passes.alias.apply(self.graph)
        mixture.place(self.graph, views)
        convert(self.graph, real, views, storage=storage)
        layout.apply(self.graph)
        mixture.arrange(self.graph, views)
        given = replace(self.graph, ops=list(self.graph.ops)), views
        views, plan = reductions.apply(self.graph, views, self.without, self.progress)
        if self.patched is not None:
            self.patched = replace(self.patched, extra_ops=len(self.graph.ops) - self._whole_ops)
        brought = [] if self.patched is None else [
            reductions.Reduction("patch", self.patched.arena_without_bytes)]
        self.reductions = lambda: reductions.effects(*given, self.without) + brought
        self.progress("write")
        return blob.encode(self.graph, plan, views, label, list(vectors), ranges), plan

    def _cut(self, graph: Graph, real: str, storage: dict[str, str]) -> None:
        """Make ops run strip by strip; `storage` gets that of the strips."""
        def of_strips(names: Mapping[str, str]) -> dict[str, str]:
            return {name: storage[whole] for name, whole in names.items() if whole in storage}

        def arena_of(trial: Graph, names: Mapping[str, str]) -> int:
            views = passes.alias.apply(trial)
            convert(trial, real, views, storage=storage | of_strips(names))
            arranged = reductions.best(trial, views, self.without)
            trial.ops = arranged.ops
            if not names:
                self._whole_ops = len(trial.ops)
            return planner.plan(trial, arranged.views, 0).arena_bytes

        def size_of(tensor: Tensor) -> int:
            half = tensor.dtype == "fp32" and storage.get(tensor.name, real) == "fp16"
            return tensor.bytes // 2 if half else tensor.bytes

        self.patched, names = patches.apply(graph, self.patch, arena_of, size_of,
                                            self.most_bytes)
        storage |= of_strips(names)


def pack(source: str | os.PathLike, out: str | os.PathLike, precision: str = "source",
         shapes: Mapping[str, Sequence[int]] | None = None, vectors: Sequence = (),
         progress: Callable[..., None] = lambda stage, *of: None,
         overrides: str | os.PathLike | None = None,
         calibration: str | os.PathLike | None = None,
         preprocess: calibrate.Preprocess | str | None = None, observer: str | None = None,
         samples: int | None = None, device: str | int | None = None,
         improve: Sequence[str] = (), max_error: float | None = None, tune: bool = False,
         weights: str | os.PathLike | None = None, random_weights: int | None = None,
         without: Sequence[str] = (), patch: str | int = patches.OFF,
         tanh: str = "exact", bits: int | None = None, signs: str | None = None,
         modes: Mapping[str, int] | None = None) -> PackReport:
    """Pack a source model into a model file.

    Args:
        source: .onnx, .tflite or (Caffe) .prototxt file.
        out: the .edge file to write; it appears whole or not at all.
        precision: "fp32"; "fp16" (storage of activations and weights; arithmetic and biases stay
            fp32); "int16", "int8" (activations and weights of every op that can compute on
            integers; the others stay fp32); "mixed": for every op the one of them with which file
            and arena are smallest, within `max_error`; "source": the model's own numbers, a
            quantized model exactly as it is.
        shapes: input name -> shape, for inputs with dynamic dimensions.
        vectors: (inputs, outputs, tolerance) triples stored in the file for `edgerun verify`;
            arrays in the order of the model's inputs and outputs. A tolerance may be None: that of
            the types in the file, see edgerun.tools.verify.held.
        progress: called with the name of each stage; while calibrating also with the number of
            samples done and of all.
        overrides: file of lines `PATTERN DTYPE`, see edgerun.tools.quantize.read_overrides.
        calibration: where the ranges of the tensors come from: an .npz file or a folder of images,
            see edgerun.tools.calibrate.data.read; or an .edge file that was packed from this model
            with them. A file of fp32 or fp16 keeps the ranges, for later files.
        preprocess: how an image of the folder becomes an input, see
            edgerun.tools.calibrate.images.
        observer: how ranges are chosen, a key of edgerun.tools.calibrate.OBSERVERS; default
            "minmax".
        samples: calibrate with so many, evenly spread over all.
        device: where calibration and tuning run; as for edgerun.load().
        improve: what to do for accuracy, of IMPROVEMENTS: "equalize" (even out the ranges of
            channels between layers), "clip-weights" (cut off weights where that lowers their
            squared error), "correct-bias" (make up for the mean error of rounded weights; needs
            samples). See docs/quantization.md for what each brings.
        max_error: for "mixed": the largest error of an output over the calibration data, the root
            mean square of its difference from fp32 in that of its values (the share of different
            elements, for an output that is no real number); default edgerun.tools.mixed.MAX_ERROR.
        tune: find the fastest variants of the kernels on the device, and keep them in the file;
            see edgerun.tune.
        weights: for a .prototxt: the .caffemodel; default: the one of the same name beside it.
        random_weights: for a .prototxt: a seed; weights are random, for studies of memory and
            speed.
        without: reductions of the arena that are switched off, of edgerun.tools.reductions.NAMES.
        patch: "auto" lets ops with large images run over strips of their rows, where that lowers
            the arena for little extra work; a number does so with that many strips; "off" does not.
            See edgerun.tools.patch.
        tanh: "exact"; "ktanh" computes the tanh, sigmoid, SiLU and GELU of real numbers by K-TanH,
            off by up to 0.012: see edgerun.tools.passes.ktanh.
        bits: at int8 and int16: float weights of convolutions and dense layers become so many bit
            planes; the precision is that of the activations then.
        signs: how planes hold negative numbers: "twos" complement (default), "magnitude" (a plane
            of signs), "pairs" (of planes of positive and of negative numbers; bits counts pairs).
        modes: name of a precision -> how many planes of the weights it uses, at most; the last one
            is what a session starts with. Default: one that uses all, "high".

    Returns:
        PackReport.

    Raises:
        InputError: an argument is wrong.
        ModelError: the source model is damaged or contradicts itself.
        UnsupportedError: the model needs an op or a precision that edgerun has not.
        DeviceError: there is no device to calibrate on.
    """
    if precision not in PRECISIONS:
        raise UnsupportedError(f"precision {precision!r} is not available, needed one of "
                               f"{', '.join(PRECISIONS)}")
    if calibration is None and (preprocess, observer, samples) != (None, None, None):
        raise InputError("a preprocessing line, an observer or a number of samples says how to "
                         "calibrate: needed calibration data too (--calibration)")
    if calibration is None and precision in CALIBRATED:
        raise InputError(f"precision {precision} needs the range of every tensor: give samples, "
                         "images, or a file that was calibrated (--calibration)")
    packing.check(bits, signs, modes or {}, precision)
    if tanh not in TANH:
        raise InputError(f"tanh {tanh!r} is not available, needed one of {', '.join(TANH)}")
    unknown = [name for name in improve if name not in IMPROVEMENTS]
    if unknown:
        raise InputError(f"improvement {unknown[0]!r} is not available, needed one of "
                         f"{', '.join(IMPROVEMENTS)}")
    if improve and precision not in quantize.INTEGERS:
        raise InputError(f"{', '.join(improve)} improve integers: needed --precision int8 or int16")
    if max_error is not None and precision != "mixed":
        raise InputError(f"an error bound is for --precision mixed, not {precision}")
    without, patch = reductions.check(without), patches.parse(patch)
    if "patch" in without and patch != patches.OFF:
        raise InputError(f"patch execution is asked for (--patch {patch}) and switched off "
                         "(--without patch): needed one of them")
    progress("import")
    graph = import_model(source, shapes, weights, random_weights)
    stages = Stages(graph, progress, without, patch, tanh=tanh, modes=modes)
    own = widen(graph)
    real = own if precision == "source" else "fp16" if precision == "fp16" else "fp32"
    exact = quantize.quantized(graph)
    if precision != "source":
        stages.run("keep-rows", quantize.keep_rows)
    if exact and precision in CALIBRATED:
        raise InputError(f"{source}: is quantized already; needed --precision source to keep its "
                         "integers, or the float model to quantize")
    if exact and precision != "source":
        stages.run("strip", quantize.strip)
        exact = False
    if exact and calibration is not None:
        raise InputError(f"{source}: is quantized already; calibration is for a float model")
    if exact and overrides is not None:
        raise InputError(f"{source}: is quantized already; overrides are for a float model, or for "
                         "another precision than source")
    chosen = precision in CALIBRATED or overrides is not None
    integers = exact or chosen or calibration is not None  # ranges are of the graph to quantize
    if integers and not exact:
        stages.run("real-weights", lambda graph: quantize.strip(  # integer weights of a float model
            graph, planes=precision not in quantize.INTEGERS))
    stages.optimize(integers)
    if "equalize" in improve:
        if Path(calibration).suffix == ".edge":
            raise InputError(f"{calibration}: holds the ranges of a network that is not equalized: "
                             "needed samples or images to equalize")
        stages.run("equalize", quantize.equalize)
    ranges = None
    if calibration is not None:
        ranges = calibrate.from_path(graph, calibration, preprocess, observer, samples, device,
                                     lambda done, total: progress("calibrate", done, total))
        graph.notes += ranges.warnings
    if precision == "mixed":
        if not ranges.observations:
            raise InputError(f"{calibration}: holds ranges; precision mixed needs samples too, to "
                             "measure the error")
        data = calibrate.open_samples(graph, calibration, preprocess, samples)
        built, choice = _mix(graph, ranges, data, held(vectors, precision), max_error, overrides,
                             device, progress, without, patch, tanh)
        report = _written(out, precision, built.data, built.plan, built.graph,
                          [*stages.steps, *built.steps], choice, built.reductions(), built.patched)
        return _tuned(report, device, progress) if tune else report
    dtypes, storage = {}, {}
    if chosen:
        given = quantize.read_overrides(overrides) if overrides else []
        dtypes = quantize.assign(graph, real if precision == "source" else precision, given)
        if ranges is None and {*quantize.INTEGERS} & {*dtypes.values()}:
            raise InputError(f"{overrides}: gives ops an integer type, which needs the range of "
                             "every tensor: give samples, images, or a file that was calibrated "
                             "(--calibration)")
        if ranges is not None:
            dtypes = quantize.keep_exact(graph, dtypes, ranges.range, given)
            dtypes = quantize.keep_real(graph, dtypes, ranges.range, given)
        dtypes = quantize.keep_gates(graph, dtypes, given)
        storage = quantize.storage(dtypes)
        means = None
        if "correct-bias" in improve:
            progress("correct-bias")
            data = calibrate.open_samples(graph, calibration, preprocess, samples)
            read = [op.inputs[0].name for op in graph.ops if op.code in quantize.WEIGHTED]
            means = {name: values.mean(axis=0) for name, values in calibrate.collect(
                graph, data, read, calibrate.channel_means, device).items()}
        weights_of = quantize.clipped_weights if "clip-weights" in improve else None
        if ranges is not None:
            planes_of = packing.weights_of(bits, signs, modes)
            stages.run("quantize", lambda graph: quantize.insert(graph, dtypes, ranges.range,
                                                                 weights_of, means, planes_of))
    label = precision if precision != "source" else "source" if exact else own
    data, plan = stages.encode(real, label, held(vectors, label, dtypes.values()), integers,
                               None if chosen else ranges, storage)
    if bits is not None:
        graph.notes += packing.left_out(graph)
    report = _written(out, label, data, plan, graph, stages.steps, found=stages.reductions(),
                      patched=stages.patched)
    return _tuned(report, device, progress) if tune else report


def _mix(graph: Graph, ranges: calibrate.Calibration, samples: calibrate.Samples,
         vectors: Sequence, max_error: float | None, overrides: str | os.PathLike | None,
         device: str | int | None, progress: Callable[..., None], without: Sequence[str],
         patch: str | int, tanh: str
         ) -> tuple[mixed.Built, mixed.MixedReport]:
    """Search the types of all ops; see edgerun.tools.mixed.search."""
    def build(dtypes: dict[Op, str]) -> mixed.Built:
        stages = Stages(copy_of(graph), without=without, patch=patch, tanh=tanh)
        assigned = {twin: dtypes[op] for op, twin in zip(graph.ops, stages.graph.ops)
                    if op in dtypes}
        stages.run("quantize", lambda graph: quantize.insert(graph, assigned, ranges.range))
        data, plan = stages.encode("fp32", "mixed", vectors, integers=True,
                                   storage=quantize.storage(assigned))
        return mixed.Built(data, plan, stages.graph, stages.steps, stages.reductions,
                           stages.patched)

    return mixed.search(graph, ranges, samples, build,
                        mixed.MAX_ERROR if max_error is None else max_error,
                        quantize.read_overrides(overrides) if overrides else (), device,
                        progress=progress)


def _written(out: str | os.PathLike, label: str, data: bytes, plan: planner.Plan, graph: Graph,
             steps: list[tuple[str, int, int]], choice: mixed.MixedReport | None = None,
             found: Sequence[reductions.Reduction] = (),
             patched: patches.PatchReport | None = None) -> PackReport:
    """Check the bytes as a device will, and write them."""
    model = loader.from_bytes(np.frombuffer(data, np.uint8), os.fspath(out))
    blob.write(out, data)
    return PackReport(
        os.fspath(out), label, len(data), sum(len(s.data) for s in model.segments),
        plan.arena_bytes, plan.lower_bound_bytes, plan.proven, graph.source_ops, len(graph.ops),
        steps, graph.notes, choice, reductions=list(found), patch=patched)


def _tuned(report: PackReport, device: str | int | None, progress: Callable[..., None]
           ) -> PackReport:
    """Tune the file on a device, and keep the choices in it."""
    from edgerun.device import Device
    from edgerun.tune import tune_file
    progress("tune")
    found = tune_file(report.path, Device(device), write=True,
                      progress=lambda done, total, last: progress("tune", done, total))
    return replace(report, tuning=found, file_bytes=os.path.getsize(report.path))
