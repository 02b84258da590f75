r"""Time of layers at batch 1 with 1 to 8 bit planes, beside fp32, fp16 and int8.

    python -m edgerun.tools.recipes.plane_times --network mlp --out DIR
    python -m edgerun.tools.recipes.plane_times --network lstm --out DIR

`mlp` is 784-4096-4096-10, `lstm` one step of a cell of 1,024 units with 1,024 inputs. Weights are
random: they take the same time as trained ones. All files are open at once and take turns, each
for a few runs in a row, of which the first does not count; what is told is the median.
"""
from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerun import arrays, loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools.pack import pack
from edgerun.tools.planes import onnx as planes_onnx
from edgerun.tools.recipes import comparison, results

SIZES = {"mlp": (784, 4096, 4096, 10), "lstm": (1024, 1024)}
PLANES = 8
# Name of the file -> precision, planes.
FILES = {"fp32": ("fp32", None), "fp16": ("fp16", None), "int8": ("int8", None),
         "planes, 8-bit activations": ("int8", PLANES),
         "planes, 16-bit activations": ("int16", PLANES)}
SAMPLES, ROUNDS, RUNS = 8, 8, 6
COMMAND = ("python -m edgerun.tools.recipes.plane_times --network {} --out DIR "
           "--results docs/research")
NAMES = {"mlp": "precision-batching-mlp-time", "lstm": "precision-batching-lstm-time"}
TABLES = {"mlp": "Time of 784-4096-4096-10 at batch 1",
          "lstm": "Time of a step of an LSTM at batch 1"}
SOURCE = "repository sample run on a GPU; 1/100 of the time of 100 runs"
PUBLISHED = {
    "mlp": (("fp32", 32, 1.893), ("fp16", 16, 0.565), ("int8", 8, 0.249),
            ("planes, 8-bit activations", 4, 0.151), ("planes, 8-bit activations", 8, 0.254),
            ("planes, 16-bit activations", 4, 0.179)),
    "lstm": (("fp32", 32, 7.93), ("fp16", 16, 2.82), ("int8", 8, 1.40),
             ("planes, 8-bit activations", 4, 1.04), ("planes, 8-bit activations", 8, 1.55),
             ("planes, 16-bit activations", 4, 1.27))}
DIFFERS = {
    "mlp": ("their planes of n bits are n + 1 planes, ours of n bits are n",
            "on two cores of a CPU",
            "which numbers of planes keep the accuracy within a point was found with 512 hidden "
            "units (precision-batching-mlp); the times are of 4,096, with random weights"),
    "lstm": ("one step of a cell of 1,024 units; theirs is a whole language model",
             "on two cores of a CPU",
             "weights are random: how many planes keep the accuracy of an LSTM was not measured")}


def differs(network: str, rows: Sequence[results.Row]) -> Iterator[str]:
    """Yield what is not as published, and how the rows stand to what was aimed at."""
    yield from DIFFERS[network]
    planes = {row["bits"]: row for row in rows if row["file"] == "planes, 8-bit activations"}
    yield ("8 times as fast as fp32 was aimed at; with activations of 8 bits it is "
           + ", ".join(f"{planes[bits]['times as fast as fp32']:.1f} with {bits} planes"
                       for bits in (3, 4)))
    real = rows[0]
    yield (f"fp32 reads its {real['MB of constants']:.0f} MB at "
           f"{real['MB of constants'] / real['ms']:.0f} GB/s: the more of them another hour finds "
           "in a cache that machines share, the smaller is the ratio")
    yield (f"from 1 to 8 planes the time grows {planes[8]['ms'] / planes[1]['ms']:.1f} times only: "
           "by profiles that are not stored, the host and the launch take a fourth or more of the "
           "time of one plane, transposing activations 1 to 3 us a layer")


