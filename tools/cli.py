"""The commands of the host side: pack, and verify against the source model."""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgerun import arrays, cli, info, loader, text
from edgerun.device import Device
from edgerun.errors import InputError
from edgerun.session import Session
from edgerun.tools import (
    calibrate, layers, mixed, patch, reductions, runtimes, verify as verify_module)
from edgerun.tools.budget import cli as budget_cli
from edgerun.tools.planes import SIGNS, packing
from edgerun.tools.pack import (
    IMPROVEMENTS, PRECISIONS, TANH, PackReport, import_model, pack as pack_model)

MODEL_HELP = "source model: .onnx, .tflite, .prototxt"
PACK_EXAMPLES = """\
  edgerun pack model.onnx -o model.edge
  edgerun pack model.tflite -o model.edge --precision fp16
  edgerun pack net.prototxt --weights net.caffemodel -o model.edge
  edgerun pack net.prototxt --random-weights 0 -o model.edge    # for its memory and speed
  edgerun pack model.onnx -o model.edge --shape input=1,3,224,224 --json
  edgerun pack model.onnx -o model.edge --html memory.html      # what would make it smaller?
  edgerun pack model.onnx -o model.edge --vectors samples.npz   # for 'edgerun verify' on the device
  edgerun pack model.onnx -o int8.edge --precision int8 --calibration samples.npz
  edgerun pack model.onnx -o fp32.edge --calibration photos --samples 100 \
    --preprocess "resize=256,size=224,scale=1/255,mean=0.485 0.456 0.406,std=0.229 0.224 0.225"
  edgerun pack model.onnx -o int8.edge --precision int8 --calibration fp32.edge   # once calibrated
  edgerun pack model.onnx -o mixed.edge --precision mixed --calibration samples.npz --max-error 0.01
  edgerun pack model.onnx -o m.edge --precision int8 --bits 8 --modes low=4,high=8 \
    --calibration samples.npz                                   # one file, two precisions
  edgerun pack model.onnx -o m.edge --ram 256K --flash 300K --calibration samples.npz --max-drop 0.5

samples.npz holds an array per input under its name, of the input's shape, or with one more axis of
samples in front of it; the source model runs on them in ONNX Runtime or LiteRT, and inputs and
outputs are stored in the file."""


def _shape(argument: str) -> tuple[str, tuple[int, ...]]:
    name, equals, numbers = argument.rpartition("=")
    try:
        dims = tuple(int(n) for n in numbers.split(",")) if numbers else ()
    except ValueError:
        equals = ""
    if not equals or not name or any(n < 1 for n in dims):
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=N,N,..., every N at least "
                                         "1")
    return name, dims


def _names(argument: str) -> tuple[str, ...]:
    names = tuple(argument.split(","))
    unknown = [name for name in names if name not in reductions.NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of "
                                         f"{', '.join(reductions.NAMES)}")
    return names


