"""Small networks of every quantization scheme, trained and exported; needs PyTorch.

Run as `python -m tests.torch_schemes --train MNIST.npz` to write tests/data/schemes.npz, with which
tests/test_schemes.py runs where PyTorch is not installed.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from edgerun.tools.recipes import schemes
from edgerun.tools.train import data, export, loop

FILE = Path(__file__).parent / "data" / "schemes.npz"
WIDTHS = (8, 16, 32)
NAMES = ("xnor", "dorefa", "twn", "inq")
TRAINED, SHOWN = 10_000, 60  # images


def main() -> None:
    """Write for each scheme NAME the model NAME.onnx (bytes), and what PyTorch answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    path = parser.parse_args().train
    x, y = data.images(path)
    shown = slice(TRAINED, TRAINED + SHOWN)  # not among those that train
    found = {"images": (x[shown] * 255).round().byte().numpy(), "labels": y[shown].numpy()}
    for name in NAMES:
        loop.seeded(1)
        network = schemes.lenet(schemes.SCHEMES[name], WIDTHS)
        loop.train(network, x[:TRAINED], y[:TRAINED], epochs=2, rate=4e-3,
                   hooks=(loop.Positive(),) if name == "ttq" else (), log=None)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            export.write(network, file, (1, 28, 28))
            found[f"{name}.onnx"] = np.frombuffer(file.read_bytes(), np.uint8)
        found[f"{name}.logits"] = loop.outputs(network, x[shown]).numpy()
        print(name, loop.accuracy(network, x[TRAINED:TRAINED + 2000], y[TRAINED:TRAINED + 2000]))
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
