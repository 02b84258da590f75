"""Fastfood: a dense layer that is three diagonals, a permutation and two fast transforms."""
from __future__ import annotations

import numpy as np

from edgerun.dtypes import FLOAT
from edgerun.ops._base import (
    Facts, Launch, OpLike, Outputs, Scratch, count, f32, i32, lanes_within, require, require_dtype,
    require_rank, require_same_dtype)
from edgerun.ops._quantized_io import grids, quantized, require_numbers, types
from edgerun.ops.elementwise import activation

PERM, BIAS = 4, 5  # inputs
ROUNDS = 4  # of the generator of permutations
MOST = 1 << 20  # numbers of a transform
SHORT = 1 << 15  # numbers of a transform whose permutation fits into int16
MOST_SCRATCH = 1 << 28  # numbers of all transforms
PARTED = 8192  # numbers of a transform that one core of a CPU does faster than several launches
CPU_RADIX, GPU_RADIX = 4, 3  # bits that a work-item of one of several launches does


def generator(seed: int, block: int) -> list[tuple[int, int]]:
    """Return the factor (odd) and the addend of every round of a block's permutation.

    From the numbers z that the linear congruential generator z <- 747796405 z + 2891336453 modulo
    2^32 gives, started at seed + 2654435769 (block + 1): the factor is z | 1 of an odd number of
    steps, the addend z of an even one, both with z ^ z >> 15 for z.
    """
    z, found = (seed + 2654435769 * (block + 1)) & 0xFFFFFFFF, []
    for _ in range(2 * ROUNDS):
        z = (747796405 * z + 2891336453) & 0xFFFFFFFF
        found.append(z ^ z >> 15)
    return [(factor | 1, addend) for factor, addend in zip(found[::2], found[1::2])]


def permutation(seed: int, blocks: int, d: int) -> np.ndarray:
    """Return the generated permutations of 0 .. d - 1, int32 [blocks, d], d = 2^k.

    Every round replaces i by (factor i + addend) modulo d, then by i ^ i >> ceil(k / 2): each is
    one to one on k bits, so that nothing has to be stored, or checked.
    """
    half = d.bit_length() // 2
    result = np.empty((blocks, d), np.int32)
    for block in range(blocks):
        i = np.arange(d, dtype=np.uint64)
        for factor, addend in generator(seed, block):
            i = (i * np.uint64(factor) + np.uint64(addend)) & np.uint64(d - 1)
            i ^= i >> np.uint64(half)
        result[block] = i
    return result