def _error(argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{argument!r} is not a number above 0")
    return value


def add_source(parser: argparse.ArgumentParser):
    """Add what says how a source model is read and calibrated; returns the calibration group."""
    parser.add_argument("--shape", metavar="NAME=N,N,...", type=_shape, action="append", default=[],
                        help="shape of an input with dynamic dimensions (repeatable)")
    parser.add_argument("--weights", metavar="NET.caffemodel",
                        help="for a .prototxt; default: the one of the same name beside it")
    parser.add_argument("--random-weights", metavar="SEED", type=cli.not_negative,
                        help="for a .prototxt without weights")
    calibration = parser.add_argument_group("calibration (for int8, int16 and mixed)")
    calibration.add_argument("--calibration", metavar="PATH",
                             help="IN.npz, a folder of images, or an .edge file packed with them")
    calibration.add_argument("--preprocess", metavar="LINE",
                             help="how an image becomes an input: KEY=VALUE,... with the keys "
                                  "color, resize, size, crop, filter, scale, mean, std, layout, "
                                  "input")
    calibration.add_argument("--observer", choices=tuple(calibrate.OBSERVERS),
                             help="how ranges are chosen; default: "
                                  f"{calibrate.DEFAULT_OBSERVER}")
    calibration.add_argument("--samples", metavar="N", type=cli.positive,
                             help="use so many samples, evenly spread; default: all")
    calibration.add_argument("--overrides", metavar="FILE",
                             help="lines 'NAME-PATTERN DTYPE': ops that get another precision")
    return calibration


def _pack_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerun pack", allow_abbrev=False, epilog=f"examples:\n{PACK_EXAMPLES}",
        description="Turn a source model into a model file for the device.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-o", "--output", metavar="OUT.edge", required=True,
                        help="file to write; appears whole or not at all")
    parser.add_argument("--precision", choices=PRECISIONS,
                        help="storage of weights and activations; source (default): the model's")
    parser.add_argument("--vectors", metavar="IN.npz",
                        help=f"up to {verify_module.MAX_VECTORS} samples to store with outputs")
    calibration = add_source(parser)
    calibration.add_argument("--improve", metavar="NAME", action="append", default=[],
                             choices=IMPROVEMENTS,
                             help="for accuracy (repeatable): " + ", ".join(IMPROVEMENTS))
    calibration.add_argument("--max-error", metavar="E", type=_error,
                             help="for mixed: relative RMS error of the outputs on the "
                                  f"calibration data; default: {mixed.MAX_ERROR}")
    parser.add_argument("--without", metavar="NAME,...", type=_names, default=(),
                        help="reductions of the arena that are switched off, of "
                             + ", ".join(reductions.NAMES))
    parser.add_argument("--patch", metavar="auto|off|K", default=patch.OFF,
                        help="let ops with large images run over strips of their rows: auto where "
                             "that pays, or K strips; default: off")
    planes = parser.add_argument_group("weights in bit planes (see 'edgerun planes')")
    planes.add_argument("--bits", metavar="N", type=cli.positive,
                        help="with --precision int8 or int16, which is the type of the "
                             "activations: store float weights as N planes")
    planes.add_argument("--signs", choices=SIGNS,
                        help="how planes hold negative numbers; default: twos")
    planes.add_argument("--modes", metavar="NAME=N,...",
                        help="precisions by name: how many planes each uses, the default one last; "
                             "for example low=4,high=8")
    parser.add_argument("--tanh", choices=TANH,
                        help="how tanh, sigmoid, SiLU and GELU of real numbers are computed; "
                             "default: exact")
    parser.add_argument("--tune", action="store_true",
                        help="find the fastest variants of the kernels on the device, and keep "
                             "them in the file; see 'edgerun tune'")
    budget_cli.add_budget(parser)
    parser.add_argument("--html", metavar="OUT.html",
                        help="also write a page about its memory, and what would make it smaller")
    cli.add_device(parser)
    cli.add_json(parser)
    return parser


def pack(argv: Sequence[str]) -> int:
    """Run `edgerun pack`; returns the exit status."""
    args = _pack_parser().parse_args(argv)
    arrays.check_writable(args.output)
    if args.html is not None:
        if Path(args.html).resolve() == Path(args.output).resolve():
            raise InputError(f"--html {args.html} is the file of the model: needed another path "
                             "for the page")
        arrays.check_writable(args.html)
    budget = budget_cli.budget_of(args)
    precision = args.precision or "source"
    vectors = []
    if args.vectors is not None:
        outputs = [b.name for b in import_model(
            args.model, dict(args.shape), args.weights, args.random_weights).outputs]
        vectors = verify_module.make_vectors(
            runtimes.open_source(args.model, outputs), arrays.read_npz(args.vectors), args.vectors)
    if budget is not None:
        return budget_cli.pack(args, budget, vectors)
    given = {"precision": precision, "shapes": dict(args.shape), "vectors": vectors,
             "calibration": args.calibration, "preprocess": args.preprocess,
             "observer": args.observer, "samples": args.samples, "device": args.device,
             "overrides": args.overrides, "improve": args.improve, "max_error": args.max_error,
             "tune": args.tune, "weights": args.weights, "random_weights": args.random_weights,
             "without": args.without, "patch": args.patch, "tanh": args.tanh or "exact",
             "bits": args.bits, "signs": args.signs,
             "modes": packing.parse_modes(args.modes) if args.modes is not None else None}
    with progress() as show:
        report = pack_model(args.model, args.output, progress=show, **given)
        if args.html is not None:
            _write_page(args, given, report, show)
    print(text.json_text(dataclasses.asdict(report)) if args.json else pack_text(report))
    return 0


def _write_page(args: argparse.Namespace, given: dict, report: PackReport,
                show: Callable[..., None]) -> None:
    """Write the memory page, with what would make the model smaller."""
    from edgerun import files, memory_page, report as report_module
    from edgerun.tools.smaller import smaller
    model = loader.read(args.output)
    page = memory_page.page(model, report_module.planned_report(model),
                            smaller(args.model, given, report, show),
                            [(each.name, each.without_bytes) for each in report.reductions])
    with files.replacing(args.html) as file:
        file.write(page.encode())


