"""What an op is: a shape rule, a prepare function that describes launches, a few facts.

Nothing here imports pyopencl: shapes and launches of a whole model can be checked without a device.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from edgerun.errors import ModelError
from edgerun.quantization import Quantization

Shape = tuple[int, ...]


class TensorLike(Protocol):
    """A tensor of a model file or of the packer's graph."""
    name: str
    shape: Shape
    dtype: str
    layout: str
    quantization: Quantization | None
    pitch: int


class OpLike(Protocol):
    """An op of a model file or of the packer's graph, its tensors resolved."""
    code: str
    name: str
    inputs: Sequence[TensorLike | None]
    outputs: Sequence[TensorLike]
    options: dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """The tunable choices of one launch: name -> value, by [].

    Names in capitals are macros of the kernel, the others sizes that prepare uses.

    Attributes:
        values: pairs of name and value.
    """
    values: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, **values: int) -> Variant:
        """Return the variant of some choices, in this order."""
        return cls(tuple(values.items()))

    def __getitem__(self, name: str) -> int:
        return dict(self.values)[name]

    def __iter__(self) -> Iterator[int]:
        return (value for _, value in self.values)

    @property
    def defines(self) -> dict[str, int]:
        """The macros; one whose value is 0 is not defined."""
        return {name: value for name, value in self.values if name.isupper() and value}

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True)
class Key:
    """What the choice of a launch's variant may depend on beside the device.

    Attributes:
        entry: line of the table in edgerun/ops/_tile.py.
        kind: what the entry distinguishes: dtype of the activations, how products are summed.
        types: dtypes of the operands that the kind does not tell apart.
        sizes: pairs of name and size, strides and the like; by [].
    """
    entry: str
    kind: str
    types: str
    sizes: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, entry: str, kind: str, tensors: Sequence[TensorLike | None], **sizes: int) -> Key:
        """Return the key of a launch over some tensors."""
        types = "/".join("-" if t is None else t.dtype for t in tensors)
        return cls(entry, kind, types, tuple(sizes.items()))

    def __getitem__(self, name: str) -> int:
        return dict(self.sizes)[name]

    def __str__(self) -> str:
        """The key in files: sizes of 1 are left out."""
        sizes = " ".join(f"{name}={value}" for name, value in self.sizes if value != 1)
        return f"{self.entry} {self.kind} {self.types} {sizes}"


@dataclass(frozen=True)
class Facts:
    """What an op may know of the device when it chooses a kernel.

    Attributes:
        kind: "cpu", "gpu" or "accelerator".
        lanes: fp32 elements of the widest vector worth using: 16, 8 or 4.
        compute_units: parallel cores.
        max_work_group: largest work-group of any kernel.
        quirks: names of peculiarities, see quirks() in edgerun/dots.py.
        dot: fastest way to sum products of integers: "float" (exact fp32 multiply-adds), "madd",
            "plain" (integer multiply-adds), or by an instruction; one of NAMES in edgerun/dots.py.
        choices: text of a Key -> Variant that was measured to be best here; may come from a file,
            so only _tile.choose() may use it, which checks it.
    """
    kind: str = "cpu"
    lanes: int = 16
    compute_units: int = 2
    max_work_group: int = 256
    quirks: frozenset[str] = frozenset()
    dot: str = "plain"
    choices: Mapping[str, Variant] = field(default_factory=dict, hash=False)

    @property
    def one(self) -> tuple[int, ...] | None:
        """Local size for a kernel whose work-items are heavy: one each on a CPU, free elsewhere."""
        return (1, 1, 1) if self.kind == "cpu" else None


