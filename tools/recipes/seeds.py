"""Recipes that train one network in several ways: a row for each way and seed."""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence

import torch

from edgerun.tools.recipes import results
from edgerun.tools.train import data

Labelled = tuple[torch.Tensor, torch.Tensor]  # images [N, C, H, W] and labels [N]


def gain(rows: Sequence[results.Row], figure: str, column: str, name: str, other: str, least: str
         ) -> str:
    """Return a sentence on what one way gains in a figure in percent over another.

    Args:
        rows: with "seed", and the way's name in `column`.
        least: what was aimed at, in words.
    """
    numbers, means, gains = results.paired(rows, figure, column, (name, other))
    return (f"Mean {figure} over seeds {', '.join(map(str, numbers))}: {name} {means[0]:.2f}, "
            f"{other} {means[1]:.2f}; that is {means[0] - means[1]:+.2f} points "
            f"({', '.join(f'{each:+.2f}' for each in gains)}), where {least} was aimed at.")


def measure(argv: Sequence[str] | None, description: str, name: str, *, column: str,
            ways: Iterable[str], epochs: int,
            run: Callable[[str, int, Labelled, Labelled, int], results.Row], command: str,
            published: Iterable[results.Row],
            differs: Callable[[Sequence[results.Row]], Iterable[str]]) -> int:
    """Run a recipe as its command line says, for all ways with each seed; returns the exit status.

    Args:
        description: whose first line describes the command.
        name: of the file of results.
        column: of the row that names the way.
        epochs: unless the command line says another number.
        run: way, seed, training images, test images, epochs -> a row.
        command, published, differs: as in results.write().
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    results.add_argument(parser)
    args = parser.parse_args(argv)
    train, test, rows, ways = data.images(args.train), data.images(args.test), [], tuple(ways)
    started = time.perf_counter()
    for seed in args.seeds:
        for way in ways:
            rows.append({column: way, "seed": seed, **run(way, seed, train, test, args.epochs)})
            print(rows[-1], flush=True)
    results.write(args.results, name, command=command, seeds=args.seeds,
                  minutes=(time.perf_counter() - started) / 60, ours=rows, published=published,
                  differs=lambda all_rows: [*differs(all_rows), f"{args.epochs} epochs."],
                  merge=(column, "seed"))
    return 0
