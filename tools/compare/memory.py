"""Compare the memory that runtimes add to a process by loading a model and running it.

    python -m edgerun.tools.compare.memory squeezenet resnet18 --device portable,intel
    python -m edgerun.tools.compare.memory resnet18 face.tflite --peers litert --json m.json

Every runtime has a process of its own, in which it is imported before anything is measured. Then it
loads the model, and runs it. What the system counts for the process before and after is compared:
PSS (all pages, shared ones by their share) and anonymous memory (what no file backs, so that it
cannot be dropped). For edgerun the device is opened before, and one trivial kernel is compiled and
run: that is the driver's own part, the same for every model, and shown apart. Its kernels come from
the cache on disk, as in every start but the first.
"""
from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import cli, smaps, text
from edgerun.errors import EdgerunError
from edgerun.files import replacing
from edgerun.tools.compare.files import SOURCE, Files, NoFile, Source
from edgerun.tools.compare.machine import default_folder, machine
from edgerun.tools.compare.peers import PEERS
from edgerun.tools.compare.process import environment

RUNS = 5
LIMIT_S = 120.0
OTHERS = ("onnxruntime", "openvino", "mnn", "ncnn", "litert")
# What a runtime's adapter imports: libraries are in the process before the measurement.
MODULES = {"edgerun": ("edgerun.session", "edgerun.loader"), "onnxruntime": ("onnxruntime",),
           "litert": ("ai_edge_litert.interpreter",), "openvino": ("openvino",),
           "mnn": ("MNN", "MNN.nn", "MNN.expr", "MNN.numpy"), "ncnn": ("ncnn",)}
KERNEL = "__kernel void one(__global int *x) { x[get_global_id(0)] = 1; }"


@dataclass(frozen=True)
class Added:
    """What a runtime added to a process, in bytes.

    Attributes:
        runtime, device, model: which; device is None for other runtimes.
        load, run: growth by loading, and by loading and running: "pss_bytes", "anonymous_bytes",
            "file_bytes".
        peak_bytes: highest resident memory on the way, above that before; None if unknown.
        resident_bytes: resident memory at the end, above that before.
        driver: what opening the device took before that; empty for other runtimes.
        facts: "version"; for edgerun also "planned_bytes" (the file and the arena).
        error: why there is no result.
    """
    runtime: str
    device: str | None
    model: str
    load: dict[str, int] = field(default_factory=dict)
    run: dict[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    resident_bytes: int = 0
    driver: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def _since(before: smaps.Memory, after: smaps.Memory) -> dict[str, int]:
    old = before.as_dict()
    return {name: count - old[name] for name, count in after.as_dict().items()
            if name != "private_dirty_bytes"}


def _open_device(wanted: str | None):
    """Open the device of edgerun and run a kernel that does nothing of use."""
    import warnings

    from edgerun.device import Device
    opened = Device(wanted)
    cl = opened.cl
    with warnings.catch_warnings():  # some drivers always print to the log
        warnings.simplefilter("ignore", cl.CompilerWarning)
        kernel = cl.Kernel(cl.Program(opened.context, KERNEL).build(cache_dir=False), "one")
    buffer = cl.Buffer(opened.context, cl.mem_flags.READ_WRITE, 4096)
    kernel.set_args(buffer)
    cl.enqueue_nd_range_kernel(opened.queue, kernel, (1024,), None)
    opened.queue.finish()
    buffer.release()
    return opened


def added(request: dict[str, Any]) -> dict[str, Any]:
    """Load and run a model in this process; returns the fields of Added that are measured.

    Args:
        request: "runtime", "model" (file), "inputs" (.npz), "threads", "device".
    """
    with np.load(request["inputs"]) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    runtime, device, driver = request["runtime"], request["device"], {}
    if runtime == "edgerun":
        from edgerun.device import opencl
        opencl(device)
    for name in MODULES[runtime]:
        importlib.import_module(name)
    if runtime == "edgerun":
        before = _now()
        device = _open_device(device)
        driver = _since(before, _now())
    before, resident = _now(), smaps.resident()
    measured = smaps.forget_peak()
    peer = PEERS[runtime](Path(request["model"]), inputs, request["threads"], device)
    loaded = _now()
    for _ in range(RUNS):
        peer.run()
    peak, now = smaps.peak(), _now()
    facts = {"version": peer.version}
    if runtime == "edgerun":
        facts |= {"planned_bytes": os.path.getsize(request["model"]) + peer.facts["arena_bytes"],
                  "arena_bytes": peer.facts["arena_bytes"], "device": peer.facts["device"],
                  "platform": peer.facts["platform"], "built": device.programs.built}
    return {"load": _since(before, loaded), "run": _since(before, now),
            "peak_bytes": peak - resident if measured else None,
            "resident_bytes": smaps.resident() - resident, "driver": driver, "facts": facts}


def _now() -> smaps.Memory:
    memory = smaps.process()
    if memory is None:
        raise EdgerunError("this system has no /proc/self/smaps to measure with")
    return memory


def measure(source: Source, file: Path, runtime: str, device: str | None, threads: int) -> Added:
    """Measure one runtime on one model, in a process of its own."""
    request = {"runtime": runtime, "model": str(file), "inputs": str(source.inputs),
               "threads": threads, "device": device}
    found = {"error": "no answer"}
    for _ in range(1 + (runtime == "edgerun")):  # the first time compiles kernels for the cache
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgerun.tools.compare.memory", "--here",
                 json.dumps(request)], capture_output=True, text=True, timeout=LIMIT_S,
                env=environment(threads))
        except subprocess.TimeoutExpired:
            return Added(runtime, device, source.name, error=f"gave no answer in {LIMIT_S:g} s")
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            error = done.stderr.strip().splitlines()[-1:] or ["no answer"]
            return Added(runtime, device, source.name, error=error[0][:300])
        found = json.loads(lines[-1])
    return Added(runtime, device, source.name, **found)