@dataclass(frozen=True)
class Scratch:
    """Stands for the op's scratch bytes in the arguments of a launch; `at` is added in bytes."""
    at: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        family: kernels/<family>.cl.
        kernel: function in that file.
        defines: macro name -> value; few, since every combination is one program.
        global_size: work-items in 1 to 3 dimensions.
        local_size: same length, or None to let the driver choose.
        args: tensors and Scratch (each becomes two arguments, buffer and byte offset), NumPy
            scalars, or NumPy arrays of 4 or 8 int32 (OpenCL int4, int8).
        key, variant: what _tile.choose() was asked and answered; None where there is no choice.
    """
    family: str
    kernel: str
    defines: dict[str, Any]
    global_size: tuple[int, ...]
    args: tuple[Any, ...]
    local_size: tuple[int, ...] | None = None
    key: Key | None = None
    variant: Variant | None = None


Outputs = list[tuple[Shape, str]]


def _no_scratch(op: OpLike) -> int:
    return 0


def _output_elements(op: OpLike) -> int:
    return 0


def _none(op: OpLike) -> tuple[int, ...]:
    return ()


@dataclass(frozen=True)
class OpDef:
    """The one table line of an op.

    Attributes:
        infer: op -> [(shape, dtype)] of its outputs; raises ModelError if its inputs do not fit.
        prepare: (op, facts) -> launches; its docstring is the op's entry in docs/ops.md.
        inputs: fewest and most inputs.
        options: table of schema/edgerun.fbs, or None.
        macs: op -> multiply-accumulates, for ops dominated by them.
        scratch: op -> bytes of scratch it needs in the arena.
        mixed: a float output may be stored as fp32 or fp16 whatever the inputs are, a quantized one
            as uint8 or int16.
        blocked: indices of the inputs that a file holds in blocks: layout oc16, for int16 oc16x2,
            for int8 oc16x4; the others are in rows.
        pitched: op -> indices of the inputs that may be views with a pitch, OUTPUT for its output;
            what is not among them lies in dense rows.
        in_place: op -> indices of the inputs in whose bytes the output may lie, if they have the
            same shape and dtype: no work-item reads an element there that another one writes, and
            none reads one after it has written it.
        used: index of the input that says how many planes of the weights count now: int32 [1]; -1
            where there are none.
        planes: op -> for the first, second, ... plane (or pair of planes), most significant first,
            the indices of the inputs that hold it.
        bits: its operands may be bits; those of others never are.
    """
    infer: Callable[[OpLike], Outputs]
    prepare: Callable[[OpLike, Facts], list[Launch]]
    inputs: tuple[int, int]
    options: str | None = None
    macs: Callable[[OpLike], int] = _output_elements
    scratch: Callable[[OpLike], int] = _no_scratch
    mixed: bool = False
    blocked: tuple[int, ...] = ()
    pitched: Callable[[OpLike], tuple[int, ...]] = _none
    in_place: Callable[[OpLike], tuple[int, ...]] = _none
    used: int = -1
    planes: Callable[[OpLike], tuple[tuple[int, ...], ...]] = _none
    bits: bool = False


OUTPUT = -1  # among the operands of OpDef.pitched


def first(op: OpLike) -> tuple[int, ...]:
    """Return the index of the first input: for OpDef.pitched and OpDef.in_place."""
    return (0,)


def first_and_output(op: OpLike) -> tuple[int, ...]:
    """Return the first input and the output: for OpDef.pitched."""
    return 0, OUTPUT


def output(op: OpLike) -> tuple[int, ...]:
    """Return the output: for OpDef.pitched."""
    return OUTPUT,


def pitch_of(tensor: TensorLike) -> int:
    """Return the elements from one position of the last axis of a tensor to the next."""
    return tensor.pitch or (int(tensor.shape[-1]) if tensor.shape else 1)


def float_types(x: TensorLike, y: TensorLike) -> dict[str, int]:
    """Return the defines of the stored types of the inputs and, if it is another, of the output."""
    return {f"T_{x.dtype}": 1} | ({f"O_{y.dtype}": 1} if y.dtype != x.dtype else {})


def require(condition: bool, op: OpLike, message: str) -> None:
    """Raise ModelError "code 'name': message" unless the condition holds."""
    if not condition:
        raise ModelError(f"{op.code} {op.name!r}: {message}")


def require_rank(tensor: TensorLike, rank: int, op: OpLike) -> None:
    """Require a number of dimensions."""
    require(len(tensor.shape) == rank, op,
            f"{tensor.name} has the shape {tensor.shape}, needed {rank} dimensions")


def require_dtype(tensor: TensorLike, allowed: Sequence[str], op: OpLike) -> None:
    """Require one of some dtypes."""
    require(tensor.dtype in allowed, op,
            f"{tensor.name} is {tensor.dtype}, needed {' or '.join(allowed)}")


def require_quantized(tensor: TensorLike, op: OpLike) -> Quantization:
    """Require that a tensor is quantized, with one scale; returns its quantization."""
    require(tensor.quantization is not None and tensor.quantization.axis == -1, op,
            f"{tensor.name} is {tensor.dtype}, needed one scale and one zero point for it")
    return tensor.quantization


def require_same_dtype(op: OpLike, *tensors: TensorLike | None) -> None:
    """Require equal dtypes of the tensors that are present."""
    found = {t.dtype for t in tensors if t is not None}
    require(len(found) <= 1, op, f"mixes the dtypes {', '.join(sorted(found))}")


def normal_axis(axis: int, rank: int, op: OpLike) -> int:
    """Return an axis counted from the front.

    Raises:
        ModelError: there is no such axis.
    """
    require(-rank <= axis < max(rank, 1), op, f"axis {axis} of {rank} dimensions")
    return axis % rank if rank else 0


def count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    total = 1
    for n in shape:
        total *= int(n)
    return total


def strides(shape: Sequence[int], pitch: int = 0) -> list[int]:
    """Return row-major strides in elements; positions of the last axis are `pitch` apart, if that
    is not 0."""
    result, step = [], 1
    for n in reversed(shape):
        result.append(step)
        step = pitch if pitch and len(result) == 1 else step * int(n)
    return result[::-1]


def broadcast(op: OpLike, *shapes: Shape) -> Shape:
    """Return the broadcast shape.

    Raises:
        ModelError: the shapes do not broadcast.
    """
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError:
        require(False, op, "the shapes " + " and ".join(map(str, shapes)) + " do not broadcast")
        raise


def broadcast_strides(shape: Shape, to: Shape, pitch: int = 0) -> list[int]:
    """Return strides in elements over `to`, 0 where `shape` is repeated; `pitch` as for strides."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return [0 if n == 1 and m != 1 else s for n, m, s in zip(padded, to, strides(padded, pitch))]


