"""The benchmark behind docs/performance.md: parts of a minute or two, one JSON file each.

    python -m edgerun.tools.compare.suite DIR --models MODELS --prepare   # convert and compile
    python -m edgerun.tools.compare.suite DIR --models MODELS             # measure
    python -m edgerun.tools.compare.suite DIR --only fp32 --only roofline
    python -m edgerun.tools.compare.suite --list
    python -m edgerun.tools.compare.report DIR PAGE.md                    # write the page

MODELS is a folder with the real models, which are searched by name; parts that need them are left
out without it. The machine should do nothing else meanwhile.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerun import files, text
from edgerun.errors import EdgerunError, InputError
from edgerun.tools.compare import measure
from edgerun.tools.compare.files import Files
from edgerun.tools.compare.machine import default_folder, machine
from edgerun.tools.compare.process import Process
from edgerun.tools.compare.ratios import ratios

ALL = ("fp32", "fp16", "int8", "int16")
NATIVE = ("onnxruntime", "openvino")
COMMAND_S = 100.0


@dataclass(frozen=True)
class Part:
    """Some models compared together.

    Attributes:
        models: names of networks, or of real model files with their extension.
        peers, precisions: as in edgerun.tools.compare.
        rounds: turns of every runtime.
    """
    models: tuple[str, ...]
    peers: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    rounds: int = measure.ROUNDS


COMPARISONS = {
    "fp32": Part(("resnet18", "mobilenetv2", "squeezenet", "alexnet"),
                 (*NATIVE, "mnn", "ncnn")),
    "fp32-real": Part(("squeezenet_v1.0_dc.onnx", "ultraface_RFB-320_simplified.onnx",
                       "hyperlpr_y5fu_320x.onnx"), (*NATIVE, "mnn", "ncnn")),
    "fp32-more": Part(("resnet50", "mobilenetv1", "mlp", "attention"), NATIVE),
    "fp32-vgg16": Part(("vgg16",), NATIVE, rounds=9),
    "precisions-resnet18": Part(("resnet18",), NATIVE, ALL),
    "precisions-alexnet": Part(("alexnet",), NATIVE, ALL),
    "precisions-squeezenet": Part(("squeezenet",), NATIVE, ALL),
    "precisions-mobilenetv2": Part(("mobilenetv2",), NATIVE, ALL),
    "litert": Part(("coral_mobilenet_v1_0.5_160_quant.tflite", "vww01_mbv1_96_int8.tflite",
                    "ic01_resnet8_int8.tflite", "kws01_dscnn_int8.tflite",
                    "ad01_fc_ae_int8.tflite", "sww01_int8.tflite"), ("litert",)),
}
# What needs no peer, only `edgerun bench`: (network, precision).
ROOFLINE = (("resnet18", "fp32"), ("resnet18", "int8"), ("mobilenetv2", "fp32"),
            ("mobilenetv2", "int8"), ("alexnet", "fp32"))
COLD = {"cold-squeezenet": (("squeezenet", "fp32"),),
        "cold-mobilenetv2": (("mobilenetv2", "int8"),)}
TINYGRAD = {"tinygrad-squeezenet": "squeezenet", "tinygrad-mobilenetv2": "mobilenetv2"}
PARTS = (*COMPARISONS, "roofline", "bandwidth", *COLD, *TINYGRAD)


def find(folder: Path | None, name: str) -> str | None:
    """Return the path of a real model, or the name of a network; None without a folder."""
    if "." not in name:
        return name
    if folder is None:
        return None
    found = next(folder.rglob(name), None)
    if found is None:
        raise InputError(f"{folder}: has no {name}")
    return os.fspath(found)


def _found(module: str, device: str | None, *options: str) -> dict[str, Any]:
    """Return the JSON that a module prints, run in a process of its own."""
    command = [sys.executable, "-m", module, *options, "--json"]
    done = subprocess.run(
        [*command, *(("--device", device) if device else ())], capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)})
    if done.returncode:
        raise EdgerunError(f"{module} {' '.join(options)}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def _bench(path: Path, device: str | None, *options: str) -> dict[str, Any]:
    """Return what `edgerun bench` finds."""
    return _found("edgerun", device, "bench", os.fspath(path), *options)


class Suite:
    """Runs parts.

    Args:
        files: where converted models are kept.
        folder: of the real models; None without.
        devices: of edgerun.
        threads: of every runtime.
    """

    def __init__(self, files: Files, folder: Path | None, devices: Sequence[str | None],
                 threads: int):
        self.files, self.folder, self.devices, self.threads = files, folder, devices, threads

    def run(self, name: str, prepare: bool = False) -> dict[str, Any] | None:
        """Run one part; returns what its file holds, None if it has nothing to measure here.

        Raises:
            EdgerunError: something is missing or fails.
        """
        if name == "roofline":
            return {"roofline": self._benches(ROOFLINE, prepare, "--per-op", "--runs", "30")}
        if name == "bandwidth":
            rounds = ("--rounds", "1") if prepare else ()
            return {"bandwidth": [
                {"driver": device, **_found("edgerun.tools.compare.bandwidth", device, *rounds)}
                for device in self.devices]}
        if name in COLD:
            return {"cold": self._benches(COLD[name], prepare, "--cold", "--starts", "3")}
        if name in TINYGRAD:
            if prepare:
                self._packed(TINYGRAD[name], "fp32")
                return None
            return {"results": self._tinygrad(TINYGRAD[name])}
        part = COMPARISONS[name]
        models = [path for path in (find(self.folder, model) for model in part.models) if path]
        if not models:
            return None
        results = measure.compare(models, self.files, part.precisions, self.devices, part.peers,
                                  self.threads, 1 if prepare else part.rounds)
        return {"rounds": part.rounds, "results": [_slim(r.as_dict()) for r in results],
                "ratios": [r.as_dict() for r in ratios(results)]}

    def _packed(self, network: str, precision: str) -> Path:
        return self.files.file(self.files.source(network), "edgerun", precision)

    def _benches(self, models: Sequence[tuple[str, str]], prepare: bool, *options: str
                 ) -> list[dict[str, Any]]:
        """Return what `edgerun bench` finds for every (network, precision) on every device."""
        found = []
        for number, (network, precision) in enumerate(models):
            path = self._packed(network, precision)
            for device in self.devices:
                if prepare:
                    _bench(path, device, "--runs", "1", "--per-op")
                    continue
                # peaks change with the machine's load: measured again, once
                peaks = ("--new-peaks",) if "--per-op" in options and number == 0 else ()
                found.append({"network": network, "precision": precision, "driver": device,
                              **_slim_bench(_bench(path, device, *options, *peaks))})
        return found

    def _tinygrad(self, network: str) -> list[dict[str, Any]]:
        """Measure tinygrad and edgerun twice: from empty caches, and from what that start kept.

        Returns:
            The results of the second start; "empty_ns" is the time to the first result of the
            first one.
        """
        source = self.files.source(network)
        runners = [*(measure.Runner("edgerun", "fp32", device) for device in self.devices),
                   measure.Runner("tinygrad", "fp32")]
        with tempfile.TemporaryDirectory() as folder:
            def opened() -> measure.Turns:
                return measure.Turns(source, runners, self.files, self.threads,
                                     lambda threads: Process(threads, caches=Path(folder)))
            empty = opened()
            empty.close()
            turns = opened()
            try:
                turns.measure(measure.ROUNDS)
                turns.compare_outputs()
            finally:
                turns.close()
        return [{**_slim(result.as_dict()), "empty_ns": before.load_ns + before.first_ns,
                 "error": before.error or result.error}
                for before, result in zip(empty.results, turns.results)]


def _slim(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without the times of the rounds, which the ratios already hold."""
    return {key: value for key, value in result.items() if key != "turns_ns"}


