"""The command line: dispatches to the runtime's commands, and to the host's if installed."""
from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from edgerun import cli, text
from edgerun.errors import EdgerunError

# Commands of the host side: name -> (module, function, summary). The runtime never imports them
# before they are asked for; a device does without.
HOST = {
    "pack": ("edgerun.tools.cli", "pack", "turn an ONNX or TFLite model into a model file"),
    "fit": ("edgerun.tools.budget.cli", "fit", "tell whether a model fits given RAM and flash"),
    "demo": ("edgerun.tools.demo", "main", "the whole path on a small model, told as a story"),
    "planes": ("edgerun.tools.planes.cli", "main", "accuracy against planes of the weights"),
    "verify --against": ("edgerun.tools.cli", "verify", "compare with the source model"),
}
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + the number of the signal, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        Exit status: 0 done, 1 an error or a mismatch, 130 interrupted, 141 nobody reads stdout.

    Raises:
        SystemExit: argparse printed help (0) or the command line is wrong (2).
    """
    for stream in (sys.stdout, sys.stderr):  # names come from models, terminals may be ASCII
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except EdgerunError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("the machine has not enough memory for this")
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # what is still in the buffer must not be written at exit, where it would print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None:  # stdout, as on a full disk; files are named by their readers
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")


def _fail(message: str) -> int:
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    print(f"edgerun: {text.clean(line)}", file=sys.stderr)
    return 1


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in ("pack", "fit", "demo", "planes"):
        return _host(argv[0], argv[1:])
    top = cli.parser({name: HOST[name][2] for name in ("pack", "fit", "demo", "planes")})
    args = top.parse_args(argv)
    if args.command == "verify" and args.against is not None:
        return _host("verify --against", args)
    return args.run(args)


def _host(name: str, argument: object) -> int:
    """Call a command of the host side; a library that is missing becomes a message."""
    module, function, _ = HOST[name]
    try:
        run: Callable[[object], int] = getattr(importlib.import_module(module), function)
        return run(argument)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.startswith("edgerun.") and not missing.startswith("edgerun.tools"):
            raise
        raise EdgerunError(f"{name}: the Python package {missing!r} is missing, which this command "
                           "needs: pip install \"edgerun[tools]\"") from None


if __name__ == "__main__":
    sys.exit(main())