def collapse(shape: Sequence[int],
             *stride_lists: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring axes that every operand walks contiguously, and drop axes of one element.

    Args:
        shape: elements per axis.
        stride_lists: per operand, elements per step of each axis.

    Returns:
        The shorter shape (at least one axis) and the strides of each operand over it.
    """
    dims: list[int] = []
    kept: list[list[int]] = [[] for _ in stride_lists]
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        if dims and all(k[-1] == s[axis] * n for k, s in zip(kept, stride_lists)):
            dims[-1] *= n
            for k, s in zip(kept, stride_lists):
                k[-1] = s[axis]
        else:
            dims.append(n)
            for k, s in zip(kept, stride_lists):
                k.append(s[axis])
    return (dims or [1]), [k or [0] for k in kept]


def lanes_within(n: int, facts: Facts) -> int:
    """Return the widest vector, of a power of two of lanes, that fits into n >= 1 elements."""
    return min(facts.lanes, 1 << (n.bit_length() - 1))


def i32(value: int) -> np.int32:
    """Return a kernel argument `int`."""
    return np.int32(value)


def f32(value: float) -> np.float32:
    """Return a kernel argument `float`."""
    return np.float32(value)


def int8_arg(values: Sequence[int], fill: int = 0) -> np.ndarray:
    """Return a kernel argument `int8` (eight ints, filled up at the front)."""
    return np.array([fill] * (8 - len(values)) + [int(v) for v in values], np.int32)


def int4_arg(values: Sequence[int]) -> np.ndarray:
    """Return a kernel argument `int4`, zeros behind the values."""
    return np.array([*map(int, values)] + [0] * (4 - len(values)), np.int32)
