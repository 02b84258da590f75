r"""An MNIST network trained in fixed point: rounding at random against rounding to the nearest.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.rounding --train TRAIN.npz --test TEST.npz

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. The network is 784-256-
256-10 with relu; all parameters are rounded to <IL, FL> bits after every step of plain stochastic
gradient descent, and computed with in fp32. Gupta et al., "Deep learning with limited numerical
precision", 2015, has two hidden layers of 1000 and rounds activations and gradients too.
"""
from __future__ import annotations

from torch import nn

from edgerun.tools.recipes import seeds
from edgerun.tools.train import loop

WIDTH = 256
# name -> <IL, FL> and whether at random
FORMATS = {
    "fp32": None,
    "<2,14> stochastic": (2, 14, True),
    "<2,14> nearest": (2, 14, False),
    "<8,8> stochastic": (8, 8, True),
    "<8,8> nearest": (8, 8, False),
}
COMMAND = "python -m edgerun.tools.recipes.rounding --train TRAIN.npz --test TEST.npz " \
          "--results docs/research"
PUBLISHED = [
    {"format": "fp32", "accuracy %": 98.6, "source": "paper, 2x1000 units (from memory)"},
    {"format": "16 bits, FL 14, stochastic", "accuracy %": 98.6,
     "source": "paper, 2x1000 units (from memory)"},
]
DIFFERS = [
    "Parameters are rounded after every step; activations and gradients stay fp32, while the "
    "paper rounds those too.",
    "256 units in each hidden layer instead of 1000.",
]


def network() -> nn.Sequential:
    """Return the network: image [N, 1, 28, 28] -> logits [N, 10]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH),
                         nn.ReLU(), nn.Linear(WIDTH, 10))


def run(name: str, seed: int, train: seeds.Labelled, test: seeds.Labelled, epochs: int) -> dict:
    """Train one network; returns what was measured."""
    loop.seeded(seed)
    result, form = network(), FORMATS[name]
    hooks = () if form is None else (loop.FixedPoint(*form),)
    losses = loop.train(result, *train, epochs=epochs, batch=100, rate=0.3, least=0.1, momentum=0.0,
                        seed=seed, hooks=hooks, log=None)
    return {"loss": round(losses[-1], 4), "accuracy %": loop.accuracy(result, *test)}


def main(argv: list[str] | None = None) -> int:
    """Run the recipe; returns the exit status."""
    return seeds.measure(argv, __doc__, "stochastic-rounding", column="format", ways=FORMATS,
                         epochs=3, run=run, command=COMMAND, published=PUBLISHED,
                         differs=lambda rows: DIFFERS)


if __name__ == "__main__":
    raise SystemExit(main())
