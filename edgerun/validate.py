"""The one validator: everything a model file must satisfy before anything is allocated.

Nothing the packer wrote is trusted: shapes are inferred again, lifetimes are computed again, and
no two tensors that live at the same time may share a byte.
"""
from __future__ import annotations

import functools
import heapq
import os
import threading
import zlib
from bisect import bisect
from collections import Counter

import numpy as np

from edgerun import dtypes, host_ops, mixture, modes
from edgerun.errors import EdgerunError, ModelError
from edgerun.memory import SLACK
from edgerun.model import MAX_NAME, MAX_RANK, PAGE, Model, Op, Piece, Tensor, TensorInfo
from edgerun.ops import OPS, fastfood
from edgerun.ops._base import OUTPUT
from edgerun.ops.recurrent import GATES
from edgerun.regions import Contents, region_of, shared

MAX_TENSORS = 65_536
MAX_OPS = 65_536
MAX_INPUTS = 262_144  # of all ops together: some ops become one launch per input
MAX_BYTES = 2**32 - 1  # kernels take byte offsets as 32-bit unsigned integers
# Kernels index elements with 32-bit signed integers, and may add one step of a work-item (at most
# 65,536) to an index before they compare it with the end.
MAX_ELEMENTS = 2**31 - 2**16
MAX_ALL_STEPS = 65_536  # of recurrent ops together: each is a launch
MAX_PIECES = 4096  # of an input, and stages of a graph
PART = 1 << 23  # bytes that one thread sums up at a time


def check(model: Model) -> None:
    """Check a model whose indices have been resolved.

    Raises:
        ModelError: names the tensor or op, what it is, and what was needed.
    """
    try:
        _check_counts(model)
        _check_plan(model)
        for segment_index in range(len(model.segments)):
            _check_segment(model, segment_index)
        for tensor in model.tensors:
            _check_tensor(model, tensor)
        for infos, role in ((model.inputs, "input"), (model.outputs, "output")):
            _check_boundary(model, infos, role)
        modes.check_used(model)
        _check_order(model)
        sorted_once: set[tuple] = set()
        for op in model.ops:
            _check_op(model, op)
            _check_pitches(op)
            _check_operands(model, op)
            _check_permutations(model, op, sorted_once)
        mixture.check(model)
        _check_steps(model)
        _check_overlaps(model)
        _check_ranges(model)
        _check_patch(model)
        modes.check(model)
        host_ops.check(model)
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from None


def check_segments(model: Model) -> None:
    """Compare the checksum of every segment; reads the whole file once.

    Raises:
        ModelError: a segment is not as it was packed.
    """
    for segment in model.segments:
        total, at = 0, 0
        for number, part in enumerate(segment.parts):
            crc = checksum(segment.data[at:at + part.bytes])
            if crc != part.crc32:
                raise ModelError(f"{model.path}: the checksum of part {number} of the "
                                 f"{segment.dtype} segment does not match: the file is damaged, "
                                 "copy or pack it again")
            total, at = joined(total, crc, part.bytes), at + part.bytes
        if (total if segment.parts else checksum(segment.data)) != segment.crc32:
            raise ModelError(f"{model.path}: the checksum of the {segment.dtype} segment does not "
                             "match: the file is damaged, copy or pack it again")


