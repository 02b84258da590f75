"""Ops that move elements, and the arithmetic of shapes."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tflite

from edgerun.quantization import dequantize
from edgerun.tools.graph import Tensor
from edgerun.tools.importers.tflite.context import Context, Rule
from edgerun.tools.importers.tflite.source import SourceOp


def concatenation(ctx: Context, op: SourceOp) -> Tensor:
    """Along one axis."""
    parts = [ctx.input(op, number) for number in range(len(op.inputs))]
    axis = ctx.axis(op, op.option("Axis"), len(parts[0].shape))
    y = parts[0] if len(parts) == 1 else ctx.add("concat", parts, op, axis=axis)
    return ctx.activate(y, op)


def _pieces(ctx: Context, op: SourceOp, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
    """Cut x along an axis."""
    if sum(sizes) != x.shape[axis] or min(sizes) < 1:
        raise ctx.damaged(op, f"axis {axis} of {x.shape} into the sizes {list(sizes)}")
    pieces, start = [], 0
    for size in sizes:
        starts = [start if k == axis else 0 for k in range(len(x.shape))]
        pieces.append(ctx.slice(x, starts, [size if k == axis else n
                                            for k, n in enumerate(x.shape)], op))
        start += size
    return pieces


def split(ctx: Context, op: SourceOp) -> list[Tensor]:
    """Axis, x: equal parts."""
    x, axes = ctx.input(op, 1), ctx.ints(op, 0, "the axis")
    axis, parts = ctx.axis(op, axes[0], len(x.shape)), op.option("NumSplits")
    if parts < 1 or x.shape[axis] % parts:
        raise ctx.damaged(op, f"axis {axis} of {x.shape} into {parts} equal parts")
    return _pieces(ctx, op, x, axis, [x.shape[axis] // parts] * parts)


def split_v(ctx: Context, op: SourceOp) -> list[Tensor]:
    """x, sizes, axis; one size may be -1."""
    x, sizes = ctx.input(op, 0), ctx.ints(op, 1, "the sizes")
    axis = ctx.axis(op, ctx.ints(op, 2, "the axis")[0], len(x.shape))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    return _pieces(ctx, op, x, axis, sizes)


def slice_(ctx: Context, op: SourceOp) -> Tensor:
    """x, begin, size; a size of -1 runs to the end."""
    x, begin, size = ctx.input(op, 0), ctx.ints(op, 1, "begin"), ctx.ints(op, 2, "size")
    if not len(begin) == len(size) == len(x.shape):
        raise ctx.damaged(op, f"begin {begin} and size {size} of {x.shape}")
    size = [n - start if count == -1 else count for n, start, count in zip(x.shape, begin, size)]
    if any(start < 0 or count < 0 or start + count > n
           for n, start, count in zip(x.shape, begin, size)):
        raise ctx.damaged(op, f"begin {begin} and size {size} lie outside {x.shape}")
    return ctx.slice(x, begin, size, op)


def strided_slice(ctx: Context, op: SourceOp) -> Tensor:
    """x, begin, end, strides with five masks, one bit per entry of begin."""
    x = ctx.input(op, 0)
    begin, end, strides = (ctx.ints(op, number, what)
                           for number, what in ((1, "begin"), (2, "end"), (3, "strides")))
    if not len(begin) == len(end) == len(strides) or 0 in strides:
        raise ctx.damaged(op, f"begin {begin}, end {end}, strides {strides}")
    masks = {name: op.option(f"{name}Mask")
             for name in ("Begin", "End", "Ellipsis", "NewAxis", "ShrinkAxis")}
    used = sum(not (masks["NewAxis"] | masks["Ellipsis"]) >> k & 1 for k in range(len(begin)))
    taken: list[tuple[int, int, int]] = []  # start, step, size per axis of x
    result: list[int] = []  # the shape with new axes, without shrunk ones
    for k, (first, last, step) in enumerate(zip(begin, end, strides)):
        mask = {name for name, bits in masks.items() if bits >> k & 1}
        if "Ellipsis" in mask:
            sizes = x.shape[len(taken):len(taken) + len(x.shape) - used]
            taken += [(0, 1, n) for n in sizes]
            result += sizes
        elif "NewAxis" in mask:
            result.append(1)
        elif len(taken) == len(x.shape):
            raise ctx.damaged(op, f"{len(begin)} entries for {x.shape}")
        else:
            n = x.shape[len(taken)]
            if op.option("Offset"):
                last += first
            if "ShrinkAxis" in mask:
                first = 0 if "Begin" in mask else first + n if first < 0 else first
                if not 0 <= first < n:
                    raise ctx.damaged(op, f"index {begin[k]} of axis {len(taken)} of {x.shape}")
                taken.append((first, 1, 1))
                continue
            indices = range(*slice(None if "Begin" in mask else first,
                                   None if "End" in mask else last, step).indices(n))
            taken.append((indices.start if indices else 0, step, len(indices)))
            result.append(len(indices))
    sizes = x.shape[len(taken):]
    starts, steps, counts = zip(*taken, *((0, 1, n) for n in sizes)) if x.shape else ((), (), ())
    return ctx.reshape(ctx.slice(x, starts, counts, op, steps), (*result, *sizes), op)


def _pad(ctx: Context, op: SourceOp, **options: object) -> Tensor:
    x, amounts = ctx.input(op, 0), ctx.array(op, 1, "the padding")
    if amounts.shape != (len(x.shape), 2) or amounts.min(initial=0) < 0:
        raise ctx.damaged(op, f"padding {amounts.tolist()} for {x.shape}")
    if not amounts.any():
        return x
    before, after = ([int(n) for n in column] for column in amounts.T)
    return ctx.add("pad", [x], op, before=tuple(before), after=tuple(after), **options)


def pad(ctx: Context, op: SourceOp) -> Tensor:
    """With zeros."""
    return _pad(ctx, op, mode="constant")


def padv2(ctx: Context, op: SourceOp) -> Tensor:
    """With a constant."""
    value, meaning = ctx.array(op, 2, "the value"), ctx.source.tensors[op.inputs[2]].quantization
    if meaning is not None:
        value = dequantize(value, meaning)
    return _pad(ctx, op, mode="constant", value=float(value.reshape(-1)[0]))


def mirror_pad(ctx: Context, op: SourceOp) -> Tensor:
    """With what lies inside, the border row repeated (SYMMETRIC) or not (REFLECT)."""
    reflect = op.option("Mode") == tflite.MirrorPadMode.REFLECT
    return _pad(ctx, op, mode="reflect" if reflect else "symmetric")


def transpose(ctx: Context, op: SourceOp) -> Tensor:
    """Axis k of y is axis perm[k] of x."""
    x = ctx.input(op, 0)
    perm = [ctx.axis(op, axis, len(x.shape)) for axis in ctx.ints(op, 1, "the permutation")]
    if len(set(perm)) != len(x.shape):
        raise ctx.damaged(op, f"permutation {perm} of {len(x.shape)} dimensions")
    return ctx.transpose(x, perm, op)


def reshape(ctx: Context, op: SourceOp) -> Tensor:
    """The shape is an input, or in old files an option; one dimension may be -1."""
    x = ctx.input(op, 0)
    if ctx.has(op, 1):
        shape = ctx.ints(op, 1, "the shape")
    else:
        shape = [int(n) for n in op.options.get("NewShape", ())]
        if shape == [0]:  # how old converters spell a scalar
            shape = []
    elements, known = math.prod(x.shape), math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known > 0 and elements % known == 0:
        shape[shape.index(-1)] = elements // known
    if any(n < 0 for n in shape) or math.prod(shape) != elements:
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape} into {shape}; needed as many "
                              "elements (does the model allow this input shape?)")
    return ctx.reshape(x, shape, op)


def squeeze(ctx: Context, op: SourceOp) -> Tensor:
    """Drop axes of one element: those named, or all."""
    x = ctx.input(op, 0)
    named = {ctx.axis(op, int(axis), len(x.shape)) for axis in op.options.get("SqueezeDims", ())}
    dropped = named or {axis for axis, n in enumerate(x.shape) if n == 1}
    if any(x.shape[axis] != 1 for axis in dropped):
        raise ctx.damaged(op, f"axes {sorted(dropped)} of {x.shape} have more than one element")
    return ctx.reshape(x, [n for axis, n in enumerate(x.shape) if axis not in dropped], op)


def expand_dims(ctx: Context, op: SourceOp) -> Tensor:
    """A new axis of one element."""
    x = ctx.input(op, 0)
    axis = ctx.axis(op, ctx.ints(op, 1, "the axis")[0], len(x.shape) + 1)
    return ctx.reshape(x, x.shape[:axis] + (1,) + x.shape[axis:], op)


def pack(ctx: Context, op: SourceOp) -> Tensor:
    """Stack along a new axis."""
    parts = [ctx.input(op, number) for number in range(len(op.inputs))]
    shape = parts[0].shape
    axis = ctx.axis(op, op.option("Axis"), len(shape) + 1)
    if any(part.shape != shape for part in parts):
        raise ctx.damaged(op, f"parts of the shapes {sorted({part.shape for part in parts})}")
    parts = [ctx.reshape(part, shape[:axis] + (1,) + shape[axis:], op) for part in parts]
    return parts[0] if len(parts) == 1 else ctx.add("concat", parts, op, axis=axis)


def unpack(ctx: Context, op: SourceOp) -> list[Tensor]:
    """One output per index of an axis, which disappears."""
    x = ctx.input(op, 0)
    axis = ctx.axis(op, op.option("Axis"), len(x.shape))
    return [ctx.reshape(piece, x.shape[:axis] + x.shape[axis + 1:], op)
            for piece in _pieces(ctx, op, x, axis, [1] * x.shape[axis])]


def tile(ctx: Context, op: SourceOp) -> Tensor:
    """x repeated along each axis."""
    x, repeats = ctx.input(op, 0), ctx.ints(op, 1, "the multiples")
    if all(n == 1 for n in repeats) and len(repeats) == len(x.shape):
        return x
    return ctx.add("tile", [x], op, repeats=tuple(repeats))


def broadcast_to(ctx: Context, op: SourceOp) -> Tensor:
    """x broadcast to a shape."""
    x, shape = ctx.input(op, 0), tuple(ctx.ints(op, 1, "the shape"))
    return x if x.shape == shape else ctx.add("expand", [x], op, shape=shape)


def depth_to_space(ctx: Context, op: SourceOp) -> Tensor:
    """Channels [B, B, C] of a pixel become a block of B x B pixels."""
    x, block = ctx.input(op, 0), op.option("BlockSize")
    if len(x.shape) != 4 or block < 1 or x.shape[3] % (block * block):
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape} into blocks of {block}")
    n, h, w, c = x.shape
    out_c = c // (block * block)
    y = ctx.transpose(ctx.reshape(x, (n, h, w, block, block, out_c), op), (0, 1, 3, 2, 4, 5), op)
    return ctx.reshape(y, (n, h * block, w * block, out_c), op)


def space_to_depth(ctx: Context, op: SourceOp) -> Tensor:
    """A block of B x B pixels becomes the channels [B, B, C] of one."""
    x, block = ctx.input(op, 0), op.option("BlockSize")
    if len(x.shape) != 4 or block < 1 or x.shape[1] % block or x.shape[2] % block:
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape} into blocks of {block}")
    n, h, w, c = x.shape
    y = ctx.reshape(x, (n, h // block, block, w // block, block, c), op)
    return ctx.reshape(ctx.transpose(y, (0, 1, 3, 2, 4, 5), op),
                       (n, h // block, w // block, block * block * c), op)


def _blocks(ctx: Context, op: SourceOp) -> tuple[Tensor, list[int], list[list[int]]]:
    """Return x, the block sizes of its spatial axes and the two amounts for each of them."""
    x, blocks = ctx.input(op, 0), ctx.ints(op, 1, "the block shape")
    amounts = ctx.array(op, 2, "the padding or crops")
    if (len(x.shape) < len(blocks) + 1 or amounts.shape != (len(blocks), 2)
            or min(blocks, default=1) < 1 or amounts.min(initial=0) < 0):
        raise ctx.damaged(op, f"{x.name} of the shape {x.shape} into blocks {blocks} with "
                              f"{amounts.tolist()}")
    return x, blocks, [[int(n) for n in row] for row in amounts]


def space_to_batch_nd(ctx: Context, op: SourceOp) -> Tensor:
    """Pad, then every position within a block becomes a batch entry (the position counts first)."""
    x, blocks, amounts = _blocks(ctx, op)
    spatial = len(blocks)
    if any(map(any, amounts)):
        rest = [0] * (len(x.shape) - spatial - 1)
        x = ctx.add("pad", [x], op, mode="constant", before=(0, *(a for a, _ in amounts), *rest),
                    after=(0, *(b for _, b in amounts), *rest))
    if any(n % block for n, block in zip(x.shape[1:], blocks)):
        raise ctx.damaged(op, f"the padded shape {x.shape} does not divide into blocks {blocks}")
    inner = x.shape[spatial + 1:]
    cut = [x.shape[0]]
    for n, block in zip(x.shape[1:], blocks):
        cut += [n // block, block]
    outer = [2 * k + 1 for k in range(spatial)]
    y = ctx.transpose(ctx.reshape(x, (*cut, *inner), op),
                      (*(k + 1 for k in outer), 0, *outer,
                       *range(2 * spatial + 1, 2 * spatial + 1 + len(inner))), op)
    return ctx.reshape(y, (x.shape[0] * math.prod(blocks),
                           *(n // block for n, block in zip(x.shape[1:], blocks)), *inner), op)


def batch_to_space_nd(ctx: Context, op: SourceOp) -> Tensor:
    """The inverse: batch entries become positions within a block, then crop."""
    x, blocks, amounts = _blocks(ctx, op)
    spatial, inner = len(blocks), x.shape[len(blocks) + 1:]
    if x.shape[0] % math.prod(blocks):
        raise ctx.damaged(op, f"{x.shape[0]} batch entries do not divide into blocks {blocks}")
    batch = x.shape[0] // math.prod(blocks)
    y = ctx.reshape(x, (*blocks, batch, *x.shape[1:]), op)
    order = [spatial]
    for k in range(spatial):
        order += [spatial + 1 + k, k]
    y = ctx.transpose(y, (*order, *range(2 * spatial + 1, 2 * spatial + 1 + len(inner))), op)
    sizes = [n * block for n, block in zip(x.shape[1:], blocks)]
    y = ctx.reshape(y, (batch, *sizes, *inner), op)
    starts = (0, *(a for a, _ in amounts), *(0 for _ in inner))
    kept = (batch, *(n - a - b for n, (a, b) in zip(sizes, amounts)), *inner)
    return ctx.slice(y, starts, kept, op)


def shape(ctx: Context, op: SourceOp) -> Tensor:
    """The shape of x, known at pack time."""
    return ctx.graph.constant(np.array(ctx.input(op, 0).shape, np.int32), op.name)


def rank(ctx: Context, op: SourceOp) -> Tensor:
    """The number of dimensions of x."""
    return ctx.graph.constant(np.array(len(ctx.input(op, 0).shape), np.int32), op.name)


def broadcast_args(ctx: Context, op: SourceOp) -> Tensor:
    """The shape that two shapes broadcast to, known at pack time."""
    shapes = [tuple(ctx.ints(op, number, "a shape")) for number in range(2)]
    return ctx.graph.constant(np.array(np.broadcast_shapes(*shapes), ctx.output_type(op)), op.name)


def zeros_like(ctx: Context, op: SourceOp) -> Tensor:
    """Zeros in the shape of x."""
    x = ctx.input(op, 0)
    ctx.limit(op, math.prod(x.shape))
    return ctx.graph.constant(np.zeros(x.shape, ctx.output_type(op)), op.name)


def range_(ctx: Context, op: SourceOp) -> Tensor:
    """start, limit, delta, all known at pack time."""
    start, limit, delta = (ctx.array(op, number, what).reshape(-1)[0].item()
                           for number, what in ((0, "start"), (1, "limit"), (2, "delta")))
    if delta == 0:
        raise ctx.damaged(op, "delta is 0")
    ctx.limit(op, math.ceil((limit - start) / delta))
    return ctx.graph.constant(np.arange(start, limit, delta).astype(ctx.output_type(op)), op.name)


def fill(ctx: Context, op: SourceOp) -> Tensor:
    """A shape, a scalar."""
    dims, value = tuple(ctx.ints(op, 0, "the shape")), ctx.input(op, 1)
    if any(n < 0 for n in dims):
        raise ctx.damaged(op, f"the shape {dims}")
    ctx.limit(op, math.prod(dims))
    if value.data is not None:
        return ctx.graph.constant(np.full(dims, value.data.reshape(-1)[0]), op.name)
    return ctx.add("expand", [ctx.reshape(value, (1,) * len(dims), op)], op, shape=dims)


def densify(ctx: Context, op: SourceOp) -> Tensor:
    """Sparse constants are expanded when the file is read."""
    return ctx.input(op, 0)


RULES: dict[str, Rule] = {
    "CONCATENATION": Rule(concatenation, (1, 65_536)),
    "SPLIT": Rule(split, (2, 2)),
    "SPLIT_V": Rule(split_v, (3, 3)),
    "SLICE": Rule(slice_, (3, 3)),
    "STRIDED_SLICE": Rule(strided_slice, (4, 4)),
    "PAD": Rule(pad, (2, 2)),
    "PADV2": Rule(padv2, (3, 3)),
    "MIRROR_PAD": Rule(mirror_pad, (2, 2)),
    "TRANSPOSE": Rule(transpose, (2, 2)),
    "RESHAPE": Rule(reshape, (1, 2)),
    "SQUEEZE": Rule(squeeze, (1, 1)),
    "EXPAND_DIMS": Rule(expand_dims, (2, 2)),
    "PACK": Rule(pack, (1, 65_536)),
    "UNPACK": Rule(unpack, (1, 1)),
    "TILE": Rule(tile, (2, 2)),
    "BROADCAST_TO": Rule(broadcast_to, (2, 2)),
    "DEPTH_TO_SPACE": Rule(depth_to_space, (1, 1)),
    "SPACE_TO_DEPTH": Rule(space_to_depth, (1, 1)),
    "SPACE_TO_BATCH_ND": Rule(space_to_batch_nd, (3, 3)),
    "BATCH_TO_SPACE_ND": Rule(batch_to_space_nd, (3, 3)),
    "SHAPE": Rule(shape, (1, 1), shape_only=True),
    "RANK": Rule(rank, (1, 1), shape_only=True),
    "BROADCAST_ARGS": Rule(broadcast_args, (2, 2)),
    "ZEROS_LIKE": Rule(zeros_like, (1, 1), shape_only=True),
    "RANGE": Rule(range_, (3, 3)),
    "FILL": Rule(fill, (2, 2)),
    "DENSIFY": Rule(densify, (1, 1)),
}
