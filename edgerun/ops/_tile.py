"""How much of a convolution's output one work-item computes."""
from __future__ import annotations

from edgerun.ops._base import Facts

# Most vectors of output channels per work-item, by kind and lanes of a device: what its registers
# hold together with PIXELS.
MOST_VECTORS = {("cpu", 16): 4, ("cpu", 8): 2, ("cpu", 4): 4}
# Pixels per work-item by number of vectors, measured at 16 lanes, by dtype of the activations and
# how integers are summed; widening takes registers.
PIXELS = {"fp32": {1: 12, 2: 8, 3: 8, 4: 7}, "fp16": {1: 8, 2: 6, 3: 6, 4: 6},
          "uint8 vnni": {1: 12, 2: 8, 3: 8, 4: 5}, "uint8 float": {1: 12, 2: 8, 3: 6, 4: 5},
          "uint8 khr": {1: 8, 2: 6, 3: 6, 4: 4}, "uint8 plain": {1: 8, 2: 6, 3: 6, 4: 4},
          "int16 vnni": {1: 12, 2: 8, 3: 6, 4: 5}, "int16 plain": {1: 8, 2: 6, 3: 6, 4: 4},
          "wide": {1: 6, 2: 4, 3: 3, 4: 2},
          "fp32 weights": {1: 12, 2: 8, 3: 8, 4: 6}, "fp16 weights": {1: 8, 2: 6, 3: 6, 4: 6}}
# Time per multiply-accumulate by number of vectors, relative to 4: fewer broadcast more often.
COST = {1: 1.25, 2: 1.05, 3: 1.0, 4: 1.0}


def tile(facts: Facts, dtype: str, pixels: int, out_c: int) -> tuple[int, int, int]:
    """Return (P, NV, VEC): pixels, vectors and lanes of a work-item.

    Args:
        facts: of the device.
        dtype: of the activations; a key of PIXELS.
        pixels: output pixels of the whole op.
        out_c: output channels of a group.
    """
    vec = 4
    while vec < facts.lanes and vec < out_c:
        vec *= 2
    if vec > 4 and -(-out_c // (vec // 2)) == 3:
        vec //= 2  # three half vectors instead of two whole ones
    vectors = -(-out_c // vec)
    if facts.kind != "cpu":
        return min(4, pixels), min(2, vectors), vec

    def pixels_of(nv: int) -> int:
        most = PIXELS[dtype][nv] if facts.lanes == 16 else 6
        return most if pixels > 4 else 4 if pixels > 1 else 1  # few sizes: each is a program

    def time(nv: int) -> float:
        items = -(-vectors // nv) * -(-pixels // pixels_of(nv))
        return -(-items // facts.compute_units) * pixels_of(nv) * nv * COST[nv]

    most = MOST_VECTORS.get((facts.kind, facts.lanes), 2)
    nv = min(range(min(most, vectors), 0, -1), key=time)
    return pixels_of(nv), nv, vec
