r"""Compare observers and improvements on a model of yours: what each does to an int8 file.

    python -m edgerun.tools.recipes.choices --model M.onnx --calibration A.npz --test B.npz \
        --out DIR

Both .npz files hold samples under the names of the model's inputs, and no sample should be in both.
Each row is the int8 file against the fp32 file on the test samples: signal to noise of the worst
output, and the share of samples whose largest output is the same.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgerun import arrays, loader, text
from edgerun.device import Device
from edgerun.session import Session
from edgerun.tools import calibrate, verify
from edgerun.tools.pack import IMPROVEMENTS, pack
from edgerun.tools.recipes import comparison

PAIRS = (("equalize", "correct-bias"), ("clip-weights", "correct-bias"))


def choices() -> list[tuple[str, tuple[str, ...]]]:
    """Return (observer, improvements) to compare: every observer, every improvement, some pairs."""
    first = calibrate.DEFAULT_OBSERVER
    return [*((observer, ()) for observer in calibrate.OBSERVERS),
            *((first, (name,)) for name in IMPROVEMENTS), *((first, pair) for pair in PAIRS)]


def outputs_of(file: Path, samples: Sequence[dict[str, np.ndarray]], device: Device
               ) -> list[dict[str, np.ndarray]]:
    """Run a model file on every sample."""
    with Session(loader.read(file), device) as session:
        return [session.run(sample) for sample in samples]


def against(found: Sequence[dict[str, np.ndarray]], wanted: Sequence[dict[str, np.ndarray]]
            ) -> tuple[float, float]:
    """Return the signal to noise ratio in dB of the worst output, and the share of equal top-1."""
    worst, same = np.inf, []
    for name in wanted[0]:
        a = np.stack([sample[name] for sample in found]).astype(np.float64)
        b = np.stack([sample[name] for sample in wanted]).astype(np.float64)
        noise = float(np.square(a - b).sum())
        worst = min(worst, 10 * np.log10(float(np.square(b).sum()) / noise) if noise else np.inf)
        flat = (len(wanted), -1)
        same.append(np.mean(a.reshape(flat).argmax(1) == b.reshape(flat).argmax(1)))
    return float(worst), float(min(same))


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument("--calibration", required=True, metavar="NPZ")
    parser.add_argument("--test", required=True, metavar="NPZ")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    device, file = Device(args.device), args.out / "choice.edge"
    pack(args.model, file, "fp32")
    samples = verify.samples_of(arrays.read_npz(args.test), loader.read(file).inputs, args.test)
    wanted, rows = outputs_of(file, samples, device), []
    for observer, improve in choices():
        pack(args.model, file, "int8", calibration=args.calibration, observer=observer,
             improve=improve, device=device)
        snr, same = against(outputs_of(file, samples, device), wanted)
        rows.append((observer, " + ".join(improve) or "-", f"{snr:.1f}", f"{100 * same:.1f}"))
    print("\n".join(text.table(("observer", "improve", "SNR dB", "top-1 %"), rows, left=(0, 1))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
