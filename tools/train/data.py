"""Images and labels of .npz files and of folders of JPEGs, and light augmentation."""
from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from edgerun.errors import InputError


def images(path: str | Path, limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images fp32 [N, C, H, W] in 0..1 and labels int64 [N].

    Args:
        path: .npz with `images` uint8 [N, H, W] or [N, H, W, C] and `labels` [N], or .zip of
            JPEGs in folders <label>_<name>/.
        limit: only so many, the first ones.

    Raises:
        InputError: the file holds something else.
    """
    if Path(path).suffix == ".zip":
        pixels, labels = _zipped(path)
    else:
        with np.load(path) as arrays:
            if not {"images", "labels"} <= set(arrays.files):
                raise InputError(f"{path}: holds {arrays.files}, needed images and labels")
            pixels, labels = arrays["images"], arrays["labels"]
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or labels.shape != pixels.shape[:1]:
        raise InputError(f"{path}: images {pixels.dtype} {pixels.shape}, labels {labels.shape}; "
                         "needed images uint8 [N, H, W] or [N, H, W, C] and labels [N]")
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    x = torch.from_numpy(np.ascontiguousarray(pixels[:limit])).float() / 255
    return x, torch.from_numpy(labels[:limit].astype(np.int64))


def _zipped(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image
    pixels, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            label = re.match(r"(\d+)_[^/]*/[^/]+\.jpe?g$", name)
            if label:
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    pixels.append(np.asarray(image.convert("RGB")))
                labels.append(int(label[1]))
    if not pixels:
        raise InputError(f"{path}: holds no JPEG in a folder <label>_<name>/")
    return np.stack(pixels), np.asarray(labels)


def shifted(x: torch.Tensor, reach: int = 2) -> torch.Tensor:
    """Shift each image by up to `reach` pixels, zeros moving in; x [N, C, H, W]."""
    count, _, height, width = x.shape
    padded = functional.pad(x, (reach,) * 4)
    rows = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(height).view(1, -1, 1)
    columns = torch.randint(0, 2 * reach + 1, (count, 1, 1)) + torch.arange(width).view(1, 1, -1)
    moved = padded.permute(0, 2, 3, 1)[torch.arange(count).view(-1, 1, 1), rows, columns]
    return moved.permute(0, 3, 1, 2).contiguous()


def mirrored(x: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images; x [N, C, H, W]."""
    return torch.where((torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)