@contextlib.contextmanager
def progress(command: str = "pack") -> Iterator[Callable[..., None]]:
    """Show the stage on a terminal, with a bar where it is counted; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda stage, *of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    with Progress(SpinnerColumn(), TextColumn(f"{command}: {{task.description}}"), BarColumn(),
                  console=Console(stderr=True), transient=True) as bar:
        def show(stage: str, done: int = 0, total: int | None = None) -> None:
            for task in bar.task_ids:  # a task whose total is known cannot forget it
                bar.remove_task(task)
            count = f" {done} of {total}" if total else ""
            bar.add_task(stage + count, total=total, completed=done)
        yield show


def pack_text(report: PackReport) -> str:
    """Return a PackReport for a terminal."""
    bound = report.lower_bound_bytes
    lines = text.pairs([
        ("written", report.path), ("precision", report.precision),
        ("file", text.size(report.file_bytes)), ("weights", text.size(report.weight_bytes)),
        ("arena", f"{text.size(report.arena_bytes)}, lower bound {text.size(bound)}"
                  + (f" ({report.arena_bytes / bound:.3f} times)" if bound else "")
                  + (", proven smallest" if report.proven else "")),
        ("ops", f"{report.source_ops} imported, {report.ops} in the file")])
    if report.reductions:
        lines += ["", *reduction_lines(report)]
    if report.patch is not None:
        lines += ["", *patch_lines(report.patch)]
    if report.mixed is not None:
        lines += ["", *mixed_text(report.mixed)]
    if report.tuning is not None:
        lines += ["", report.tuning.text()]
    changed = [(name, before, after) for name, before, after in report.passes if before != after]
    if changed:
        lines += ["", *text.table(("pass", "ops before", "after"), changed, left=(0,))]
    return "\n".join(lines + [f"note: {text.clean(note)}" for note in report.notes])


def patch_lines(report: patch.PatchReport) -> list[str]:
    """Return the lines that tell which ops run strip by strip, what it costs and saves."""
    stages = [info.stage_text(dataclasses.asdict(stage)) for stage in report.stages]
    return [*text.pairs([("patches" if n == 0 else "", stage) for n, stage in enumerate(stages)]
                        + [("cost", f"{report.extra_part:.1%} more multiply-adds, "
                                    f"{report.extra_ops} more ops"),
                           ("arena without", text.size(report.arena_without_bytes))])]


def reduction_lines(report: PackReport) -> list[str]:
    """Return the lines that tell what the arena would be without each reduction."""
    rows = [(found.name, text.size(found.without_bytes),
             f"{found.without_bytes / max(1, report.arena_bytes) - 1:+.1%}")
            for found in report.reductions]
    return text.table(("without", "arena", "change"), rows, left=(0,))


def mixed_text(report: mixed.MixedReport) -> list[str]:
    """Return the lines that tell what was chosen for each op, and the error."""
    agreed = "" if report.top1 is None else f", same largest output on {report.top1:.1%}"
    lines = text.pairs([
        ("error", f"{report.error:.3g} of at most {report.max_error:g}, measured on "
                  f"{report.samples} sample{'s' if report.samples > 1 else ''}"),
        ("signal", f"{text.number(report.snr_db)} dB above the error{agreed}")])
    rows = [(c.op, c.code, c.dtype, text.size(c.weight_bytes), text.size(c.saved_bytes),
             f"{c.noise:.1%}", c.reason) for c in report.choices]
    return [*lines, "", *text.table(("op", "code", "type", "constants", "saved", "noise", "why"),
                                    rows, left=(0, 1, 2, 6))]


def verify(args: argparse.Namespace) -> int:
    """Run `edgerun verify --against`; returns the exit status."""
    model = loader.read(args.model)
    runtime = runtimes.open_source(args.against, [info.name for info in model.results])
    if args.inputs is not None:
        samples = verify_module.samples_of(arrays.read_npz(args.inputs), model.inputs, args.inputs)
    else:
        samples = [arrays.random_inputs(model.inputs, args.seed + i) for i in range(args.samples)]
    reference = source = None
    if args.layers:
        reference = layers.reference_of(args.against, model)
        source = layers.inside(args.against, model) if layers.has_inside(model) else None
    with Session(model, Device(args.device)) as session:
        found = verify_module.verify_against(session, runtime, samples, args.tolerance)
        if reference is not None:
            with progress("verify") as show:
                measured = layers.layers(session, reference, samples, source,
                                         lambda done, total: show("layers", done, total))
    if reference is None:
        return cli.print_verdict(found, args.json)
    if args.json:
        return cli.print_verdict(found | {"layers": layers.as_dict(measured)}, True)
    print(layers.layers_text(measured), end="\n\n")
    return cli.print_verdict(found, False)
