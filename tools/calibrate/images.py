"""How an image file becomes the input of a model, written as one line of text.

The line is KEY=VALUE,KEY=VALUE,...; numbers of a list are separated by spaces, and a number may be
a fraction: ``size=224,crop=center,color=rgb,scale=1/255,mean=0.485 0.456 0.406,std=0.229 0.224
0.225``. The steps run in this order, each with its default:

| key | value | default | meaning |
|---|---|---|---|
| `color` | `rgb`, `bgr`, `gray` | `rgb`, for 1 channel `gray` | order of the channels |
| `resize` | N | the shorter side of `size` | `crop=center`: the shorter side of the image first |
| `size` | N or HxW | of the input | pixels of what the model gets |
| `crop` | `center`, `none` | `center` | cut the middle out; `none`: stretch to `size` |
| `filter` | `nearest`, `bilinear`, `bicubic`, `box` | `bilinear` | of the resizing |
| `scale` | number | 1 | multiplies the 0..255 of the image |
| `mean` | 1 or a number per channel | 0 | subtracted, after `scale`, in the order of `color` |
| `std` | 1 or a number per channel | 1 | divides, after `mean` |
| `layout` | `nchw`, `nhwc`, `chw`, `hwc`, `nhw`, `hw` | by the input's shape | order of the axes |
| `input` | name | the only one of an image's shape | the input that takes the images |

Integer inputs get the rounded values, limited to their dtype.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from edgerun.errors import EdgerunError, InputError
from edgerun.model import TensorInfo

COLORS = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}  # to the mode in which Pillow reads
CROPS = ("center", "none")
FILTERS = ("nearest", "bilinear", "bicubic", "box")
LAYOUTS = ("nchw", "nhwc", "chw", "hwc", "nhw", "hw")
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Preprocess:
    """The fields of a preprocessing line; see the head of this module.

    Attributes:
        size: (height, width) in pixels; None for that of the input.
        resize: pixels of the shorter side before the crop; 0 for the smallest that fills `size`.
        crop, color, filter, layout, input: as in the line; "" for the default.
        scale: multiplies each value.
        mean, std: one value, or one per channel.
    """
    size: tuple[int, int] | None = None
    resize: int = 0
    crop: str = "center"
    color: str = ""
    filter: str = "bilinear"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = ""
    input: str = ""

    @classmethod
    def parse(cls, line: str) -> Preprocess:
        """Read a preprocessing line.

        Raises:
            InputError: says what is wrong with which part of it.
        """
        values: dict[str, object] = {}
        known = [field.name for field in fields(cls)]
        for part in filter(None, (part.strip() for part in line.split(","))):
            key, equals, text = (piece.strip() for piece in part.partition("="))
            if key not in known:
                raise InputError(f"preprocessing: {part!r} is not KEY=VALUE with a key of "
                                 f"{', '.join(known)}")
            if not equals or not text:
                raise InputError(f"preprocessing: {key} has no value, needed {key}=VALUE")
            if key in values:
                raise InputError(f"preprocessing: {key} is given twice")
            values[key] = _VALUE[key](key, text)
        made = cls(**values)
        if made.crop == "none" and made.resize:
            raise InputError("preprocessing: resize is for crop=center, with crop=none the image "
                             "is stretched to size")
        if made.size and 0 < made.resize < min(made.size):
            raise InputError(f"preprocessing: resize={made.resize} leaves too little to cut "
                             f"{made.size[0]}x{made.size[1]} pixels out")
        return made

    def batch(self, files: Sequence[Path], info: TensorInfo) -> np.ndarray:
        """Return images as one input: shape and dtype of `info`, an image per index of axis n.

        Raises:
            InputError: an image cannot be read, or does not become what the input needs.
        """
        layout, height, width, channels = self._target(info)
        images = np.stack([self._image(path, height, width, channels) for path in files])
        order = ["nhwc".index(axis) for axis in layout]
        left = [axis for axis in range(4) if axis not in order]
        array = images.transpose(*left, *order).reshape(info.shape)
        if info.dtype.kind in "iu":
            limits = np.iinfo(info.dtype)
            array = np.clip(np.rint(array), limits.min, limits.max)
        return np.ascontiguousarray(array, info.dtype)

    def batch_of(self, info: TensorInfo) -> int:
        """Return how many images one input holds.

        Raises:
            InputError: the input cannot take images.
        """
        layout = self._target(info)[0]
        return info.shape[0] if layout.startswith("n") else 1

    def _target(self, info: TensorInfo) -> tuple[str, int, int, int]:
        """Return the layout, height, width and channels of the input."""
        if info.dtype.kind not in "fiu":
            raise InputError(f"input {info.name!r}: is {info.dtype}, images need numbers")
        layout = self.layout or _layout_of(info)
        if len(layout) != len(info.shape):
            raise InputError(f"preprocessing: layout={layout} is of {len(layout)} axes, the input "
                             f"{info.name!r} has the shape {info.shape}")
        sizes = dict(zip(layout, info.shape))
        height, width, channels = sizes["h"], sizes["w"], sizes.get("c", 1)
        needed = {"rgb": 3, "bgr": 3, "gray": 1}.get(self.color)
        if channels not in CHANNELS or needed not in (None, channels):
            raise InputError(
                f"preprocessing: the input {info.name!r} has the shape {info.shape} and with "
                f"layout={layout} {channels} channels, needed "
                + (f"{needed} for color={self.color}" if needed else "1 or 3"))
        if self.size not in (None, (height, width)):
            raise InputError(f"preprocessing: size={self.size[0]}x{self.size[1]}, the input "
                             f"{info.name!r} has {height}x{width} pixels in layout={layout}")
        if 0 < self.resize < min(height, width):
            raise InputError(f"preprocessing: resize={self.resize} leaves too little to cut the "
                             f"{height}x{width} pixels of {info.name!r} out")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(f"preprocessing: {key} has {len(values)} numbers, needed 1 or "
                                 f"the {channels} of the channels of {info.name!r}")
        return layout, height, width, channels

    def _image(self, path: Path, height: int, width: int, channels: int) -> np.ndarray:
        """Return one image, fp32 [height, width, channels]."""
        try:
            from PIL import Image
        except ImportError:
            raise EdgerunError("the Python package 'PIL' is missing, which reads images: pip "
                               "install Pillow") from None
        resample = Image.Resampling[self.filter.upper()]
        color = self.color or ("gray" if channels == 1 else "rgb")
        try:
            with Image.open(path) as image:
                mode, image = image.mode, image.convert(COLORS[color])
        except Exception as error:  # Pillow's decoders raise many kinds, on purpose and not
            raise InputError(f"{path}: cannot be read as an image ({error})") from None
        if mode[0] in "IF":  # conversion would cut the values off at 255
            raise InputError(f"{path}: has more than 8 bits per channel (Pillow's mode {mode}), "
                             "needed 8")
        if self.crop == "none":
            pixels = image.resize((width, height), resample)
        else:
            pixels = _center(image, height, width, self.resize, resample)
        values = np.asarray(pixels, np.float32).reshape(height, width, channels)
        if color == "bgr":
            values = values[..., ::-1]
        return (values * np.float32(self.scale) - np.float32(self.mean)) / np.float32(self.std)


def _center(image, height: int, width: int, shorter: int, resample):
    """Scale an image so that its shorter side is `shorter`, and cut the middle out.

    With 0, or where an elongated image would be too small that way, the least scale that fills
    height and width is taken.
    """
    factor = max(height / image.height, width / image.width,
                 shorter / min(image.height, image.width))
    size = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    if size != image.size:
        image = image.resize(size, resample)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _layout_of(info: TensorInfo) -> str:
    """Return the only layout of that rank in which the input has 1 or 3 channels."""
    fitting = [layout for layout in LAYOUTS if len(layout) == len(info.shape)
               and dict(zip(layout, info.shape)).get("c", 1) in CHANNELS]
    fitting = [layout for layout in fitting if "c" in layout] or fitting
    if len(fitting) != 1:
        raise InputError(f"input {info.name!r}: the shape {info.shape} does not say where height, "
                         "width and 1 or 3 channels are; needed layout=... in the preprocessing "
                         f"line, one of {', '.join(LAYOUTS)}")
    return fitting[0]


def _size(key: str, text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    return _pixels(key, height), _pixels(key, width if x else height)


def _pixels(key: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"preprocessing: {key}={text}, needed a number of pixels"
                         + (" N or HxW" if key == "size" else ""))
    return number


def _one_of(*choices: str):
    def choose(key: str, text: str) -> str:
        if text.lower() not in choices:
            raise InputError(f"preprocessing: {key}={text}, needed one of {', '.join(choices)}")
        return text.lower()
    return choose


def _numbers(key: str, text: str) -> tuple[float, ...]:
    values = tuple(_number(key, word) for word in text.split())
    if key == "std" and 0 in values:
        raise InputError("preprocessing: std holds 0, and values are divided by it")
    return values


def _number(key: str, text: str) -> float:
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"preprocessing: {key}={text}, needed a number or a fraction like 1/255")
    return value


_VALUE = {
    "size": _size, "resize": _pixels, "crop": _one_of(*CROPS), "color": _one_of(*COLORS),
    "filter": _one_of(*FILTERS), "scale": _number, "mean": _numbers, "std": _numbers,
    "layout": _one_of(*LAYOUTS), "input": lambda key, text: text,
}
