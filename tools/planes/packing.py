"""What `edgerun pack` does for weights in bit planes: arguments, weights, modes."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgerun.errors import InputError
from edgerun.modes import MIXED
from edgerun.ops import OPS
from edgerun.ops.planes import MOST_PRODUCTS, REACH, middle
from edgerun.tools.graph import Graph, Op, Tensor
from edgerun.tools.planes.codes import Planes
from edgerun.tools.planes.integers import MOST, SIGNS, bounds
from edgerun.tools.planes.quantizer import quantize

LAYERS = ("conv2d", "dense")  # float weights of other layers stay integers without planes
MOST_SUM = 2**31  # of products with bytes of activations
WEIGHTED = (*LAYERS, "depthwise_conv2d", "conv_transpose2d")
LEVELS = 1  # input of an op with planes: its scales, offsets and biases


def parse_modes(text: str) -> dict[str, int]:
    """Return the modes of a line NAME=BITS,NAME=BITS,...

    Raises:
        InputError: it is something else, or a name comes twice.
    """
    modes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([^=,\s]+)\s*=\s*(\d+)\s*", part)
        if found is None:
            raise InputError(f"--modes {text!r}: {part.strip()!r} is no NAME=BITS, needed a line "
                             "such as low=4,high=8")
        if found[1] in modes:
            raise InputError(f"--modes {text!r}: the mode {found[1]!r} is given twice")
        modes[found[1]] = int(found[2])
    return modes


def check(bits: int | None, signs: str | None, modes: Mapping[str, int], precision: str) -> None:
    """Check what the user asks for, before anything is read.

    Raises:
        InputError: it cannot be done.
    """
    if signs is not None and signs not in SIGNS:
        raise InputError(f"signs {signs!r} are not available, needed one of {', '.join(SIGNS)}")
    if bits is None:
        if signs is not None:
            raise InputError(f"--signs {signs} says how weights become planes: needed --bits too")
    else:
        if precision not in ("int8", "int16"):
            raise InputError(f"--bits {bits} stores weights as planes that multiply integers, not "
                             f"numbers of precision {precision}: needed --precision int8 or int16 "
                             "for the activations, and --calibration")
        most = MOST[signs or "twos"]
        least = 2 if signs == "magnitude" else 1
        if not least <= bits <= most:
            raise InputError(f"--bits {bits} is not available with the signs {signs or 'twos'}, "
                             f"needed {least} to {most}")
    if modes and precision == "mixed":
        raise InputError("--modes are of weights in planes, which --precision mixed does not make: "
                         "needed another precision")
    for name, planes in modes.items():
        if not name or name.isdigit():
            raise InputError(f"mode {name!r}: needed a name that is no number")
        if name == MIXED:
            raise InputError(f"mode {name!r}: needed another name: sessions say this one where "
                             "ops count planes as no mode does")
        if planes < 1:
            raise InputError(f"mode {name!r} uses {planes} planes, needed 1 or more")
        if bits is not None and planes > bits:
            raise InputError(f"mode {name!r} uses {planes} planes, but --bits {bits} stores {bits}")


def weights_of(bits: int | None, signs: str | None, modes: Mapping[str, int] | None
               ) -> Callable[[Op], tuple[np.ndarray, Planes] | None]:
    """Return the function that makes planes of the float weights of a layer, for quantize.insert().

    The planes are best for the modes; without modes for every number of planes from 2 on. Without
    bits there are none.
    """
    if bits is None:
        return lambda op: None
    signs = signs or "twos"
    largest = max(map(abs, bounds(bits, signs)))

    def planes(op: Op) -> tuple[np.ndarray, Planes] | None:
        w = op.inputs[1].data
        if (op.code not in LAYERS or w[0].size > MOST_PRODUCTS
                or w[0].size * REACH * largest >= MOST_SUM):
            return None
        return quantize(w, bits, signs, sorted({*(modes or {}).values()}) or None)

    return planes


def finish(graph: Graph, modes: Mapping[str, int], given: bool = False) -> None:
    """Give a lowered graph its modes, and keep of scales and biases what they need.

    An op that has fewer planes than a mode asks for uses all it has. Without modes every number of
    planes may be set.

    Args:
        graph: changed in place.
        modes: name -> planes that count.
        given: whether the source model has weights in planes.

    Raises:
        InputError: the graph has no planes, or none of its ops as many as a mode uses.
    """
    planes = graph.planes()
    if modes:
        _check_modes(planes, modes, given)
        graph.modes = {name: {used: min(bits, count) for used, count in planes.items()}
                       for name, bits in modes.items()}
    for op in graph.ops:
        at = OPS[op.code].used
        if at < 0 or op.inputs[at] not in planes:
            continue
        levels, most = op.inputs[LEVELS], len(OPS[op.code].planes(op))
        held = list(op.options["counts"] or range(most + 1 - len(levels.data), most + 1))
        counts = sorted({mode[op.inputs[at]] for mode in graph.modes.values()}) if modes else held
        rows = levels.data[[held.index(count) for count in counts]]
        op.inputs[LEVELS] = graph.constant(
            without_offsets(rows, counts, op.options["signs"], most), levels.name)
        if counts != list(range(counts[0], most + 1)):
            op.options["counts"] = tuple(counts)


def without_offsets(levels: np.ndarray, counts: Sequence[int], signs: str, most: int
                    ) -> np.ndarray:
    """Return levels without the offsets, [R, 2, OC], where those are middle() but for rounding.

    Args:
        levels: fp32 [R, 3, OC], of so many planes each; or what this function returned.
        signs, most: of all planes.
    """
    if levels.shape[1] == 2:
        return levels
    scales = levels[:, 0].astype(np.float64)
    means = np.array([[middle(signs, most, count)] for count in counts])
    return levels[:, ::2] if np.allclose(levels[:, 1], scales * means, 2**-23, 0) else levels


def _check_modes(planes: Mapping[Tensor, int], modes: Mapping[str, int], given: bool) -> None:
    if not planes and given:
        raise InputError("--modes says how many planes of the weights count, and the layers whose "
                         "weights are planes (BitPlanes) compute with real numbers or with signs: "
                         "needed activations that are integers, by --precision int8 or int16 and "
                         "--calibration, or by QuantizeLinear and DequantizeLinear in the model")
    if not planes:
        raise InputError("--modes says how many planes of the weights count, and the model has "
                         "none: needed --bits N, or a model with weights in planes (BitPlanes)")
    most = max(planes.values())
    for name, bits in modes.items():
        if bits > most:
            raise InputError(f"mode {name!r} uses {bits} planes, but the weights have {most} at "
                             "most")


def left_out(graph: Graph) -> list[str]:
    """Return a note of the layers of a lowered graph whose weights are integers without planes."""
    names = [op.name for op in graph.ops if op.code in WEIGHTED and op.inputs[1].constant
             and op.inputs[1].dtype in ("int8", "int16")]
    return [f"{len(names)} layers have integer weights without planes, which dense layers and "
            "convolutions take that are neither depthwise nor transposed, and whose sums fit into "
            "32 bits: "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}."] if names else []
