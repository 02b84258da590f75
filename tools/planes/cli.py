"""`edgerun planes`: what each number of planes of the weights gives."""
from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgerun import arrays, cli, loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools import runtimes
from edgerun.tools.planes import curve

EXAMPLES = """\
  edgerun planes model.edge --data labelled.npz
  edgerun planes model.edge --data samples.npz --against model.onnx    # error instead of accuracy
  edgerun planes model.edge --data labelled.npz --plot curve.svg --json

The .npz file holds an array per input under its name, with an axis of samples in front, and maybe
an array "labels": the class of each sample. The file is not packed again: every row is the same
session with another precision."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgerun planes", allow_abbrev=False, epilog=f"examples:\n{EXAMPLES}",
        description="Run a model with every number of planes of its weights, and compare.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.edge")
    parser.add_argument("--data", metavar="IN.npz", required=True, help="samples, maybe labelled")
    parser.add_argument("--against", metavar="SOURCE",
                        help="compare with the source model (.onnx, .tflite); default: with all "
                             "planes")
    parser.add_argument("--plot", metavar="OUT.svg", help="also draw the curve (.svg or .png)")
    cli.add_device(parser)
    cli.add_json(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run `edgerun planes`; returns the exit status."""
    args = _parser().parse_args(argv)
    if args.plot is not None:
        arrays.check_writable(args.plot)
    model = loader.read(args.model)
    reference = None
    if args.against is not None:
        reference = runtimes.open_source(args.against, [info.name for info in model.results])
    from edgerun.tools.cli import progress
    with Session(model, Device(args.device)) as session, progress("planes") as show:
        samples, labels = curve.read(args.data, session)
        points = curve.measure(session, samples, labels, reference,
                               lambda done, total: show("run", done, total))
    if args.plot is not None:
        curve.plot(points, args.plot, Path(args.model).name)
    if args.json:
        print(text.json_text([dataclasses.asdict(point) for point in points]))
    else:
        print("\n".join(curve.lines(points, "source" if reference else "all planes")))
    return 0
