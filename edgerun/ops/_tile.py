"""The one table of variants: how much of its output a work-item of a launch computes.

Kernels that can be cut in several ways (convolutions, dense layers, matrix products) ask choose()
with a Key and get a Variant: the choice tuned on this device, if there is one, or the default by
the rules below. An entry of ENTRIES has the default and the space of legal variants; to give a
kernel a new choice, add it to both.

Rules: P pixels x NV vectors of accumulators stay in registers; few different programs; on a CPU
enough work-items for all cores, elsewhere many small ones.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgerun.dtypes import FLOAT
from edgerun.ops._base import Facts, Key, Variant

# Most vectors of output channels per work-item, by kind and lanes of a device: what its registers
# hold together with PIXELS.
MOST_VECTORS = {("cpu", 16): 4, ("cpu", 8): 2, ("cpu", 4): 4}
# Pixels per work-item by number of vectors, measured at 16 lanes, by dtype of the activations and
# how integers are summed; widening takes registers.
PIXELS = {"fp32": {1: 12, 2: 8, 3: 8, 4: 7}, "fp16": {1: 8, 2: 6, 3: 6, 4: 6},
          "uint8 vnni": {1: 12, 2: 8, 3: 8, 4: 5}, "uint8 float": {1: 12, 2: 8, 3: 6, 4: 5},
          "uint8 khr": {1: 8, 2: 6, 3: 6, 4: 4}, "uint8 plain": {1: 8, 2: 6, 3: 6, 4: 4},
          "int16 vnni": {1: 12, 2: 8, 3: 6, 4: 5}, "int16 plain": {1: 8, 2: 6, 3: 6, 4: 4},
          "uint8 madd halves": {1: 8, 2: 6, 3: 5, 4: 4},
          "int16 madd": {1: 8, 2: 6, 3: 5, 4: 4},
          "int16 madd halves": {1: 8, 2: 6, 3: 5, 4: 4},
          "wide vnni": {1: 12, 2: 8, 3: 6, 4: 5}, "wide plain": {1: 6, 2: 4, 3: 3, 4: 2},
          "wide madd": {1: 8, 2: 6, 3: 5, 4: 4},
          "wide madd halves": {1: 8, 2: 6, 3: 5, 4: 4},
          "fp32 weights": {1: 12, 2: 8, 3: 8, 4: 6}, "fp16 weights": {1: 8, 2: 6, 3: 6, 4: 6}}
# The same on GPUs, where a work-item has few registers: what Intel's compiler holds there on all of
# its GPUs, see tools/offline.py. A kind, or how it begins.
GPU_PIXELS = {"fp32": {1: 4, 2: 2}, "fp16": {1: 4}, "fp32 weights": {1: 3}, "fp16 weights": {1: 3},
              "uint8": {1: 3, 2: 2}, "uint8 dp4a": {1: 4}, "uint8 khr": {1: 4}, "uint8 arm": {1: 4},
              "int16": {1: 3, 2: 2}, "wide": {1: 2}}
# Time per multiply-accumulate by number of vectors, relative to 4: fewer broadcast more often.
COST = {1: 1.25, 2: 1.05, 3: 1.0, 4: 1.0}
ITEMS = 24  # work-items of a convolution that a core should get
CHUNK = 32  # channels of a pixel that are widened from fp16 at a time
DEPTHWISE_PIXELS = {"real": 7, "integer": 8, "wide": 4}  # most per work-item
PACKED_ROWS = 128  # of kernels/matmul.cl and matmul_integer.cl
NARROW = 64  # channels: of so few, several rows of y share rows of x that fit into a cache
COLUMNS = 4  # of kernel matmul_dot
# Pixels of a work-item on a CPU, and elsewhere: planes decoded, counted, and of one bit.
DECODE_PIXELS, COUNT_PIXELS, XNOR_PIXELS = (12, 2), (2, 1), (8, 2)
POWERS_PIXELS = (6, 1)  # decoded, with two sums each
# The most planes that kernels/planes.cl takes, by signs; and up to how many pixels counting is
# faster where no instruction sums products of bytes: more share what is decoded.
DECODED, COUNTED = {"twos": 8, "magnitude": 8, "pairs": 7, "powers": 5}, 2


@dataclass(frozen=True)
class Entry:
    """A line of the table.

    Attributes:
        default: (key, facts) -> the variant that is taken untuned.
        axes: (key, facts) -> name of a choice -> its values, in order; every combination must be
            safe to run.
        fits: (key, facts, variant) -> whether registers hold it.
    """
    default: Callable[[Key, Facts], Variant]
    axes: Callable[[Key, Facts], dict[str, tuple[int, ...]]]
    fits: Callable[[Key, Facts, Variant], bool]


def choose(key: Key, facts: Facts) -> Variant:
    """Return the tuned variant of a launch if it is a legal one, else the default."""
    tuned = facts.choices.get(str(key))
    return tuned if tuned is not None and is_legal(key, facts, tuned) else default(key, facts)


def default(key: Key, facts: Facts) -> Variant:
    """Return the variant that is taken untuned."""
    return ENTRIES[key.entry].default(key, facts)


def axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    """Return the values of each choice, those of the default among them."""
    found, base = ENTRIES[key.entry].axes(key, facts), default(key, facts)
    return {name: tuple(sorted({*found.get(name, ()), value})) for name, value in base.values}


def is_legal(key: Key, facts: Facts, variant: Variant) -> bool:
    """Whether a variant is one of candidates()."""
    base, values = default(key, facts), axes(key, facts)
    return variant == base or (
        [name for name, _ in variant.values] == list(values)
        and all(value in values[name] for name, value in variant.values)
        and ENTRIES[key.entry].fits(key, facts, variant))


def candidates(key: Key, facts: Facts) -> list[Variant]:
    """Return all legal variants of a launch, the default first."""
    base, values = default(key, facts), axes(key, facts)
    return [base, *(v for v in _product(values) if v != base
                    and ENTRIES[key.entry].fits(key, facts, v))]


def _product(values: dict[str, tuple[int, ...]]) -> Iterator[Variant]:
    for combination in itertools.product(*values.values()):
        yield Variant(tuple(zip(values, combination)))


def _registers(facts: Facts) -> int:
    """Vector registers of a core; a guess where the device does not tell."""
    return {16: 32, 8: 16}.get(facts.lanes, 32)


def _lanes(facts: Facts, most: int) -> tuple[int, ...]:
    """Return the widths of vectors worth trying for so many elements: 4 to what the device has."""
    widest = facts.lanes if facts.kind == "cpu" else 8
    return tuple(n for n in (4, 8, 16) if n == 4 or n <= widest and n < 2 * most)


def _fits(key: Key, facts: Facts, variant: Variant) -> bool:
    """Accumulators, weights and one broadcast value, and a few more that may spill."""
    chosen = dict(variant.values)
    rows, vectors = chosen.get("P", chosen.get("ROWS", 1)), chosen.get("NV", 1)
    parts = -(-chosen.get("VEC", 1) // facts.lanes)
    return ((rows * vectors + vectors) * parts + 1) <= _registers(facts) + 4


def _rows_fit(key: Key, facts: Facts, variant: Variant) -> bool:
    """The sums of all rows of a work-item have their place in private memory."""
    return variant["ROWS"] * variant["tiles"] <= PACKED_ROWS


# Convolutions and dense layers: P pixels, NV vectors, VEC lanes, CHUNK channels widened at a time;
# over real numbers also `tiles` of a work-item.

def _with_tiles(key: Key, facts: Facts, variant: Variant) -> Variant:
    """Few work-items, since each costs as much as 300 vectors of multiply-adds, but enough."""
    if key.kind.split()[0] not in FLOAT:
        return variant
    tiles = -(-key["n"] * key["out_h"] * key["out_w"] // variant["P"])
    parts = -(-key["out_c"] // (variant["NV"] * variant["VEC"])) * key["groups"]
    each = tiles * parts // (ITEMS * facts.compute_units) if facts.kind == "cpu" else 1
    each = min(max(each, 1), tiles)
    return Variant((*variant.values, ("tiles", -(-tiles // -(-tiles // each)))))


def _conv(key: Key, facts: Facts) -> Variant:
    return _with_tiles(key, facts, _conv_tile(key, facts))


def _conv_tile(key: Key, facts: Facts) -> Variant:
    pixels, out_c = key["n"] * key["out_h"] * key["out_w"], key["out_c"]
    chunk = {"CHUNK": CHUNK} if facts.kind == "cpu" and key.kind.startswith("fp16") else {}
    vec, lanes = 4, max(4, facts.lanes // 2) if key.kind.endswith("halves") else facts.lanes
    while vec < lanes and vec < out_c:
        vec *= 2
    if vec > 4 and -(-out_c // (vec // 2)) == 3:
        vec //= 2  # three half vectors instead of two whole ones
    vectors = -(-out_c // vec)
    if facts.kind != "cpu":
        most = GPU_PIXELS.get(key.kind) or GPU_PIXELS[key.kind.split()[0]]
        nv = min(max(most), vectors)
        return Variant.of(P=min(most[nv], pixels), NV=nv, VEC=vec, **chunk)

    def pixels_of(nv: int) -> int:
        most = PIXELS[key.kind][nv] if facts.lanes == 16 else 6
        return most if pixels > 4 else 4 if pixels > 1 else 1  # few sizes: each is a program

    def time(nv: int) -> float:
        items = -(-vectors // nv) * -(-pixels // pixels_of(nv))
        return -(-items // facts.compute_units) * pixels_of(nv) * nv * COST[nv]

    most = MOST_VECTORS.get((facts.kind, facts.lanes), 2)
    nv = min(range(min(most, vectors), 0, -1), key=time)
    return Variant.of(P=pixels_of(nv), NV=nv, VEC=vec, **chunk)


def _conv_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    return {**_conv_tile_axes(key, facts),
            "tiles": (1, 2, 4, 8, 16) if facts.kind == "cpu" else (1,)}


def _conv_tile_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    pixels, out_c = key["n"] * key["out_h"] * key["out_w"], key["out_c"]
    return {"P": tuple(p for p in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14) if p <= pixels),
            "NV": tuple(nv for nv in (1, 2, 3, 4) if nv <= -(-out_c // 4)),
            "VEC": tuple(n for n in _lanes(facts, out_c)
                         if n <= 8 or not key.kind.endswith("halves")), "CHUNK": (16, 32, 64)}


# Integer convolutions and dense layers: the same, `tiles` times P pixels by a work-item.

def _conv_integer(key: Key, facts: Facts) -> Variant:
    base = _conv(key, facts)
    pixels = key["n"] * key["out_h"] * key["out_w"]
    items = -(-key["out_c"] // (base["NV"] * base["VEC"])) * -(-pixels // base["P"]) * key["groups"]
    # What a work-item has to find out first costs as much as some 100 vectors of products.
    tiles = max(1, min(8, items // (16 * facts.compute_units))) if facts.kind == "cpu" else 1
    return Variant.of(**dict(base.values), tiles=tiles)


def _conv_integer_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    found = _conv_axes(key, facts)
    found.pop("CHUNK")
    return {**found, "tiles": (1, 2, 4, 8, 16) if facts.kind == "cpu" else (1,)}


# Depthwise convolutions: ROWS of P pixels, VEC lanes, run channels of a work-item; of integers also
# `lines`, rows one after the other.

def _depthwise(key: Key, facts: Facts) -> Variant:
    vec, out_w, out_c = facts.lanes, key["out_w"], key["out_c"]
    while vec > out_c:
        vec //= 2
    lines = {} if key.kind == "real" else {"lines": 1}
    if facts.kind != "cpu":
        return Variant.of(P=min(2, out_w), ROWS=1, VEC=vec, run=vec, **lines)
    rows = 2 if _shares_rows(key, facts) and out_c <= NARROW and key["out_h"] > 1 else 1
    tiles = -(-out_w // DEPTHWISE_PIXELS[key.kind])
    items = -(-out_c // vec) * tiles * key["n"] * -(-key["out_h"] // rows)
    # A work-item costs as much as some 50 vectors of multiply-accumulates: make few, but enough.
    if lines:  # weights, and rows of x, are packed once for all of them
        most = max(1, min(8, key["out_h"], items // (8 * facts.compute_units)))
        lines["lines"] = -(-key["out_h"] // -(-key["out_h"] // most))
        items //= lines["lines"]
    return Variant.of(P=-(-out_w // tiles), ROWS=rows, VEC=vec,
                      run=vec * max(1, min(16, items // (16 * facts.compute_units))), **lines)


def _shares_rows(key: Key, facts: Facts) -> bool:
    """Whether a row of x that is loaded can serve several rows of y, see kernels/depthwise.cl."""
    return (facts.kind == "cpu" and key.kind == "real" and key["kernel_w"] in (3, 5)
            and all(key[f"dilation_{axis}"] % key[f"stride_{axis}"] == 0 for axis in "hw"))


def _depthwise_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    vec, out_c = default(key, facts)["VEC"], key["out_c"]
    return {"P": tuple(p for p in (1, 2, 3, 4, 5, 6, 7, 8, 10, 14) if p <= key["out_w"]),
            "ROWS": (1, 2, 3, 4) if _shares_rows(key, facts) else (1,),
            "lines": (1, 2, 4, 8, 16) if facts.kind == "cpu" else (1,),
            "run": tuple(vec * n for n in (1, 2, 4, 8, 16, 32) if vec * n < 2 * out_c)}


def _depthwise_fits(key: Key, facts: Facts, variant: Variant) -> bool:
    """Sums, a row of pixels and a weight."""
    pixels = variant["P"] * (variant["ROWS"] + (variant["ROWS"] > 1))
    return pixels * -(-variant["VEC"] // facts.lanes) + 1 <= _registers(facts) + 4


# Transposed convolutions: P pixels, VEC lanes, CHUNK channels widened at a time.

def _conv_transpose(key: Key, facts: Facts) -> Variant:
    lanes = 4
    while lanes < min(key["out_c"], facts.lanes):
        lanes *= 2
    chunk = {"CHUNK": CHUNK} if facts.kind == "cpu" and key.kind == "real" else {}
    per_phase = -(-key["out_w"] // key["stride_w"])
    return Variant.of(P=8 if facts.kind == "cpu" and per_phase > 4 else 4, VEC=lanes, **chunk)


def _conv_transpose_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    return {"P": (1, 2, 4, 6, 8, 12), "VEC": _lanes(facts, key["out_c"]), "CHUNK": (16, 32, 64)}


# Matrix products: ROWS computed at once, `tiles` of them by a work-item, NV vectors of VEC columns.
# Where b lies in rows along k, `packed` chooses between the kernels matmul_packed and matmul_dot.

def _tiles(key: Key, rows: int, columns: int, facts: Facts, most: int) -> int:
    """Return how often: many, but enough work-items, and a part of a that caches."""
    if facts.kind != "cpu":
        return 1
    tiles = -(-key["m"] // rows)
    others = -(-key["n"] // columns) * key["batch"]
    parts = min(tiles, max(1, -(-8 * facts.compute_units // others)))
    near = max(1, min(65_536 // key["k"], most) // rows)
    return min(-(-tiles // parts), near)


def _rows(key: Key, facts: Facts) -> int:
    return 1 if key["m"] < 3 else 8 if facts.lanes == 16 and key["m"] > 4 else 4


def _within(n: int, facts: Facts) -> int:
    return min(facts.lanes, 1 << (n.bit_length() - 1))


def _vectors(n: int, lanes: int, rows: int) -> int:
    """Return how many vectors of columns stay in registers: few where tiles would overlap."""
    for vectors in ((4, 2) if rows == 1 else (2,)):
        tiles = -(-n // (lanes * vectors)) * vectors
        if lanes * vectors <= n and tiles * lanes <= max(1.1 * n, -(-n // lanes) * lanes):
            return vectors
    return 1


def _matmul(key: Key, facts: Facts) -> Variant:
    rows, lanes = _rows(key, facts), _within(key["n"], facts)
    vectors = _vectors(key["n"], lanes, rows) if facts.kind == "cpu" else 1
    return Variant.of(ROWS=rows, NV=vectors, VEC=lanes,
                      tiles=_tiles(key, rows, lanes * vectors, facts, 2**30))


def _matmul_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    lanes = _within(key["n"], facts)
    return {"NV": tuple(nv for nv in (1, 2, 3, 4) if nv * lanes <= key["n"]),
            **_matmul_rows_axes(key, facts)}


def _matmul_rows(key: Key, facts: Facts) -> Variant:
    rows = _rows(key, facts)
    if facts.kind == "cpu" and key["m"] >= 8 and (key["n"] >= facts.lanes or key["step_k"] != 1):
        lanes = _within(key["n"], facts)
        return Variant.of(packed=1, ROWS=rows, VEC=lanes,
                          tiles=_tiles(key, rows, lanes, facts, PACKED_ROWS))
    rows = min(rows, 4)
    return Variant.of(packed=0, ROWS=rows, VEC=_within(key["k"], facts),
                      tiles=_tiles(key, rows, COLUMNS, facts, 2**30))


def _matmul_rows_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    return {"ROWS": tuple(r for r in (1, 2, 4, 6, 8) if r < 2 * key["m"]),
            "tiles": (1, 2, 4, 8, 16, 32) if facts.kind == "cpu" else (1,)}


def _matmul_integer(key: Key, facts: Facts) -> Variant:
    rows, lanes = _rows(key, facts), _within(key["n"], facts)
    return Variant.of(ROWS=rows, VEC=lanes,
                      tiles=_tiles(key, rows, lanes, facts, PACKED_ROWS))


# Layers over bit planes: P pixels, VEC lanes, `tiles` times P pixels by a work-item; `count`
# chooses between the kernels planes (0) and planes_count (1). Layers of one bit: no `count`.

def _planes(key: Key, facts: Facts) -> Variant:
    few = key["planes"] == 1 or key["n"] * key["out_h"] * key["out_w"] <= COUNTED
    counted = not _decodes(key) or few and key.kind.endswith("plain")
    most = DECODE_PIXELS if key.kind.split()[0] != "powers" else POWERS_PIXELS
    return _bits(key, facts, *((COUNT_PIXELS, 1) if counted else (most, 0)))


def _xnor(key: Key, facts: Facts) -> Variant:
    return _bits(key, facts, XNOR_PIXELS)


def _decodes(key: Key) -> bool:
    """Whether weights fit into bytes."""
    return key["planes"] <= DECODED[key.kind.split()[0]]


def _bits(key: Key, facts: Facts, most: tuple[int, int], *count: int) -> Variant:
    pixels, vec = key["n"] * key["out_h"] * key["out_w"], 4
    while vec < facts.lanes and vec < key["out_c"]:
        vec *= 2
    if vec > 4 and -(-key["out_c"] // (vec // 2)) == 3:
        vec //= 2  # three half vectors instead of two whole ones
    rows = most[facts.kind != "cpu"]
    while rows > 1 and rows >= 2 * pixels:
        rows //= 2
    items = -(-key["out_c"] // vec) * -(-pixels // rows) * key["groups"]
    tiles = max(1, min(8, items // (16 * facts.compute_units))) if facts.kind == "cpu" else 1
    chosen = Variant.of(P=rows, VEC=vec, tiles=tiles)
    return Variant((*chosen.values, ("count", count[0]))) if count else chosen


def _bits_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    pixels = key["n"] * key["out_h"] * key["out_w"]
    return {"P": tuple(p for p in (1, 2, 3, 4, 6, 8, 12) if p <= pixels),
            "VEC": _lanes(facts, key["out_c"]),
            "tiles": (1, 2, 4, 8, 16) if facts.kind == "cpu" else (1,)}


def _planes_axes(key: Key, facts: Facts) -> dict[str, tuple[int, ...]]:
    return {**_bits_axes(key, facts), "count": (0, 1) if _decodes(key) else (1,)}


def _bits_fit(key: Key, facts: Facts, variant: Variant) -> bool:
    """Sums of every pixel, 8 vectors of weights or one, a broadcast value and a few that spill."""
    counted = dict(variant.values).get("count")
    each, others = {None: (1, 2), 0: (1, 10), 1: (8, 2)}[counted]
    parts = -(-variant["VEC"] // facts.lanes)
    return (variant["P"] * each + others) * parts <= _registers(facts) + 4


ENTRIES = {
    "planes": Entry(_planes, _planes_axes, _bits_fit),
    "xnor": Entry(_xnor, _bits_axes, _bits_fit),
    "conv": Entry(_conv, _conv_axes, _fits),
    "conv_integer": Entry(_conv_integer, _conv_integer_axes, _fits),
    "depthwise": Entry(_depthwise, _depthwise_axes, _depthwise_fits),
    "conv_transpose": Entry(_conv_transpose, _conv_transpose_axes, _fits),
    "matmul": Entry(_matmul, _matmul_axes, _fits),
    "matmul_rows": Entry(_matmul_rows, _matmul_rows_axes, _rows_fit),
    "matmul_integer": Entry(_matmul_integer, _matmul_rows_axes, _rows_fit),
}