def checksum(data: np.ndarray) -> int:
    """Return zlib.crc32 of bytes (uint8, one dimension); many are read by a thread per core."""
    if len(data) <= PART:
        return zlib.crc32(data)
    parts = [data[at:at + PART] for at in range(0, len(data), PART)]
    sums = [0] * len(parts)
    todo = iter(range(len(parts)))  # next() of a range is atomic

    def work() -> None:
        for part in todo:
            sums[part] = zlib.crc32(parts[part])
    threads = [threading.Thread(target=work) for _ in range((os.cpu_count() or 1) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    total = 0
    for part, crc in zip(parts, sums):
        total = joined(total, crc, len(part))
    return total


def joined(first: int, second: int, count: int) -> int:
    """Return the CRC-32 of bytes from that of the first ones, and of `count` behind them."""
    return _product(first, _shift(count)) ^ second


def _product(a: int, b: int) -> int:
    """Multiply polynomials over GF(2) modulo that of CRC-32; the highest bit is the number 1."""
    result = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            result ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return result


@functools.lru_cache(maxsize=8)
def _shift(count: int) -> int:
    """Return what multiplies the checksum of bytes when `count` more follow: x to 8 * count."""
    result, power = 1 << 31, 1 << 23
    while count:
        if count & 1:
            result = _product(result, power)
        power, count = _product(power, power), count >> 1
    return result


def _require(condition: bool, where: object, message: str) -> None:
    if not condition:
        raise ModelError(f"{where}: {message}")


def _check_counts(model: Model) -> None:
    for what, count, limit in (("tensors", len(model.tensors), MAX_TENSORS),
                               ("ops", len(model.ops), MAX_OPS),
                               ("op inputs", sum(len(op.inputs) for op in model.ops), MAX_INPUTS),
                               ("inputs", len(model.inputs), MAX_TENSORS),
                               ("outputs", len(model.outputs), MAX_TENSORS),
                               ("ranges", len(model.ranges), MAX_TENSORS),
                               ("mixtures", len(model.mixtures), MAX_OPS),
                               ("experts", sum(len(m.experts) for m in model.mixtures), MAX_OPS)):
        _require(count <= limit, "the graph", f"has {count} {what}, at most {limit} are allowed")
    _require(len(model.outputs) > 0, "the graph", "has no output")
    seen = [segment.dtype for segment in model.segments]
    _require(len(set(seen)) == len(seen), "the segments",
             f"are of dtypes {seen}, at most one per dtype is allowed")


def _check_plan(model: Model) -> None:
    plan = model.plan
    _require(plan.alignment in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), "the plan",
             f"has alignment {plan.alignment}, needed a power of two from 16 to 4096")
    _require(plan.arena_bytes <= MAX_BYTES, "the plan",
             f"needs an arena of {plan.arena_bytes} bytes, at most {MAX_BYTES} are allowed")
    _require(plan.lower_bound_bytes <= plan.arena_bytes, "the plan",
             f"has a lower bound of {plan.lower_bound_bytes} bytes, above its arena of "
             f"{plan.arena_bytes}")
    _require(-1 <= plan.peak_op < max(1, len(model.ops)), "the plan",
             f"has its peak at op {plan.peak_op}, the graph has {len(model.ops)}")


def _check_segment(model: Model, index: int) -> None:
    segment = model.segments[index]
    where = f"segment {index} ({segment.dtype})"
    _require(segment.dtype not in dtypes.BOUNDARY_ONLY, where, "cannot live on a device")
    _require(len(segment.data) > 0, where, "is empty")
    _require(segment.file_offset % PAGE == 0, where,
             f"starts at byte {segment.file_offset} of the file, needed a multiple of {PAGE}")
    _require(len(segment.data) <= MAX_BYTES, where,
             f"has {len(segment.data)} bytes, at most {MAX_BYTES} are allowed")
    modes.check_parts(model, index)


def _check_tensor(model: Model, tensor: Tensor) -> None:
    where = f"tensor {tensor.index} ({tensor.name[:200]!r})"
    _require(len(tensor.name) <= MAX_NAME, where, f"has a name of {len(tensor.name)} characters")
    _require(tensor.dtype not in dtypes.BOUNDARY_ONLY, where,
             f"is {tensor.dtype}, which cannot live on a device")
    _require(len(tensor.shape) <= MAX_RANK, where,
             f"has {len(tensor.shape)} dimensions, at most {MAX_RANK} are allowed")
    _require(all(n >= 1 for n in tensor.shape), where,
             f"has the shape {tensor.shape}, every dimension must be at least 1")
    _require(tensor.elements <= MAX_ELEMENTS, where,
             f"has {tensor.elements} elements, at most {MAX_ELEMENTS} are allowed")
    alignment = model.plan.alignment if tensor.alias_of == -1 else dtypes.size(tensor.dtype)
    _require(tensor.offset % alignment == 0, where,
             f"starts at byte {tensor.offset}, needed a multiple of {alignment}")
    _require(not tensor.pitch or tensor.alias_of != -1, where,
             f"has rows {tensor.pitch} elements apart, and is no part of another tensor")
    _require(not tensor.pitch or len(tensor.shape) > 0 and tensor.pitch > tensor.shape[-1], where,
             f"has rows of {tensor.shape[-1:]} elements that are {tensor.pitch} apart, needed more "
             "elements than a row has")
    if tensor.constant:
        _require(tensor.segment < len(model.segments), where,
                 f"is in segment {tensor.segment}, the file has {len(model.segments)}")
        segment = model.segments[tensor.segment]
        _require(segment.dtype == tensor.dtype, where,
                 f"is {tensor.dtype} in a segment of {segment.dtype}")
        size, home = len(segment.data), f"segment of {len(segment.data)} bytes"
        _require(tensor.alias_of == -1, where, "is a constant, and cannot be an alias")
    else:
        _require(tensor.segment == -1, where, f"is in segment {tensor.segment}, needed -1 or more")
        _require(tensor.layout == "rows", where, f"is in the arena with layout {tensor.layout}")
        size, home = model.plan.arena_bytes, f"arena of {model.plan.arena_bytes} bytes"
    slack = SLACK if tensor.layout != "rows" else 0  # loaded with the last vector of weights
    _require(tensor.offset <= size and tensor.bytes + slack <= size - tensor.offset, where,
             f"takes bytes {tensor.offset} to {tensor.offset + tensor.bytes}, and {slack} behind "
             f"it, of a {home}")
    _check_alias(model, tensor, where)
    _check_quantization(tensor, where)


def _check_alias(model: Model, tensor: Tensor, where: str) -> None:
    if tensor.alias_of == -1:
        return
    _require(0 <= tensor.alias_of < len(model.tensors), where,
             f"is an alias of tensor {tensor.alias_of}, the file has {len(model.tensors)}")
    root = model.tensors[tensor.alias_of]
    _require(root.alias_of == -1 and not root.constant, where,
             "is an alias of a tensor that is itself an alias or a constant")
    _require(tensor.dtype == root.dtype, where,
             f"is {tensor.dtype}, an alias of {root.name!r}, which is {root.dtype}: needed "
             "the same dtype")
    own = region_of(tensor)
    # where there is one row, the pitch leads nowhere, but reaches kernels as an int all the same
    _require(tensor.pitch * dtypes.size(tensor.dtype) <= root.bytes, where,
             f"has rows {tensor.pitch} elements apart, outside of {root.name!r} of {root.bytes} "
             "bytes, which it is a part of")
    _require(root.offset <= own.start and own.end <= root.offset + root.bytes, where,
             f"takes bytes {own.start} to {own.end}, outside of {root.name!r}, which it is a part "
             f"of, at {root.offset} to {root.offset + root.bytes}")


def _check_quantization(tensor: Tensor, where: str) -> None:
    quantization = tensor.quantization
    if quantization is None:
        return
    scale, zero_point, axis = quantization.scale, quantization.zero_point, quantization.axis
    _require(-1 <= axis < len(tensor.shape), where, f"is quantized along axis {axis}")
    count = 1 if axis == -1 else tensor.shape[axis]
    _require(len(scale) == count and len(zero_point) == count, where,
             f"has {len(scale)} scales and {len(zero_point)} zero points, needed {count}")
    _require(bool(np.all(np.isfinite(scale)) and np.all(scale > 0)), where,
             "has a scale that is not a positive finite number")
    _require(tensor.dtype not in (*dtypes.FLOAT, "bool"), where,
             f"is {tensor.dtype} and quantized, needed an integer dtype")
    limits = np.iinfo(dtypes.numpy_dtype(tensor.dtype))
    _require(bool(np.all((zero_point >= limits.min) & (zero_point <= limits.max))), where,
             f"has a zero point outside the {limits.min} to {limits.max} of {tensor.dtype}")


def _check_ranges(model: Model) -> None:
    _require(len(model.observer) <= MAX_NAME, "the graph",
             f"has an observer of {len(model.observer)} characters")
    names: set[str] = set()
    for found in model.ranges:
        where = f"the range of {found.name[:200]!r}"
        _require(len(found.name) <= MAX_NAME, where,
                 f"has a name of {len(found.name)} characters")
        _require(found.name not in names, where, "is given twice")
        names.add(found.name)
        for low, high, middle in ((found.low, found.high, found.low),
                                  (found.low8, found.high8, 0.0),
                                  (found.low16, found.high16, 0.0)):
            _require(-np.inf < low <= middle <= high < np.inf, where,
                     f"is {low} to {high}, needed finite numbers in order"
                     + ("" if middle is found.low else ", 0 among them"))


def _check_patch(model: Model) -> None:
    if model.patch is not None:
        stages = model.patch.stages
        _require(len(stages) <= MAX_PIECES, "the patch", f"has {len(stages)} stages")
        _require(all(len(name) <= MAX_NAME for stage in stages
                     for name in (stage.first, stage.last)), "the patch",
                 f"names an op with more than {MAX_NAME} characters")


def _check_boundary(model: Model, infos: tuple[TensorInfo, ...], role: str) -> None:
    names = Counter(info.name for info in infos)
    for info in infos:
        where = f"{role} {info.name[:200]!r}"
        _require(names[info.name] == 1, where, "is declared twice")
        _require(len(info.name) <= MAX_NAME, where, f"has a name of {len(info.name)} characters")
        _require(0 <= info.tensor < len(model.tensors), where,
                 f"is tensor {info.tensor}, the file has {len(model.tensors)}")
        tensor = model.tensors[info.tensor]
        _require(role == "output" or not tensor.constant, where, "is a constant")
        _require(tensor.layout == "rows", where, f"has layout {tensor.layout}, needed rows")
        _require(not tensor.pitch, where, f"has rows {tensor.pitch} elements apart, needed dense "
                 "rows")
        perm = info.perm or tuple(range(len(info.shape)))
        _require(sorted(perm) == list(range(len(info.shape))), where,
                 f"has the axis order {perm}, needed a permutation of {len(info.shape)} axes")
        if info.pieces:
            _require(role == "input", where, "has pieces, which only an input may have")
            _check_pieces(model, info, where)
        else:
            _require(info.device_shape == tensor.shape, where,
                     f"has the shape {info.shape} in the order {perm}, its tensor {tensor.shape}")
        _require("bits" not in (dtypes.known(info.dtype), tensor.dtype), where,
                 "is bits, which only ops read")
        on_device = dtypes.device_dtype(dtypes.name_of(info.dtype))
        same_kind = on_device == tensor.dtype or {on_device, tensor.dtype} <= {*dtypes.FLOAT}
        if tensor.dtype in dtypes.QUANTIZED and tensor.quantization is not None:
            per_tensor = tensor.quantization.axis == -1
            same_kind |= on_device in dtypes.FLOAT and per_tensor
            same_kind |= on_device == "int8" and tensor.dtype == "uint8"
        _require(same_kind, where, f"is {dtypes.name_of(info.dtype)}, its tensor {tensor.dtype}")


def _check_pieces(model: Model, info: TensorInfo, where: str) -> None:
    """Every piece is some rows of the input, in a tensor of its own, and in the order of ops."""
    pieces, whole, first = info.pieces, info.device_shape, model.tensors[info.tensor]
    _require(len(pieces) <= MAX_PIECES, where, f"has {len(pieces)} pieces")
    _require(len(whole) >= 2, where, f"has the shape {whole} and pieces, needed rows to cut")
    _require(pieces[0].tensor == info.tensor, where,
             f"is tensor {info.tensor}, its first piece tensor {pieces[0].tensor}")
    for number, piece in enumerate(pieces):
        label = f"{where}: piece {number}"
        _require(0 <= piece.tensor < len(model.tensors), label,
                 f"is tensor {piece.tensor}, the file has {len(model.tensors)}")
        tensor = model.tensors[piece.tensor]
        _require(not tensor.constant and tensor.alias_of == -1, label,
                 "is a constant or an alias, needed a tensor with bytes of its own")
        _require(tensor.dtype == first.dtype and _same_quantization(tensor, first), label,
                 "has another dtype or quantization than the first")
        _require(len(tensor.shape) == len(whole) and piece.row >= 0
                 and piece.row + tensor.shape[1] <= whole[1]
                 and (tensor.shape[0], *tensor.shape[2:]) == (whole[0], *whole[2:]), label,
                 f"has the shape {tensor.shape} from row {piece.row} on, the input is {whole}")
        before = pieces[number - 1].op if number else 0
        _require(before <= piece.op < len(model.ops), label,
                 f"is copied before op {piece.op}, needed {before} to {len(model.ops) - 1}")


def _same_quantization(a: Tensor, b: Tensor) -> bool:
    if a.quantization is None or b.quantization is None:
        return a.quantization is b.quantization
    p, q = a.quantization, b.quantization
    return p.axis == q.axis and all(np.array_equal(x, y) for x, y in (
        (p.scale, q.scale), (p.zero_point, q.zero_point)))


def _check_order(model: Model) -> None:
    """What an op reads has been written before, and not been written over."""
    contents, arriving = Contents(), model.arriving()

    def read(tensor: Tensor, where: str) -> None:
        if not tensor.constant:
            contents.read(tensor, model.root_of(tensor).index, where)

    def arrive(info: TensorInfo, index: int) -> None:
        tensor = model.tensors[index]
        contents.write(tensor, model.root_of(tensor).index, f"input {info.name!r}")

    held = [model.root_of(model.tensors[index]).index
            for info in model.inputs for index in info.tensors]
    _require(len({*held}) == len(held), "the inputs", "share a tensor")
    for info in model.inputs:
        if not info.pieces:
            arrive(info, info.tensor)
    if model.used is not None:
        contents.write(model.used, model.used.index, "the number of planes")
    for op in model.ops:
        for info, piece in arriving.get(op.index, ()):
            arrive(info, piece.tensor)
        for tensor in op.inputs:
            if tensor is not None:
                read(tensor, _label(op))
        for tensor in op.outputs:
            _require(not tensor.constant, _label(op), f"writes the constant {tensor.name!r}")
            contents.write(tensor, model.root_of(tensor).index, _label(op))
    for info in model.outputs:
        read(model.tensors[info.tensor], f"output {info.name!r}")


def _label(op: Op) -> str:
    return f"op {op.index} ({op.code[:200]} {op.name[:200]!r})"


def _check_op(model: Model, op: Op) -> None:
    definition, where = OPS.get(op.code), _label(op)
    _require(definition is not None, where,
             "is not an op that this edgerun knows: written by a newer edgerun?")
    _require(len(op.name) <= MAX_NAME, where, f"has a name of {len(op.name)} characters")
    low, high = definition.inputs
    _require(low <= len(op.inputs) <= high and all(t is not None for t in op.inputs[:low]),
             where, f"has {len(op.inputs)} inputs, needed {low} to {high}, the first {low} "
             "of them present")
    for index, tensor in enumerate(op.inputs):
        needed = "rows"
        if index in definition.blocked and tensor is not None:
            needed = dtypes.BLOCKED.get(tensor.dtype, "oc16")
        if tensor is not None and tensor.layout != needed:
            raise ModelError(f"{where}: input {index}, {tensor.name!r}, has the layout "
                             f"{tensor.layout}, needed {needed}")
    _require(op.options_table == definition.options, where,
             f"has {op.options_table}, needed {definition.options}")
    for key, value in op.options.items():
        numbers = value if isinstance(value, tuple) else (value,)
        _require(len(numbers) <= MAX_RANK, where, f"{key} has {len(numbers)} values")
        _require(not isinstance(value, str) or len(value) <= MAX_NAME, where,
                 f"{key} has more than {MAX_NAME} characters")
        _require(all(not isinstance(n, (int, float)) or n == n for n in numbers), where,
                 f"{key} is not a number")
    try:
        inferred = definition.infer(op)
    except EdgerunError as error:
        raise ModelError(str(error)) from None
    for tensor in (*op.inputs, *op.outputs):
        _require(definition.bits or tensor is None or tensor.dtype != "bits", where,
                 f"has {tensor and tensor.name!r}, which is bits: it has no words of bits")
    found = [(tensor.shape, tensor.dtype) for tensor in op.outputs]
    _require(len(inferred) == len(found), where,
             f"has {len(found)} outputs, needed {len(inferred)}")
    if definition.mixed:
        inferred = [(shape, tensor.dtype if {dtype, tensor.dtype} <= {*dtypes.FLOAT}
                     or {dtype, tensor.dtype} <= {*dtypes.QUANTIZED} else dtype)
                    for (shape, dtype), tensor in zip(inferred, op.outputs)]
    _require(list(inferred) == found, where,
             f"has outputs {found}, its inputs give {inferred}")
    _require(op.scratch_bytes <= model.plan.arena_bytes
             and op.scratch_offset <= model.plan.arena_bytes - op.scratch_bytes, where,
             f"has scratch at {op.scratch_offset} of {op.scratch_bytes} bytes, outside the arena "
             f"of {model.plan.arena_bytes} bytes")
    _require(op.scratch_offset % model.plan.alignment == 0, where,
             f"has scratch at byte {op.scratch_offset}, needed a multiple of "
             f"{model.plan.alignment}")
    _require(op.scratch_bytes >= definition.scratch(op), where,
             f"has {op.scratch_bytes} bytes of scratch, needed {definition.scratch(op)}")


def _check_pitches(op: Op) -> None:
    """Only operands whose kernels can are views with a pitch."""
    able = OPS[op.code].pitched(op)
    for index, tensor in (*enumerate(op.inputs), *((OUTPUT, tensor) for tensor in op.outputs)):
        if tensor is not None and tensor.pitch and index not in able:
            what = "its output" if index == OUTPUT else f"input {index}"
            raise ModelError(f"{_label(op)}: {what}, {tensor.name!r}, has rows {tensor.pitch} "
                             "elements apart, needed dense rows")


def _check_steps(model: Model) -> None:
    """Recurrent ops become a launch per step, which the op itself only bounds one by one."""
    steps = sum(op.outputs[0].shape[0] for op in model.ops if op.code in GATES)
    _require(steps <= MAX_ALL_STEPS, "the graph", f"has recurrent ops of {steps} steps together, "
             f"at most {MAX_ALL_STEPS} are allowed: each is a launch")


def _check_operands(model: Model, op: Op) -> None:
    """An output shares no byte with an operand, unless it takes the place of a whole input."""
    for number, y in enumerate(op.outputs):
        root, place, able = model.root_of(y), region_of(y), OPS[op.code].in_place(op)
        for index, x in (*enumerate(op.inputs), *((OUTPUT, x) for x in op.outputs[:number])):
            if x is None or x.constant or model.root_of(x) is not root:
                continue
            other = region_of(x)
            _require(shared(place, other) == 0 or index in able and other == place, _label(op),
                     f"writes {y.name!r} over bytes of {x.name!r}, which it needs meanwhile")


def _check_permutations(model: Model, op: Op, known: set[tuple]) -> None:
    """A kernel reads by the numbers of a stored permutation; those in `known` are right."""
    if op.code != "fastfood" or len(op.inputs) <= fastfood.PERM:
        return
    perm = op.inputs[fastfood.PERM]
    if perm is None:
        return
    _require(perm.constant, _label(op), f"has the permutation {perm.name!r} in the arena, needed a "
             "constant")
    place = perm.segment, perm.offset, perm.shape
    if place in known:
        return
    data = model.segments[perm.segment].data[perm.offset:perm.offset + perm.bytes]
    rows = data.view(dtypes.numpy_dtype(perm.dtype)).reshape(perm.shape)
    fastfood.check_permutations(op, rows)
    known.add(place)


def lifetimes(model: Model) -> dict[int, tuple[int, int]]:
    """Return for every root tensor of the arena the first and last op at which it must exist.

    Inputs exist from op -1, pieces of them from their op on; outputs up to op len(ops).
    """
    spans: dict[int, tuple[int, int]] = {}

    def use(tensor: Tensor, step: int) -> None:
        if not tensor.constant:
            root = model.root_of(tensor).index
            first, last = spans.get(root, (step, step))
            spans[root] = (min(first, step), max(last, step))

    for info in model.inputs:
        for piece in info.pieces or (Piece(info.tensor, 0, -1),):
            use(model.tensors[piece.tensor], piece.op)
    if model.used is not None:
        use(model.used, -1)
    for op in model.ops:
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                use(tensor, op.index)
    for info in model.outputs:
        use(model.tensors[info.tensor], len(model.ops))
    return spans


def _check_overlaps(model: Model) -> None:
    """No two tensors (or scratch) that exist at the same op share a byte of the arena."""
    blocks = [(first, last, model.tensors[index].offset, model.tensors[index].bytes,
               model.tensors[index].name) for index, (first, last) in lifetimes(model).items()]
    blocks += [(op.index, op.index, op.scratch_offset, op.scratch_bytes, f"scratch of {op}")
               for op in model.ops if op.scratch_bytes]
    blocks.sort(key=lambda block: block[0])
    # Blocks that exist at the same time, by offset; as none overlap, only neighbours can meet.
    live: list[tuple[int, tuple]] = []
    ends: list[tuple[int, int]] = []  # heap of (last op, offset)
    for block in blocks:
        first, last, offset, size, name = block
        while ends and ends[0][0] < first:
            live.pop(bisect(live, (heapq.heappop(ends)[1],)))
        at = bisect(live, (offset,))
        for _, other in live[max(at - 1, 0):at + 1]:
            if offset < other[2] + other[3] and other[2] < offset + size:
                raise ModelError(f"the plan: {name!r} at bytes {offset} to {offset + size} "
                                 f"overlaps {other[4]!r} at {other[2]} to {other[2] + other[3]} "
                                 f"while both are needed at op {first}")
        live.insert(at, (offset, block))
        heapq.heappush(ends, (last, offset))
