"""python -m edgerun.tools.networks NAME -o FILE [--precision P] [--size N]."""
from __future__ import annotations

import argparse
import sys

from edgerun import cli
from edgerun.errors import EdgerunError
from edgerun.tools import networks


def main(argv: list[str] | None = None) -> int:
    """Write one network; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.networks", allow_abbrev=False,
        description="Write a well-known network with random weights, as ONNX or packed.")
    parser.add_argument("name", metavar="NAME", help=", ".join(networks.NAMES))
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help=".onnx or .edge")
    parser.add_argument("--precision", choices=networks.PRECISIONS, default="fp32",
                        help="an .onnx of int8 is a QDQ model")
    parser.add_argument("--size", metavar="N", type=cli.positive,
                        help="height and width of the image")
    cli.add_device(parser)
    args = parser.parse_args(argv)
    try:
        networks.write(args.name, args.output, args.precision, args.size, args.device)
    except EdgerunError as error:
        print(f"edgerun: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
