"""The shapes of well-known networks: layer lists, batch normalization folded, no weights."""
from __future__ import annotations

from dataclasses import dataclass

from edgerun.tools.networks.layers import (
    Attention, Branches, Conv, Dense, Depthwise, Flatten, GlobalPool, LayerNorm, MeanToken, Pool,
    Residual, Tokens)

CLASSES = 1000
BRANCH = 0.5  # gain of the end of a residual branch, so that sums of many do not grow


def _basic(channels: int, stride: int, project: bool) -> Residual:
    return Residual([Conv(channels, 3, stride), Conv(channels, 3, activation="", gain=BRANCH)],
                    [Conv(channels, 1, stride, "")] if project else [], "relu")


def _bottleneck(channels: int, stride: int, project: bool) -> Residual:
    return Residual([Conv(channels), Conv(channels, 3, stride),
                     Conv(4 * channels, activation="", gain=BRANCH)],
                    [Conv(4 * channels, 1, stride, "")] if project else [], "relu")


def _resnet(block, counts: tuple[int, ...], expansion: int) -> list:
    """He et al., 2016: stages of 64, 128, 256, 512 channels; the stride is in the 3x3 layer."""
    layers = [Conv(64, 7, 2), Pool("Max", 3, 2, 1)]
    for stage, count in enumerate(counts):
        for number in range(count):
            first = number == 0
            layers.append(block(64 << stage, 2 if first and stage else 1,
                                first and (stage > 0 or expansion > 1)))
    return [*layers, GlobalPool(), Dense(CLASSES)]


# Howard et al., 2017: (channels, stride) of each separable layer
MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1),
                (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1))


def _mobilenet_v1() -> list:
    layers = [Conv(32, 3, 2, "relu6")]
    for channels, stride in MOBILENET_V1:
        layers += [Depthwise(3, stride, "relu6"), Conv(channels, activation="relu6")]
    return [*layers, GlobalPool(), Dense(CLASSES)]


# Sandler et al., 2018: (expansion, channels, count, stride) of each group of inverted residuals
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                (6, 160, 3, 2), (6, 320, 1, 1))


def _mobilenet_v2() -> list:
    layers, before = [Conv(32, 3, 2, "relu6")], 32
    for expansion, channels, count, stride in MOBILENET_V2:
        for number in range(count):
            step = stride if number == 0 else 1
            same = step == 1 and before == channels
            widen = [Conv(expansion * before, activation="relu6")] if expansion > 1 else []
            block = [*widen, Depthwise(3, step, "relu6"),
                     Conv(channels, activation="", gain=BRANCH if same else 1.0)]
            layers += [Residual(block)] if same else block
            before = channels
    return [*layers, Conv(1280, activation="relu6"), GlobalPool(), Dense(CLASSES)]


def _fire(squeeze: int, expand: int) -> list:
    return [Conv(squeeze), Branches([[Conv(expand)], [Conv(expand, 3)]])]


def _squeezenet() -> list:
    """Version 1.1 (Iandola et al., 2016)."""
    pool = Pool("Max", 3, 2, ceil=True)
    return [Conv(64, 3, 2, pad=0), pool, *_fire(16, 64), *_fire(16, 64), pool, *_fire(32, 128),
            *_fire(32, 128), pool, *_fire(48, 192), *_fire(48, 192), *_fire(64, 256),
            *_fire(64, 256), Conv(CLASSES), GlobalPool()]


def _alexnet() -> list:
    """The one-tower version (Krizhevsky, 2014)."""
    pool = Pool("Max", 3, 2)
    return [Conv(64, 11, 4, pad=2), pool, Conv(192, 5), pool, Conv(384, 3), Conv(256, 3),
            Conv(256, 3), pool, Flatten(), Dense(4096, "relu"), Dense(4096, "relu"),
            Dense(CLASSES)]


def _vgg16() -> list:
    """Configuration D (Simonyan and Zisserman, 2015)."""
    layers: list = []
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [Conv(channels, 3)] * count + [Pool("Max", 2, 2)]
    return [*layers, Flatten(), Dense(4096, "relu"), Dense(4096, "relu"), Dense(CLASSES)]


def _transformer(width: int, heads: int) -> list:
    """One block with the norms in front (Dosovitskiy et al., 2021)."""
    return [Residual([LayerNorm(), Attention(heads, BRANCH)]),
            Residual([LayerNorm(), Dense(4 * width, "gelu"), Dense(width, gain=BRANCH)])]


def _attention() -> list:
    """The first two blocks of a small vision transformer, with the ends of a whole one."""
    return [Conv(192, 16, 16, "", pad=0), Tokens(), *_transformer(192, 3), *_transformer(192, 3),
            LayerNorm(), MeanToken(), Dense(CLASSES)]


@dataclass(frozen=True)
class Network:
    """A network: its layers, its input [N, C, H, W] or [N, C], and its multiply-accumulates."""
    layers: list
    shape: tuple[int, ...]
    macs: int  # of convolutions, fully connected layers and products, at `shape`


IMAGE = (1, 3, 224, 224)
NETWORKS = {
    "resnet18": Network(_resnet(_basic, (2, 2, 2, 2), 1), IMAGE, 1_814_073_344),
    "resnet50": Network(_resnet(_bottleneck, (3, 4, 6, 3), 4), IMAGE, 4_089_184_256),
    "mobilenetv1": Network(_mobilenet_v1(), IMAGE, 568_740_352),
    "mobilenetv2": Network(_mobilenet_v2(), IMAGE, 300_774_272),
    "squeezenet": Network(_squeezenet(), IMAGE, 349_151_936),
    "alexnet": Network(_alexnet(), IMAGE, 714_188_480),
    "vgg16": Network(_vgg16(), IMAGE, 15_470_264_320),
    "mlp": Network([Dense(1024, "relu"), Dense(1024, "relu"), Dense(10)], (1, 784), 1_861_632),
    "attention": Network(_attention(), IMAGE, 232_005_120),
}
