"""python -m edgerun.tools.compare MODEL...; see the package."""
from __future__ import annotations

import argparse
import json
import os
import sys

from edgerun import cli, text
from edgerun.errors import EdgerunError
from edgerun.files import replacing
from edgerun.tools.compare import files as files_module, measure
from edgerun.tools.compare.machine import default_folder, machine
from edgerun.tools.compare.peers import PEERS
from edgerun.tools.compare.ratios import ratios, summary
from edgerun.tools.compare.show import print_tables

DEFAULT_PEERS = "onnxruntime,litert,openvino"


def _listed(allowed: tuple[str, ...]):
    def parse(argument: str) -> tuple[str, ...]:
        names = tuple(name for name in argument.split(",") if name)
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is not one of {', '.join(allowed)}")
        return names
    return parse


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    import edgerun.tools.compare as package
    p = argparse.ArgumentParser(
        prog="python -m edgerun.tools.compare", allow_abbrev=False, description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    others = tuple(name for name in PEERS if name != "edgerun")
    p.add_argument("models", metavar="MODEL", nargs="+")
    p.add_argument("--peers", metavar="NAMES", type=_listed(others), default=DEFAULT_PEERS,
                   help=f"of {', '.join(others)}; default {DEFAULT_PEERS}")
    p.add_argument("--precision", metavar="NAMES", type=_listed(files_module.PRECISIONS),
                   default="fp32", help="fp32, fp16, int16, int8; a quantized model has its own")
    p.add_argument("--device", metavar="D[,D...]", default=os.environ.get("EDGERUN_DEVICE"),
                   help="devices of edgerun; each is measured")
    p.add_argument("--threads", metavar="N", type=cli.positive, default=2,
                   help="of every runtime (2)")
    p.add_argument("--rounds", metavar="N", type=cli.positive, default=measure.ROUNDS,
                   help=f"turns of every runtime ({measure.ROUNDS})")
    p.add_argument("--folder", metavar="DIR",
                   help="where converted models are kept; default: beside the compiled kernels")
    p.add_argument("--json", metavar="FILE", help="write everything that was measured")
    p.add_argument("--plot", metavar="FILE", help="write latency against memory (.svg, .png)")
    p.add_argument("--prepare", action="store_true",
                   help="convert the models, compile the kernels, measure nothing")
    return p


def main(argv: list[str] | None = None) -> int:
    """Compare; returns the exit status."""
    args = parser().parse_args(argv)
    devices = args.device.split(",") if args.device else [None]
    try:
        kept = files_module.Files(default_folder(args.folder))
        results = measure.compare(
            args.models, kept, args.precision, devices, args.peers, args.threads,
            1 if args.prepare else args.rounds,
            lambda name: print(f"{name} ...", file=sys.stderr, flush=True))
    except EdgerunError as error:
        print(f"edgerun: {error}", file=sys.stderr)
        return 1
    found = ratios(results)
    if args.json:
        document = text.plain({
            "machine": machine(args.threads), "rounds": args.rounds,
            "results": [r.as_dict() for r in results], "ratios": [r.as_dict() for r in found],
            "summary": summary(found)})
        with replacing(args.json) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
    if args.plot:
        from edgerun.tools.compare.plot import plot
        plot([r.as_dict() for r in results], args.plot)
    print_tables(results, [] if args.prepare else found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
