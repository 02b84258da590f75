"""The commands that run on a device: arguments, help, and what each prints."""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from edgerun import __version__, arrays, info as info_module, loader, modes, text
from edgerun.errors import DeviceError, InputError

DEVICE_HELP = ("index, or part of the platform, device or driver name (see 'edgerun devices'); "
               "default: EDGERUN_DEVICE, else the best one found")


def command(subparsers, name: str, summary: str, examples: str,
            run: Callable[[argparse.Namespace], int] | None = None) -> argparse.ArgumentParser:
    """Add a command to the parser, with examples at the end of its help."""
    parser = subparsers.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False,
        epilog=f"examples:\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", metavar="D", help=DEVICE_HELP)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", metavar="NAME|BITS", help="precision of a file with planes of "
                        "weights (see 'edgerun info'); default: the file's")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true",
                        help="print one JSON document and nothing else")


def positive(value: str) -> int:
    """Parse a count of at least 1."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a count of at least 1")
    return number


def not_negative(value: str) -> int:
    """Parse a count of at least 0."""
    number = int(value)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return number


def parser(host_commands: dict[str, str]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Args:
        host_commands: name -> summary of the commands that lie in edgerun.tools; they are listed
            here and parse their arguments themselves.
    """
    top = argparse.ArgumentParser(
        prog="edgerun", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run neural networks on OpenCL devices from one memory-mapped file.",
        epilog="'edgerun COMMAND --help' explains a command and shows examples.\n\n"
               "environment:\n"
               "  EDGERUN_DEVICE     the device when --device is not given\n"
               "  EDGERUN_CACHE_DIR  folder of compiled kernels; 0 keeps none\n"
               "  EDGERUN_TUNING     file of tuned choices instead of the device's; 0 takes none"
               "\n\n"
               "exit status: 0 done, 1 an error or a mismatch, 2 a wrong command line")
    top.add_argument("--version", action="version", version=f"edgerun {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in host_commands.items():
        commands.add_parser(name, help=summary, add_help=False)
    for add in (_add_run, _add_info, _add_memory, _add_bench, _add_tune, _add_verify,
                _add_devices):
        add(commands)
    return top


def _add_run(commands) -> None:
    p = command(commands, "run", "run a model on arrays and write its outputs", """\
  edgerun run model.edge                                  # prints what the model needs
  edgerun run model.edge --inputs in.npz --outputs out.npz
  edgerun run model.edge --inputs in.npz --outputs out.npz --device pocl

in.npz holds one array per input under the name of its tensor, with the shape and dtype that the
source model declares: numpy.savez("in.npz", **{"input": image}).""", _run)
    p.add_argument("model", metavar="MODEL.edge")
    p.add_argument("--inputs", metavar="IN.npz", help="arrays by tensor name")
    p.add_argument("--outputs", metavar="OUT.npz",
                   help="file to write; appears whole or not at all")
    _add_mode(p)
    add_device(p)


def _run(args: argparse.Namespace) -> int:
    model = loader.read(args.model)
    if args.inputs is None:
        raise InputError(f"{args.model}: --inputs IN.npz is missing, needed the arrays "
                         f"{arrays.needed(model.inputs)}")
    if args.outputs is None:
        raise InputError(f"{args.model}: --outputs OUT.npz is missing, needed a file for "
                         f"{arrays.needed(model.results)}")
    arrays.check_writable(args.outputs)
    inputs = arrays.read_npz(args.inputs)
    from edgerun.device import Device
    from edgerun.session import Session
    with Session(model, Device(args.device), precision=modes.parsed(args.mode)) as session:
        arrays.write_npz(args.outputs, session.run(inputs))
    return 0


def _add_info(commands) -> None:
    p = command(commands, "info", "describe a model file; needs no OpenCL", """\
  edgerun info model.edge
  edgerun info model.edge --json | jq '.ops[].code'""", _info)
    p.add_argument("model", metavar="MODEL.edge")
    add_json(p)


def _info(args: argparse.Namespace) -> int:
    found = info_module.describe(loader.read(args.model))
    print(text.json_text(found) if args.json else info_module.describe_text(found))
    return 0


def _add_memory(commands) -> None:
    p = command(commands, "memory", "report planned, allocated and measured memory", """\
  edgerun memory model.edge
  edgerun memory model.edge --no-run           # the plan alone: needs no OpenCL
  edgerun memory model.edge --html memory.html # the same with pictures, for a browser
  edgerun memory model.edge --device 0 --json""", _memory)
    p.add_argument("model", metavar="MODEL.edge")
    p.add_argument("--no-run", action="store_true",
                   help="only what the file plans; opens no device")
    p.add_argument("--html", metavar="OUT.html", help="also write a page with pictures")
    _add_mode(p)
    add_device(p)
    add_json(p)


def _memory(args: argparse.Namespace) -> int:
    from edgerun import report
    if args.no_run and args.mode is not None:
        raise InputError("memory: --mode does not go with --no-run, which tells all modes")
    if args.html is not None:
        arrays.check_writable(args.html)
    found = (report.planned_report(loader.read(args.model)) if args.no_run
             else report.measure(args.model, args.device, modes.parsed(args.mode)))
    if args.html is not None:
        from edgerun import files, memory_page
        with files.replacing(args.html) as file:
            file.write(memory_page.page(loader.read(args.model), found).encode())
    if args.json:
        print(text.json_text(found.as_dict()))
    else:
        from edgerun.memory_picture import picture
        print("\n".join([found.text(), "", "the arena over time (up: bytes, to the right: ops)",
                         *picture(loader.read(args.model, check_weights=False))]))
    return 0


def _add_bench(commands) -> None:
    p = command(commands, "bench", "measure latency and the time of every op", """\
  edgerun bench model.edge
  edgerun bench model.edge --per-op --runs 200
  edgerun bench model.edge --inputs in.npz --device gpu --json
  edgerun bench model.edge --cold              # from the start of a process to the first result""",
                _bench)
    p.add_argument("model", metavar="MODEL.edge")
    p.add_argument("--inputs", metavar="IN.npz",
                   help="arrays by tensor name; default: seeded random ones")
    p.add_argument("--runs", metavar="N", type=positive, default=50, help="counted runs (50)")
    p.add_argument("--warmup", metavar="N", type=not_negative, default=5,
                   help="runs before them, besides the first (5)")
    p.add_argument("--per-op", action="store_true",
                   help="also the device time of every launch, beside the device's measured peaks")
    p.add_argument("--new-peaks", action="store_true",
                   help="with --per-op: measure the peaks again, which takes seconds")
    p.add_argument("--cold", action="store_true",
                   help="instead: how long fresh processes take to their first result, stage by "
                        "stage, with and without compiled programs")
    p.add_argument("--starts", metavar="N", type=positive, default=3,
                   help="with --cold: processes of each kind (3)")
    _add_mode(p)
    add_device(p)
    add_json(p)


def _bench(args: argparse.Namespace) -> int:
    inputs = None if args.inputs is None else arrays.read_npz(args.inputs)
    loader.map_file(args.model)  # a missing file must not cost the start of a driver
    if args.cold:
        return _cold(args)
    from edgerun import timing
    from edgerun.device import Device
    from edgerun.session import Session
    device = Device(args.device)
    start = time.perf_counter_ns()
    with Session(loader.read(args.model), device, precision=modes.parsed(args.mode)) as session:
        load_ns = time.perf_counter_ns() - start
        if inputs is None:
            inputs = arrays.random_inputs(session.inputs)
        found = timing.bench(session, inputs, args.runs, args.warmup, args.per_op, load_ns,
                             args.new_peaks)
    print(text.json_text(found.as_dict()) if args.json else found.text())
    return 0


def _add_tune(commands) -> None:
    p = command(commands, "tune", "find the fastest variant of every kernel on a device", """\
  edgerun tune model.edge                      # kept beside the compiled kernels
  edgerun tune model.edge --write              # kept in the model file
  edgerun tune model.edge --seconds 60 --search actor-critic --device gpu
  edgerun tune model.edge --out FILE           # then: EDGERUN_TUNING=FILE edgerun run ...

Nothing else should run on the device. What was tuned before is not measured again.""", _tune)
    p.add_argument("model", metavar="MODEL.edge")
    p.add_argument("--search", choices=("exhaustive", "greedy", "actor-critic"),
                   help="default: exhaustive among few variants, greedy among many")
    p.add_argument("--budget", metavar="N", type=positive, default=60,
                   help="variants to try of one kernel, at most (60)")
    p.add_argument("--seconds", metavar="S", type=positive,
                   help="try no new variant after so long; default: no limit")
    p.add_argument("--again", action="store_true", help="also measure what is tuned already")
    place = p.add_mutually_exclusive_group()
    place.add_argument("--out", metavar="FILE", help="keep the choices in this file")
    place.add_argument("--write", action="store_true",
                       help="keep them in the model file, which is replaced as a whole")
    add_device(p)
    add_json(p)


def _tune(args: argparse.Namespace) -> int:
    loader.map_file(args.model)  # a missing file must not cost the start of a driver
    from edgerun import tune
    from edgerun.device import Device

    def show(done: int, total: int, last: tune.LaunchResult) -> None:
        if sys.stderr.isatty():
            print(f"{done} of {total}: {text.clean(last.key)}: {last.variant}, "
                  f"{last.gain:.2f} times", file=sys.stderr)

    found = tune.tune_file(args.model, Device(args.device), out=args.out, write=args.write,
                           again=args.again, how=args.search, budget=args.budget,
                           seconds=args.seconds, progress=show)
    print(text.json_text(found.as_dict()) if args.json else found.text())
    return 0


def _cold(args: argparse.Namespace) -> int:
    if args.inputs is not None or args.per_op:
        raise InputError("bench: --inputs and --per-op do not go with --cold, which gives each "
                         "process random inputs")
    if args.mode is not None:
        raise InputError("bench: --mode does not go with --cold: processes start in the file's "
                         "default precision")
    from edgerun import cold
    found = cold.measure(args.model, args.device, args.starts)
    print(text.json_text(found.as_dict()) if args.json else found.text())
    return 0


def _add_verify(commands) -> None:
    p = command(commands, "verify", "compare a model's outputs with its test vectors or its source",
                """\
  edgerun verify model.edge                                # the vectors inside the file
  edgerun verify model.edge --against model.onnx           # needs onnxruntime
  edgerun verify model.edge --against model.tflite --inputs in.npz --device pocl
  edgerun verify model.edge --against model.onnx --layers   # where the error enters, op by op

exit status 1 if an output differs by more than is allowed, relative to the range of the output.""",
                _verify)
    p.add_argument("model", metavar="MODEL.edge")
    p.add_argument("--against", metavar="MODEL",
                   help="the source model (.onnx, .tflite), run in its own runtime on this machine")
    p.add_argument("--inputs", metavar="IN.npz",
                   help="with --against: arrays by tensor name; default: seeded random ones")
    p.add_argument("--samples", metavar="N", type=positive, default=3,
                   help="with --against: how many random inputs (3)")
    p.add_argument("--seed", metavar="N", type=not_negative, default=0,
                   help="with --against: of the first random input (0)")
    p.add_argument("--tolerance", metavar="X", type=float,
                   help="with --against: allowed difference relative to the output's range; "
                        "default 0.001, for fp16 0.02")
    p.add_argument("--layers", action="store_true",
                   help="with --against: compare every op with the source model in fp32, and "
                        "the integers of a quantized one with those of its runtime")
    add_device(p)
    add_json(p)


def _verify(args: argparse.Namespace) -> int:
    model = loader.read(args.model)
    if args.inputs is not None or args.tolerance is not None or args.layers:
        raise InputError("verify: --inputs, --tolerance and --layers go with --against MODEL; the "
                         "vectors in the file have their own")
    from edgerun import verify
    verify.require_vectors(model)
    from edgerun.device import Device
    from edgerun.session import Session
    with Session(model, Device(args.device)) as session:
        return print_verdict(verify.verify(session), args.json)


def print_verdict(found: dict, as_json: bool) -> int:
    """Print a report of edgerun.verify; returns the exit status."""
    from edgerun.verify import verify_text
    print(text.json_text(found) if as_json else verify_text(found))
    return 0 if found["passed"] else 1


def _add_devices(commands) -> None:
    p = command(commands, "devices", "list what OpenCL offers here, and what to install", """\
  edgerun devices
  edgerun devices --json
  EDGERUN_DEVICE=pocl edgerun devices          # which one would be taken then""", _devices)
    add_json(p)


def _devices(args: argparse.Namespace) -> int:
    from edgerun import listing
    found = listing.survey()
    shown = text.json_text(found) if args.json else listing.survey_text(found)
    if shown:
        print(shown)
    if found["problem"]:
        raise DeviceError(found["problem"])
    return 0
