"""The command that answers whether a model fits, and what `edgerun pack` does with a budget."""
from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from edgerun import cli, text
from edgerun.errors import InputError
from edgerun.tools import patch, profiles
from edgerun.tools.budget import sizes
from edgerun.tools.budget.fit import Source, fit as fit_model, pack as pack_model
from edgerun.tools.budget.report import Budget

LIST = "list"
EXAMPLES = """\
  edgerun fit model.onnx --ram 256K --flash 300K
  edgerun fit model.onnx --ram 256K --calibration samples.npz --max-drop 0.5
  edgerun fit model.onnx --ram 8M --target rock-5b --json
  edgerun fit --target list

Sizes are bytes, or have a unit: K, M, G or KiB, MiB, GiB, powers of 1024.

ram is what the runtime allocates on the device: the arena; with --target also a copy of the
constants where that device cannot read them in the mapped file, and the table of a chain of
launches where one is made. Driver, compiled kernels, Python and your arrays come on top: 'edgerun
memory' measures them. flash is the file.

exit status: 0 it fits, 1 it does not, or an error, 2 a wrong command line"""


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a model may take."""
    group = parser.add_argument_group(
        "budget", "search the types of all ops, and the plan of the arena, for the least loss")
    group.add_argument("--ram", metavar="SIZE", help="most memory on the device, as 256K or 1.5M")
    group.add_argument("--flash", metavar="SIZE", help="largest file")
    group.add_argument("--max-drop", metavar="POINTS", type=float,
                       help="most percentage points of the calibration samples whose answer "
                            "(largest output) may differ from that of fp32")
    group.add_argument("--target", metavar="NAME",
                       help=f"device profile ('edgerun fit --target {LIST}' lists them)")


def budget_of(args: argparse.Namespace) -> Budget | None:
    """Return the budget of a command line, None if there is none.

    Raises:
        InputError: a size is none, or options do not go together.
    """
    if args.ram is None and args.flash is None:
        for option in ("max_drop", "target"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option.replace('_', '-')} belongs to a budget: needed --ram, "
                                 "--flash, or both")
        return None
    for option in ("precision", "improve", "max_error", "tune", "tanh", "bits", "signs", "modes"):
        if getattr(args, option, None):
            raise InputError(f"--{option.replace('_', '-')} and a budget exclude each other: "
                             "needed one of them, since a budget chooses the types itself")
    if getattr(args, "patch", patch.OFF) != patch.OFF:
        raise InputError("--patch and a budget exclude each other: needed one of them, since a "
                         "budget chooses the strips itself (--without patch: none)")
    if getattr(args, "html", None) is not None:
        raise InputError("--html and a budget exclude each other: needed one of them; 'edgerun "
                         "memory OUT.edge --html OUT.html' writes the page of the packed file")
    if args.target is not None and not args.target:
        raise InputError("--target is empty: needed the name of a device profile, of "
                         f"{', '.join(profiles.names())}")
    given = {name: sizes.parse(getattr(args, name), f"--{name}") for name in ("ram", "flash")
             if getattr(args, name) is not None}
    return Budget(**given, max_drop=args.max_drop, target=args.target or "")


def _source(args: argparse.Namespace, vectors: Sequence = ()) -> Source:
    return Source(args.model, dict(args.shape), args.calibration, args.preprocess, args.observer,
                  args.samples, args.overrides, vectors, args.weights, args.random_weights,
                  getattr(args, "without", ()), args.device)


def pack(args: argparse.Namespace, budget: Budget, vectors: Sequence) -> int:
    """Run `edgerun pack` with a budget; returns the exit status."""
    from edgerun.tools.cli import pack_text, progress  # imports this
    with progress() as show:
        report, found = pack_model(_source(args, vectors), args.output, budget, show)
    if args.json:
        print(text.json_text(dataclasses.asdict(report) | {"budget": found.as_dict()}))
    else:
        once = [note for note in report.notes if note not in found.notes]
        print(pack_text(dataclasses.replace(report, notes=once)), "", found.text(), sep="\n")
    return 0


def fit(argv: Sequence[str]) -> int:
    """Run `edgerun fit`; returns the exit status."""
    from edgerun.tools.cli import MODEL_HELP, add_source, progress  # imports this
    parser = argparse.ArgumentParser(
        prog="edgerun fit", allow_abbrev=False, epilog=f"examples:\n{EXAMPLES}",
        description="Tell whether a model fits given RAM and flash, with what loss, or what would "
                    "make it fit. Writes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", help=MODEL_HELP)
    add_source(parser)
    add_budget(parser)
    cli.add_device(parser)
    cli.add_json(parser)
    args = parser.parse_args(argv)
    if args.target == LIST:
        print(text.json_text(_profiles()) if args.json else profiles_text())
        return 0
    if args.model is None:
        raise InputError("fit: needed a model, or --target list")
    budget = budget_of(args)
    if budget is None:
        raise InputError("fit: needed --ram, --flash, or both")
    with progress("fit") as show:
        report = fit_model(_source(args), budget, show)
    print(text.json_text(report.as_dict()) if args.json else report.text())
    return 0 if report.fits else 1


def _profiles() -> list[dict]:
    return [dataclasses.asdict(profiles.load(name)) for name in profiles.names()]


def profiles_text() -> str:
    """Return the device profiles for a terminal."""
    rows = []
    for profile in map(profiles.load, profiles.names()):
        most = profile["max_allocation"]
        rows.append((profile.name, profile.title, profile["weights"],
                     "not known" if most is None else text.size(most), profile["dot"] or "-",
                     "verified" if profile.verified else "not verified"))
    return "\n".join([*text.table(("profile", "device", "weights", "largest buffer", "dot", ""),
                                  rows, left=(0, 1, 2, 4, 5), cut=70), "",
                      "verified: measured by this project on such a device; the sources of all "
                      "facts: --json"])