def compare(models: Sequence[str], files: Files, devices: Sequence[str | None],
            peers: Sequence[str], threads: int,
            progress: Callable[[str], None] = lambda name: None) -> list[Added]:
    """Measure every runtime on every model, in fp32 or as a quantized model is.

    Raises:
        EdgerunError: a model cannot be read.
    """
    found = []
    for model in models:
        source = files.source(model)
        precision = SOURCE if source.quantized else "fp32"
        for runtime in ("edgerun", *peers):
            progress(f"{source.name}, {runtime}")
            try:
                file = files.file(source, runtime, precision)
            except NoFile as error:
                found.append(Added(runtime, None, source.name, error=str(error)))
                continue
            for device in devices if runtime == "edgerun" else [None]:
                found.append(measure(source, file, runtime, device, threads))
    return found


def rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row per result for people: sizes, and how often edgerun's worst device fits in."""
    found = []
    for result in results:
        if result["error"]:
            found.append((result["model"], named(result), result["error"], "", "", "", "", ""))
            continue
        own = [other["run"] for other in results if other["model"] == result["model"]
               and other["runtime"] == "edgerun" and not other["error"]]
        ratios = ["" if result["runtime"] == "edgerun" or not own else
                  f"{result['run'][key] / max(o[key] for o in own):.1f}"
                  for key in ("pss_bytes", "anonymous_bytes")]
        found.append((
            result["model"], named(result), text.size(result["load"]["pss_bytes"]),
            text.size(result["run"]["pss_bytes"]), ratios[0],
            text.size(result["run"]["anonymous_bytes"]), ratios[1],
            text.size(result["driver"]["pss_bytes"]) if result["driver"] else ""))
    return found


def named(result: dict[str, Any]) -> str:
    """Return a runtime's name, with the device of edgerun."""
    return " on ".join(filter(None, (result["runtime"], result["device"])))


HEADER = ("model", "runtime", "loaded, PSS", "run, PSS", "x", "run, anonymous", "x", "driver, PSS")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        prog="python -m edgerun.tools.compare.memory", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", metavar="MODEL", nargs="*")
    p.add_argument("--peers", metavar="NAMES", default=",".join(OTHERS),
                   type=lambda names: [n for n in names.split(",") if n],
                   help=f"of {', '.join(OTHERS)}; default: all")
    p.add_argument("--device", metavar="D[,D...]", default=os.environ.get("EDGERUN_DEVICE"),
                   help="devices of edgerun; each is measured")
    p.add_argument("--threads", metavar="N", type=cli.positive, default=2,
                   help="of every runtime (2)")
    p.add_argument("--folder", metavar="DIR",
                   help="where converted models are kept; default: beside the compiled kernels")
    p.add_argument("--json", metavar="FILE", help="write everything that was measured")
    p.add_argument("--here", metavar="REQUEST", help=argparse.SUPPRESS)
    return p


def main(argv: list[str] | None = None) -> int:
    """Compare; returns the exit status."""
    args = parser().parse_args(argv)
    if args.here:
        with os.fdopen(os.dup(1), "w") as answer:
            os.dup2(2, 1)  # runtimes print; what they print must not look like an answer
            print(json.dumps(added(json.loads(args.here))), file=answer)
        return 0
    unknown = [name for name in args.peers if name not in OTHERS]
    try:
        if unknown or not args.models:
            raise EdgerunError(f"--peers: {unknown[0]!r} is not one of {', '.join(OTHERS)}"
                               if unknown else "needed a MODEL to compare on")
        results = compare(args.models, Files(default_folder(args.folder)),
                          args.device.split(",") if args.device else [None], args.peers,
                          args.threads, lambda name: print(f"{name} ...", file=sys.stderr))
    except EdgerunError as error:
        print(f"edgerun: {error}", file=sys.stderr)
        return 1
    found = [asdict(result) for result in results]
    if args.json:
        with replacing(args.json) as file:
            file.write((json.dumps(text.plain({
                "machine": machine(args.threads), "runs": RUNS, "results": found}), indent=1)
                + "\n").encode())
    print("\n".join(text.table(HEADER, rows(found), left=(0, 1))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
