"""The model file as frozen dataclasses: read by loader.py, checked by validate.py, then trusted."""
from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgerun import dtypes
from edgerun.quantization import Quantization

VERSION = 1
PAGE = 4096  # bytes; weight segments start on a multiple of it
MAX_RANK = 8
MAX_NAME = 4096  # characters


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file; `offset`: bytes within its segment, or the arena if segment < 0."""
    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    segment: int
    offset: int
    alias_of: int
    quantization: Quantization | None
    index: int
    pitch: int = 0  # elements from one position of the last axis to the next; 0: dense rows

    @functools.cached_property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod([int(n) for n in self.shape], dtype=object))

    @property
    def bytes(self) -> int:
        """Bytes the elements occupy, with what fills up the last word of input channels."""
        return dtypes.stored_bytes(self.shape, self.dtype, self.layout)

    @property
    def constant(self) -> bool:
        """Whether the tensor lies in the file, not in the arena."""
        return self.segment >= 0


@dataclass(frozen=True)
class Piece:
    """A strip of a streamed input: index of its tensor, its first row, the op that reads it first.
    """
    tensor: int
    row: int
    op: int


@dataclass(frozen=True)
class TensorInfo:
    """An input or output as the source model declares it.

    `scale` and `zero_point` say what the integers of a quantized one mean: real = scale * (q -
    zero_point); None for others. An input with `pieces` is streamed: it arrives strip by strip.
    """
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float | None = None
    zero_point: int | None = None
    tensor: int = field(repr=False, default=-1)
    perm: tuple[int, ...] = field(repr=False, default=())
    pieces: tuple[Piece, ...] = field(repr=False, default=())

    @property
    def tensors(self) -> tuple[int, ...]:
        """Indices of the tensors that hold it: one, or those of its pieces."""
        return tuple(piece.tensor for piece in self.pieces) or (self.tensor,)

    @property
    def device_shape(self) -> tuple[int, ...]:
        """The shape in the order of the axes on the device."""
        return tuple(self.shape[axis] for axis in self.perm) if self.perm else self.shape


@dataclass(frozen=True)
class Op:
    """One op: its tensors (None: optional input left out), options and scratch."""
    code: str
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: dict[str, Any]
    options_table: str | None
    scratch_offset: int
    scratch_bytes: int
    index: int

    def __str__(self) -> str:
        return f"{self.code} {self.name!r}"


@dataclass(frozen=True)
class HostOp:
    """What the host computes of the graph's outputs; see the schema and edgerun/host_ops.py."""
    code: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[TensorInfo, ...]
    options: dict[str, float]

    def __str__(self) -> str:
        return f"{self.code} {self.name!r}"


@dataclass(frozen=True)
class Plan:
    """The memory plan: bytes of the arena, the bound no plan can beat, the op where it is met.

    proven: the packer says that no arena is smaller for these ops in this order.
    """
    arena_bytes: int
    lower_bound_bytes: int
    peak_op: int
    alignment: int
    proven: bool = False


@dataclass(frozen=True)
class Part:
    """Neighbouring bytes of a segment of bits: what one more plane of the weights needs."""
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Mode:
    """A precision by name: how many planes count, per element of Model.used."""
    name: str
    planes: tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Neighbouring ops: the number of the first, how many."""
    first: int
    ops: int


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: tensors of gates, chosen experts and slots (-1: none), its route, the
    ops of each expert; see the schema."""
    gates: int
    chosen: int
    slot: int
    route: int
    experts: tuple[Span, ...]


@dataclass(frozen=True)
class Segment:
    """A page-aligned run of constants of one dtype inside the mapped file."""
    dtype: str
    crc32: int
    data: np.ndarray = field(repr=False)
    file_offset: int = 0
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class TestVector:
    """Inputs with the outputs of the source model's reference, in boundary order."""
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    tolerance: float


@dataclass(frozen=True)
class Range:
    """What calibration saw in a real tensor, for the packer; see the schema."""
    name: str
    low: float
    high: float
    low8: float
    high8: float
    low16: float
    high16: float


@dataclass(frozen=True)
class Choice:
    """The variant of one launch that was measured to be fastest; see the schema."""
    key: str
    family: str
    kernels: str
    variant: str
    ns: int
    default_ns: int


@dataclass(frozen=True)
class Tuning:
    """What was measured on one device with one driver."""
    device: str
    driver: str
    compute_units: int
    choices: tuple[Choice, ...]

    def fits(self, other: Tuning) -> bool:
        """Whether both are of the same device and driver."""
        return (self.device, self.driver, self.compute_units) == (
            other.device, other.driver, other.compute_units)


@dataclass(frozen=True)
class Stage:
    """Neighbouring ops that run strip by strip: the first and last, how many; see the schema."""
    first: str
    last: str
    ops: int
    strips: int
    streamed: bool


@dataclass(frozen=True)
class Patch:
    """What patch execution costs, and the arena without it; see the schema."""
    stages: tuple[Stage, ...]
    arena_bytes: int
    extra_macs: int


@dataclass(frozen=True)
class Model:
    """A whole model file; `data` is the read-only mapping that everything points into.

    `outputs` are those of the graph, `results` what the caller gets: the same where there are no
    host ops.
    """
    path: str
    name: str
    source: str
    producer: str
    precision: str
    target: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    plan: Plan
    segments: tuple[Segment, ...]
    vectors: tuple[TestVector, ...]
    graph_bytes: int
    data: np.ndarray = field(repr=False)
    ranges: tuple[Range, ...] = ()
    observer: str = ""
    samples: int = 0
    tuning: tuple[Tuning, ...] = ()
    patch: Patch | None = None
    host_ops: tuple[HostOp, ...] = ()
    results: tuple[TensorInfo, ...] = ()
    modes: tuple[Mode, ...] = ()
    used: Tensor | None = None
    mixtures: tuple[Mixture, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return len(self.data)

    def arriving(self) -> dict[int, list[tuple[TensorInfo, Piece]]]:
        """Return what is copied in right before an op: its index -> inputs with their pieces."""
        found: dict[int, list[tuple[TensorInfo, Piece]]] = {}
        for info in self.inputs:
            for piece in info.pieces:
                found.setdefault(piece.op, []).append((info, piece))
        return found

    def root_of(self, tensor: Tensor) -> Tensor:
        """Return the tensor in whose bytes `tensor` lies (itself, if it is no alias)."""
        return self.tensors[tensor.alias_of] if tensor.alias_of >= 0 else tensor
