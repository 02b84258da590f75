"""Train the demo's network on Fashion-MNIST and write everything that tools/demo_data holds.

    pip install "edgerun[train]"
    python -m edgerun.tools.recipes.fashion_mnist --train TRAIN.npz --test TEST.npz --out DIR

Both .npz files have `images` uint8 [N, 28, 28] and `labels` [N] in 0..9. The test images are looked
at once, after the last epoch: nothing is selected by them.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
           "Bag", "Ankle boot")
NAME = "fashion_mnist"


def separable(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return a depthwise-separable block: x [N, C, H, W] -> [N, OUT_C, H/stride, W/stride].

    Howard et al., "MobileNets", 2017, figure 3 (right).
    """
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels), nn.ReLU())


class Residual(nn.Module):
    """x + separable(x), shapes unchanged."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = separable(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


class Network(nn.Sequential):
    """A small MobileNet-like classifier: image [N, 1, 28, 28] in 0..1 -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            separable(32, 64, 2), Residual(64),
            separable(64, 128, 2), Residual(128),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, len(CLASSES)))


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, 28, 28] and labels int64 [N] of an .npz file."""
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise SystemExit(f"{path}: images {images.dtype} {images.shape}, labels {labels.shape}; "
                         "needed images uint8 [N, 28, 28] and labels [N]")
    return images, labels


def as_input(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 28, 28] -> fp32 [N, 1, 28, 28] in 0..1."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def augment(x: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images and shift each by up to two pixels; x [N, 1, 28, 28]."""
    count, reach = len(x), 2
    mirrored = (torch.rand(count) < 0.5).view(-1, 1, 1, 1)
    padded = functional.pad(torch.where(mirrored, x.flip(-1), x), (reach,) * 4)
    rows = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(28).view(1, -1, 1)
    columns = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(28).view(1, 1, -1)
    return padded[torch.arange(count).view(-1, 1, 1), 0, rows, columns].unsqueeze(1)


def train(network: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int,
          batch: int) -> None:
    """Train in place: AdamW, one cycle of the learning rate (Smith and Topin, 2017)."""
    x, y = as_input(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.008, epochs=epochs, steps_per_epoch=len(x) // batch)
    for epoch in range(epochs):
        started, losses = time.perf_counter(), []
        network.train()
        order = torch.randperm(len(x))
        for at in range(0, len(x) - batch + 1, batch):
            chosen = order[at:at + batch]
            loss = functional.cross_entropy(network(augment(x[chosen])), y[chosen],
                                            label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}, "
              f"{time.perf_counter() - started:.1f} s", flush=True)


def predict(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return the predicted class of each image, int64 [N]."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in as_input(images).split(500)]).numpy()


def export(network: nn.Module, path: Path) -> None:
    """Write the network with a softmax behind it as ONNX opset 13, batch 1."""
    model = nn.Sequential(network, nn.Softmax(1)).eval()
    with warnings.catch_warnings():
        # The newer exporter needs one more package; this one is deprecated but writes what we need.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(model, (torch.zeros(1, 1, 28, 28),), str(path), dynamo=False,
                          opset_version=13, input_names=["image"],
                          output_names=["probabilities"])


def main(argv: list[str] | None = None) -> int:
    """Train, measure, export; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, metavar="NPZ", help="training images and labels")
    parser.add_argument("--test", required=True, metavar="NPZ", help="test images and labels")
    parser.add_argument("--out", required=True, metavar="DIR", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--demo-images", type=int, default=400,
                        help="how many test images to store beside the model (default 400)")
    args = parser.parse_args(argv)

    torch.manual_seed(args.seed)
    train_images, train_labels = load(args.train)
    test_images, test_labels = load(args.test)
    network = Network()
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, {len(train_images)} training images", flush=True)
    started = time.perf_counter()
    train(network, train_images, train_labels, args.epochs, args.batch)
    seconds = time.perf_counter() - started
    predicted = predict(network, test_images)
    right = predicted == test_labels

    args.out.mkdir(parents=True, exist_ok=True)
    model = args.out / f"{NAME}.onnx"
    export(network, model)
    count = args.demo_images
    np.savez_compressed(args.out / f"{NAME}_images.npz", images=test_images[:count],
                        labels=test_labels[:count].astype(np.uint8),
                        predictions=predicted[:count].astype(np.uint8))
    facts = {
        "model": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "classes": CLASSES,
        "parameters": parameters,
        "training_images": len(train_images),
        "epochs": args.epochs,
        "batch": args.batch,
        "seed": args.seed,
        "training_seconds": round(seconds),
        "torch": torch.__version__,
        "test_images": len(test_images),
        "test_correct": int(right.sum()),
        "demo_images": int(len(right[:count])),
        "demo_correct": int(right[:count].sum()),
    }
    (args.out / f"{NAME}.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{right.sum()} of {len(right)} test images right ({right.mean():.2%}), "
          f"{seconds:.0f} s; wrote {model}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
