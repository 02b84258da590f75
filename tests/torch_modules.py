"""PyTorch modules for tests; needs PyTorch. Run as `python -m tests.torch_modules` to write
tests/data/crnn.onnx and crnn.npz, with which the tests run where PyTorch is not installed."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

DATA = Path(__file__).parent / "data"
SHAPE = (1, 1, 96, 1366)  # log-mel spectrogram: 96 bands, 29 s


class Crnn(nn.Module):
    """Music tagging with a convolutional recurrent network (arXiv 1609.04243), quarter width.

    x [N, 1, 96, 1366] -> the probability of each of 50 tags.
    """

    def __init__(self, part: int = 4):
        super().__init__()
        widths = [1, 64 // part, 128 // part, 128 // part, 128 // part]
        self.bands = nn.BatchNorm2d(96)  # over the frequencies: not foldable through zero padding
        self.blocks = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ELU(),
                          nn.MaxPool2d(pool), nn.Dropout(0.1))
            for before, after, pool in zip(widths, widths[1:], (2, 3, 4, 4))))
        self.first = nn.GRU(widths[-1], 32, batch_first=True)
        self.second = nn.GRU(32, 32, batch_first=True)
        self.tags = nn.Linear(32, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.pad(x, (37, 37))  # 1440 steps
        x = self.blocks(self.bands(x.transpose(1, 2)).transpose(1, 2))
        x, _ = self.first(x.squeeze(2).transpose(1, 2))  # [N, 15, channels]
        x, _ = self.second(x)
        return torch.sigmoid(self.tags(functional.dropout(x[:, -1], 0.3, self.training)))


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in evaluation mode with random weights and statistics that differ."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            value.data = 2 * noise / value[0].numel() ** 0.5  # inputs must matter
        elif name.endswith("var") or name.endswith("weight"):
            value.data = 1 + 0.2 * torch.tanh(noise)
        else:
            value.data = 0.2 * noise
    return module.eval()


def spectrogram(seed: int) -> np.ndarray:
    """Return a random input of the CRNN."""
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def main() -> None:
    """Write the exported CRNN, and what PyTorch computes with it."""
    from edgerun.tools import pytorch
    module = randomized(Crnn())
    DATA.mkdir(exist_ok=True)
    pytorch._export(torch, module, (torch.zeros(SHAPE),), {}, DATA / "crnn.onnx", ["x"], ["tags"])
    model = onnx.load(DATA / "crnn.onnx")
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input,
                 *model.graph.output, *model.graph.initializer):
        part.ClearField("metadata_props")  # where in which file of this machine it came from
    onnx.save(model, DATA / "crnn.onnx")
    with torch.no_grad():
        tags = [module(torch.from_numpy(spectrogram(seed))).numpy() for seed in (0, 1)]
    np.savez_compressed(DATA / "crnn.npz", tags=np.stack(tags))


if __name__ == "__main__":
    main()