def infer_fastfood(op: OpLike) -> Outputs:
    """y has the shape of x but for the last axis, which has as many elements as `outputs` says."""
    x, b, g, s = op.inputs[:4]
    require_numbers(op)
    require(len(x.shape) >= 1, op, f"{x.name} is a scalar, needed at least 1 dimension")
    for t in (b, g, s):
        require_rank(t, 2, op)
        require_dtype(t, ("fp32",) if quantized(op) else FLOAT, op)
    require_same_dtype(op, *(() if quantized(op) else (x,)), b, g, s)
    blocks, d = b.shape
    require(2 <= d <= MOST and d & d - 1 == 0, op,
            f"{b.name} has the shape {b.shape}, needed a power of two of 2 to {MOST} in each row")
    require(tuple(g.shape) == tuple(s.shape) == (blocks, d), op,
            f"has diagonals of the shapes {b.shape}, {g.shape} and {s.shape}, needed equal ones")
    require(x.shape[-1] <= d, op,
            f"{x.name} has {x.shape[-1]} elements in a row, more than the {d} of a diagonal")
    outputs = op.options["outputs"]
    require(1 <= outputs and -(-outputs // d) == blocks, op,
            f"has {outputs} outputs of {blocks} blocks of {d}")
    perm, bias = (op.inputs[i] if i < len(op.inputs) else None for i in (PERM, BIAS))
    if perm is not None:
        require_dtype(perm, ("int16", "int32") if d <= SHORT else ("int32",), op)
        require(tuple(perm.shape) == (blocks, d), op,
                f"{perm.name} has the shape {perm.shape}, needed {(blocks, d)}")
    if bias is not None:
        require_dtype(bias, ("fp32",), op)
        require(tuple(bias.shape) == (outputs,), op,
                f"{bias.name} has the shape {bias.shape}, needed {(outputs,)}")
    samples = count(x.shape[:-1])
    require(samples * blocks * d <= MOST_SCRATCH, op,
            f"transforms {samples * blocks * d} numbers at once, at most {MOST_SCRATCH} fit")
    activation(op)
    return [((*x.shape[:-1], outputs), x.dtype)]


def check_permutations(op: OpLike, perm: np.ndarray) -> None:
    """Require that each row of a stored permutation holds every number of 0 .. d - 1 once.

    Raises:
        ModelError: one does not.
    """
    for block, row in enumerate(perm):
        require(np.array_equal(np.sort(row), np.arange(len(row))), op,
                f"block {block} of its permutation does not hold every number of 0 to "
                f"{len(row) - 1} once")


def fastfood_scratch(op: OpLike) -> int:
    """Return the bytes of u = H B x and of v = H G P u, fp32."""
    return 8 * count(op.inputs[0].shape[:-1]) * count(op.inputs[1].shape)


def fastfood_macs(op: OpLike) -> int:
    """Additions of both transforms."""
    d = op.inputs[1].shape[1]
    return 2 * count(op.inputs[0].shape[:-1]) * count(op.inputs[1].shape) * (d.bit_length() - 1)


def fastfood(op: OpLike, facts: Facts) -> list[Launch]:
    """y = activation(S H G P H B x + bias), block after block, cut off behind `outputs`.

    x [..., inputs] fp32, fp16, or quantized uint8, int16; b, g, s [blocks, d], the diagonals B, G
    and S of each block, of the type of x (fp32 beside integers), d a power of two and x filled up
    with zeros to it; perm [blocks, d] int16 or int32 constant, optional: (P u)_i = u_perm(i); bias
    [outputs] fp32 optional -> y [..., outputs]. H is the Walsh-Hadamard matrix divided by sqrt(d);
    blocks = ceil(outputs / d). Sums are fp32; integers are read as numbers, and written rounded,
    in registers.

    Without `perm` the permutations are made of `seed`: with z <- 747796405 z + 2891336453 modulo
    2^32 from seed + 2654435769 (block + 1) on, four rounds take two steps of z each, f = z xor
    z >> 15 | 1 of the first, a = z xor z >> 15 of the second, i <- (f i + a) modulo d, i <- i xor
    i >> ceil(log2(d) / 2). Scratch for two vectors of d fp32 per sample and block.
    Yang et al., "Deep Fried Convnets", 2014 (arXiv 1412.7149), with H divided by sqrt(d).
    """
    x, b, g, s = op.inputs[:4]
    perm, bias = (op.inputs[i] if i < len(op.inputs) else None for i in (PERM, BIAS))
    y, act = op.outputs[0], activation(op)
    (blocks, d), samples = b.shape, count(x.shape[:-1])
    vec = lanes_within(d, facts)
    defines = {**types(op), "VEC": vec, **act.defines}
    if perm is not None:
        defines["PERM"] = "ushort" if perm.dtype == "int16" else "uint"
    sizes = np.array([d, blocks, x.shape[-1], y.shape[-1], bias is not None,
                      np.uint32(op.options["seed"]).view(np.int32), 0, 0], np.int32)
    args = (x, b, g, s, perm or b, bias or b, y, Scratch(), Scratch(fastfood_scratch(op) // 2),
            sizes)
    rest = (f32(act.alpha), f32(act.beta), *grids(op))

    def launch(kernel: str, step: int, radix: int, size: tuple[int, ...]) -> Launch:
        return Launch("fastfood", kernel, {**defines, "LOG_RADIX": radix}, size,
                      (*args, i32(step), *rest), facts.one)

    if facts.kind == "cpu" and (d <= PARTED or blocks * samples >= facts.compute_units):
        return [launch("whole", 1, 0, (blocks, samples, 1))]
    vectors = d // vec
    radices = _radices(vectors.bit_length() - 1, CPU_RADIX if facts.kind == "cpu" else GPU_RADIX)
    kernels = [["start", *["on_u"] * (len(radices) - 1)],
               ["gather", *["on_v"] * (len(radices) - 2), "finish"]]
    if len(radices) == 1:
        kernels[1] = ["once"]
    launches = []
    for names in kernels:
        step = 1
        for name, radix in zip(names, radices):
            launches.append(launch(name, step, radix, (vectors >> radix, blocks, samples)))
            step <<= radix
    return launches


def _radices(bits: int, most: int) -> list[int]:
    """Return bits in as few parts of at most `most` as there can be, as even as they can be."""
    parts = max(1, -(-bits // most))
    return [(bits + part) // parts for part in range(parts)]
