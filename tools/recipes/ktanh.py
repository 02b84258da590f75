r"""K-TanH in recurrent networks: MNIST read row by row by a GRU and an LSTM, exact and by table.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.ktanh --train TRAIN.npz --test TEST.npz --out DIR

The two .npz files are those of edgerun.tools.recipes.mnist. A network reads the 28 rows of an
image, 28 -> 64 units, and a dense layer of 10 reads the last state. It is trained with the exact
functions, and packed twice: `--tanh exact` and `--tanh ktanh` (Kundu et al., "K-TanH", 2019). With
--times only the functions are measured: the worst error over all bf16 numbers, and what 65,536
values take on the device.
"""
from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgerun import loader
from edgerun.device import Device
from edgerun.ops.elementwise import KTANH
from edgerun.session import Session
from edgerun.tools.graph import Graph
from edgerun.tools.pack import TANH, Stages, pack
from edgerun.tools.recipes import comparison, mnist, results
from edgerun.tools.reference.elementwise import UNARY
from edgerun.tools.train import loop

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}
ELEMENTS = 1 << 16
ROUNDS, RUNS = 8, 50
PUBLISHED = [{"table": "time", "function": "tanh", "times faster": 5.0,
              "source": "abstract: more than, against Intel SVML, by AVX-512 instructions"}]
DIFFERS = [
    "The paper's figures are of machine translation (GNMT), which is not run here.",
    "Exact functions are vectorized by both CPU drivers, so that K-TanH gains little, and nothing "
    "for sigmoid, which needs no tanh when it is exact.",
    "Vectors of OpenCL C have no load by index in registers, which AVX-512 has and the paper's "
    "implementation uses: the table is chosen by comparisons instead.",
    "Numbers of fp32 have their lower 16 bits cut off where the table applies, so that the worst "
    "error is 0.0118 there."]


class Rows(nn.Module):
    """Logits [N, 10] of images [N, 28, 28], row by row."""

    def __init__(self, cell: str, units: int = 64):
        super().__init__()
        self.cell = CELLS[cell](28, units, batch_first=True)
        self.answer = nn.Linear(units, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(self.cell(x)[0][:, -1])


def export(network: nn.Module, path: Path) -> None:
    """Write the network as ONNX opset 13: image [1, 28, 28] -> logits [1, 10]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated, and warns of batches
        torch.onnx.export(network.eval(), (torch.zeros(1, 28, 28),), str(path), dynamo=False,
                          opset_version=13, input_names=["image"], output_names=["logits"])


def fastest(runs: Mapping[Any, Callable[[], object]]) -> dict[Any, float]:
    """Return the least time of each run in microseconds; they take turns, in ROUNDS."""
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            for _ in range(RUNS):
                started = time.perf_counter()
                run()
                least[name] = min(least[name], 1e6 * (time.perf_counter() - started))
    return least


def accuracies(cell: str, network: nn.Module, test: tuple[np.ndarray, np.ndarray], folder: Path,
               device: Device, seed: int) -> list[dict]:
    """Pack a trained network with exact functions and with K-TanH, and measure both."""
    export(network, folder / f"{cell}.onnx")
    images, rows = test[0][:, :, 0], []
    for precision in ("fp32", "fp16"):
        with ExitStack() as stack:
            sessions = {}
            for tanh in TANH:
                file = folder / f"{cell}-{precision}-{tanh}.edge"
                pack(folder / f"{cell}.onnx", file, precision, tanh=tanh)
                sessions[tanh] = stack.enter_context(Session(loader.read(file), device))
            spent = fastest({tanh: partial(session.run, {"image": images[0]})
                             for tanh, session in sessions.items()})
            for tanh, session in sessions.items():
                right = comparison.accuracy(images, test[1])(session)["right %"]
                rows.append({"table": "accuracy", "network": f"MNIST rows, {cell} 64",
                             "seed": seed, "precision": precision, "tanh": tanh,
                             "accuracy %": right, "device": device.info.platform,
                             "run us": round(spent[tanh], 1)})
                print(rows[-1])
    return rows


def functions(device: Device) -> list[dict]:
    """Return for each function the worst error over bf16, and what 65,536 values take."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    every = bits.view(np.float32)
    every = every[np.isfinite(every) & (np.abs(every) < 100)]
    x = np.random.default_rng(0).normal(0, 2, ELEMENTS).astype(np.float32)
    rows = []
    for exact, table in KTANH.items():
        apart = np.abs(UNARY[table](every, 0, 0) - UNARY[exact](every.astype(np.float64), 0, 0))
        spent = _launch_us(device, (exact, table), x)
        rows.append({"table": "time", "function": exact, "device": device.info.platform,
                     "exact us": round(spent[exact], 1), "K-TanH us": round(spent[table], 1),
                     "times faster": spent[exact] / spent[table],
                     "worst error, bf16": float(apart.max())})
        print(rows[-1])
    return rows


def _launch_us(device: Device, kinds: Sequence[str], x: np.ndarray) -> dict[str, float]:
    """Return the time of a unary op behind another: runs of 33 of them less runs of one."""
    with ExitStack() as stack:
        runs = {}
        for kind in kinds:
            for ops in (1, 33):
                graph = Graph("one")
                y = graph.input("x", x.shape, "fp32")
                for _ in range(ops):
                    y = graph.add("unary", [y], kind=kind)
                graph.output("y", y)
                data, _ = Stages(graph).encode("fp32", "fp32")
                session = stack.enter_context(
                    Session(loader.from_bytes(np.frombuffer(data, np.uint8), "one"), device))
                runs[kind, ops] = partial(session.run, {"x": x})
        spent = fastest(runs)
    return {kind: (spent[kind, 33] - spent[kind, 1]) / 32 for kind in kinds}


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--train", metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", metavar="NPZ", help="test images and labels")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", action="store_true",
                        help="only measure the functions, on the device")
    parser.add_argument("--reuse", action="store_true",
                        help="measure networks again that this recipe has trained into DIR")
    results.add_argument(parser)
    args = parser.parse_args(argv)
    if not args.times and None in (args.train, args.test):
        parser.error("needed --train and --test, or --times")
    device, started = Device(args.device), time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.times:
        rows = functions(device)
    else:
        (images, labels), test, rows = mnist.load(args.train), mnist.load(args.test), []
        for cell in CELLS:
            loop.seeded(args.seed)
            network, kept = Rows(cell), args.out / f"{cell}-{args.seed}.pt"
            if not args.reuse:
                loop.train(network, torch.from_numpy(images[:, 0, 0]), torch.from_numpy(labels),
                           epochs=args.epochs, rate=2e-3, seed=args.seed)
                torch.save(network.state_dict(), kept)
            network.load_state_dict(torch.load(kept))
            rows += accuracies(cell, network, test, args.out, device, args.seed)
    results.write(
        args.results, "ktanh", ours=rows, published=PUBLISHED, differs=DIFFERS,
        merge=("table", "network", "precision", "tanh", "seed", "function", "device"),
        command="python -m edgerun.tools.recipes.ktanh --train TRAIN.npz --test TEST.npz --out DIR "
                "--results docs/research", seeds=[] if args.times else [args.seed],
        minutes=(time.perf_counter() - started) / 60, threads=device.info.compute_units)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