class Weights:
    """Random dense layers that keep the variance of their inputs: real, or in bit planes."""

    def __init__(self, planes: int | None, seed: int = 0):
        self.planes, self.rng = planes, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def gemm(self, name: str, x: str, y: str, out: int, size: int) -> None:
        """Add y [1, out] = x [1, size] w + b."""
        sigma = np.sqrt(2 / size)
        bias = (0.1 * self.rng.standard_normal(out)).astype(np.float32)
        if self.planes is None:
            w = self.rng.standard_normal((out, size), np.float32) * np.float32(sigma)
            self.constants += [numpy_helper.from_array(w, f"{name}.w"),
                               numpy_helper.from_array(bias, f"{name}.b")]
        else:
            most = 2 ** (self.planes - 1)  # at three deviations
            codes = np.rint(self.rng.standard_normal((out, size), np.float32) * (most / 3))
            left = 2.0 ** np.arange(self.planes, -1, -1)[:, None] * np.ones(out)
            node, constants = planes_onnx.bit_planes(
                name, codes.clip(-most, most - 1).astype(np.int8), self.planes,
                3 * sigma / most * left, 0.5 - 0.5 / left, bias)
            self.nodes.append(node)
            self.constants += constants
        self.nodes.append(helper.make_node("Gemm", [x, f"{name}.w", f"{name}.b"], [y], transB=1))


def save(path: Path, weights: Weights, inputs: dict[str, int],
         outputs: dict[str, int]) -> None:
    """Write a model whose inputs and outputs are vectors [1, n]."""
    infos = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
              for name, size in ends.items()] for ends in (inputs, outputs))
    graph = helper.make_graph(weights.nodes, path.stem, *infos, weights.constants)
    onnx.save(helper.make_model(
        graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13), planes_onnx.OPSET]), path)


def write_mlp(path: Path, planes: int | None) -> dict[str, int]:
    """Write dense layers with ReLUs between; returns the inputs and their sizes."""
    weights, x, sizes = Weights(planes), "x", SIZES["mlp"]
    for number, (size, out) in enumerate(pairwise(sizes), 1):
        last = number == len(sizes) - 1
        y = "y" if last else f"dense{number}"
        weights.gemm(f"layer{number}", x, y, out, size)
        if not last:
            x = f"relu{number}"
            weights.nodes.append(helper.make_node("Relu", [y], [x]))
    save(path, weights, {"x": sizes[0]}, {"y": sizes[-1]})
    return {"x": sizes[0]}


def write_lstm(path: Path, planes: int | None) -> dict[str, int]:
    """Write a step of a cell, x, h, c -> h, c; one dense layer computes all gates."""
    inputs, units = SIZES["lstm"]
    weights = Weights(planes)
    nodes = weights.nodes
    nodes.append(helper.make_node("Concat", ["x", "h"], ["xh"], axis=1))
    weights.gemm("gates", "xh", "sums", 4 * units, inputs + units)
    nodes.append(helper.make_node("Split", ["sums"], ["i_in", "f_in", "o_in", "g_in"], axis=1))
    nodes += [helper.make_node("Sigmoid", [f"{gate}_in"], [gate]) for gate in "ifo"]
    nodes += [helper.make_node(op, x, [y]) for op, x, y in (
        ("Tanh", ["g_in"], "g"), ("Mul", ["f", "c"], "kept"), ("Mul", ["i", "g"], "new"),
        ("Add", ["kept", "new"], "c_out"), ("Tanh", ["c_out"], "squashed"),
        ("Mul", ["o", "squashed"], "h_out"))]
    save(path, weights, {"x": inputs, "h": units, "c": units}, {"h_out": units, "c_out": units})
    return {"x": inputs, "h": units, "c": units}


@dataclass
class Entry:
    """A file, or one precision of it, and the seconds of its runs."""
    name: str
    planes: int | None
    session: Session
    seconds: list[float]


