"""Trained networks that stay in a folder: a recipe that was stopped goes on where it was."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


class Kept:
    """Networks of one run of a recipe, each in a file of its own.

    Attributes:
        folder: of the files, PyTorch's; only files of one's own should be in it, since loading one
            runs code.
        run: in front of the names of the files: recipe and seed, so that no other run takes them.
        again: whether files of an earlier run are taken.
        seconds: that the trainings took, those of earlier runs included.
    """

    def __init__(self, folder: Path, recipe: str, seed: int, again: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.again, self.seconds = folder, again, 0.0
        self.run = f"{recipe}-{seed}"

    def __call__(self, name: str, train: Callable[[], nn.Module]) -> nn.Module:
        """Return the network of this name: from its file, or trained now."""
        path = self.folder / f"{self.run}-{name.replace(' ', '-')}.pt"
        if not (self.again and path.is_file()):
            started = time.perf_counter()
            network = train()
            torch.save({"network": network, "seconds": time.perf_counter() - started}, path)
        found = torch.load(path, weights_only=False)
        self.seconds += found["seconds"]
        return found["network"].eval()