OP_KEYS = ("code", "shape", "kernel", "ns", "macs", "bytes", "possible_ns", "limit")


def _slim_bench(found: dict[str, Any]) -> dict[str, Any]:
    """Return a report of `edgerun bench` with what the page needs of its ops."""
    if "ops" in found:
        found["ops"] = [{key: op[key] for key in OP_KEYS} for op in found["ops"]]
    return found


def main(argv: list[str] | None = None) -> int:
    """Run parts of the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.compare.suite", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="DIR", nargs="?", help="one JSON file per part")
    parser.add_argument("--models", metavar="MODELS", help="folder with the real models")
    parser.add_argument("--only", metavar="PART", action="append", choices=PARTS,
                        help=f"run this part (repeatable), of {', '.join(PARTS)}")
    parser.add_argument("--device", metavar="D[,D...]", default="portable,intel",
                        help="devices of edgerun (portable,intel)")
    parser.add_argument("--threads", metavar="N", type=int, default=2)
    parser.add_argument("--folder", metavar="DIR", help="where converted models are kept")
    parser.add_argument("--prepare", action="store_true", help="convert and compile only")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    args = parser.parse_args(argv)
    if args.list:
        print("\n".join(PARTS))
        return 0
    if args.out is None:
        parser.error("DIR is missing")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        suite = Suite(Files(default_folder(args.folder)), Path(args.models) if args.models
                      else None, args.device.split(","), args.threads)
        for name in args.only or PARTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found = suite.run(name, args.prepare)
            if found is not None and not args.prepare:
                document = text.plain({"part": name, "machine": machine(args.threads), **found})
                with files.replacing(out / f"{name}.json") as file:
                    file.write((json.dumps(document, indent=1) + "\n").encode())
    except EdgerunError as error:
        print(f"edgerun: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