def take_turns(entries: Sequence[Entry], inputs: dict[str, np.ndarray], rounds: int, runs: int
               ) -> None:
    """Run every entry for some runs in a row, and again; the first run of a row does not count."""
    for _ in range(rounds):
        for entry in entries:
            if entry.planes is not None:
                entry.session.set_precision(entry.planes)
            for number in range(runs):
                started = time.perf_counter()
                entry.session.run(inputs)
                if number:
                    entry.seconds.append(time.perf_counter() - started)


def read_bytes(session: Session, planes: int | None) -> int:
    """Return the bytes of weights that a run reads: of planes, those that count."""
    total = 0
    for op in session.model.ops:
        total += sum(tensor.bytes for number, tensor in enumerate(op.inputs)
                     if tensor is not None and tensor.constant
                     and not (tensor.dtype == "bits" and planes is not None
                              and number - 3 >= planes))
    return total


def pack_all(network: str, folder: Path, device: Device) -> None:
    """Write the network and pack it in every way."""
    folder.mkdir(parents=True, exist_ok=True)
    write = {"mlp": write_mlp, "lstm": write_lstm}[network]
    samples, rng = folder / f"{network}.npz", np.random.default_rng(1)
    for planes in (None, PLANES):
        inputs = write(folder / f"{network} {planes}.onnx", planes)
    arrays.write_npz(samples, {name: rng.uniform(-1, 1, (SAMPLES, 1, size)).astype(np.float32)
                               for name, size in inputs.items()})
    for name, (precision, planes) in FILES.items():
        pack(folder / f"{network} {planes}.onnx", folder / f"{network} {name}.edge", precision,
             device=device, calibration=samples if precision.startswith("int") else None)


def measure(network: str, folder: Path, device: Device, rounds: int = ROUNDS
            ) -> list[dict[str, Any]]:
    """Time what pack_all() wrote; returns a row per file and number of planes."""
    samples = arrays.read_npz(folder / f"{network}.npz")
    with ExitStack() as stack:
        entries: list[Entry] = []
        for name, (_, bits) in FILES.items():
            session = stack.enter_context(
                Session(loader.read(folder / f"{network} {name}.edge"), device))
            entries += [Entry(name, planes, session, [])
                        for planes in (range(1, bits + 1) if bits else [None])]
        take_turns(entries, {name: array[0] for name, array in samples.items()}, rounds, RUNS)
        times = [1e3 * statistics.median(entry.seconds) for entry in entries]
        return [{"table": TABLES[network], "file": entry.name,
                 "bits": entry.planes or {"fp32": 32, "fp16": 16, "int8": 8}[entry.name],
                 "ms": ms, "times as fast as fp32": times[0] / ms,
                 "MB of constants": read_bytes(entry.session, entry.planes) / 1e6}
                for entry, ms in zip(entries, times)]


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--network", choices=tuple(SIZES), default="mlp")
    parser.add_argument("--packed", action="store_true",
                        help="the files are in --out already: only measure")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    started, device = time.perf_counter(), Device(args.device)
    if not args.packed:
        pack_all(args.network, args.out, device)
    rows = measure(args.network, args.out, device)
    print("\n".join(text.table(("file", "bits", "ms", "x fp32", "MB"), [
        (row["file"], row["bits"], f"{row['ms']:.3f}", f"{row['times as fast as fp32']:.2f}",
         f"{row['MB of constants']:.2f}") for row in rows], left=(0,))))
    published = [{"table": TABLES[args.network], "file": name, "bits": bits, "ms": ms,
                  "times as fast as fp32": PUBLISHED[args.network][0][2] / ms, "source": SOURCE}
                 for name, bits, ms in PUBLISHED[args.network]]
    results.write(args.results, NAMES[args.network], command=COMMAND.format(args.network),
                  seeds=[0], minutes=(time.perf_counter() - started) / 60, ours=rows,
                  published=published, differs=list(differs(args.network, rows)),
                  threads=device.info.compute_units, device=device.info.platform)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
