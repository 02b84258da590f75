"""How a device sums products of 8-bit integers: which ways it has, and which is fastest.

The sums are the same; see kernels/dot.cl and kernels/conv_integer.cl. What a device claims says
little: drivers offer instructions that they emulate, and compilers drop assembly that they do not
know without a word. So each way computes a convolution that is checked and timed, once per device
and driver: the answer is kept on disk beside the compiled programs.

The environment variable EDGERUN_DOT overrides the choice with one of NAMES, for tests and
measurements.
"""
from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerun import drivers
from edgerun.errors import DeviceError, EdgerunError
from edgerun.ops import OPS
from edgerun.quantization import Quantization, clamp

NAMES = ("vnni", "avxvnni", "usdot", "udot", "dp4a", "khr", "arm", "madd", "float", "plain")
# Those with an instruction for four products, and what a CPU, in the words of Linux, or a driver
# must have for them.
CPU_FLAGS = {"vnni": ("avx512_vnni", "avx512vl"), "avxvnni": ("avx_vnni",), "usdot": ("i8mm",),
             "udot": ("asimddp",)}
# Assembly that counts bits in lanes, see kernels/popcount.cl; likewise.
COUNT_FLAGS = ("avx512_vpopcntdq", "avx512vl")
EXTENSIONS = {"khr": "cl_khr_integer_dot_product",
              "arm": "cl_arm_integer_dot_product_accumulate_int8"}
INSTRUCTIONS = (*CPU_FLAGS, "dp4a", *EXTENSIONS)
SIDE, CHANNELS, TAPS = 28, 64, 3  # of the convolution: 29 million products
RUNS = 5
MAGIC = b"EDGEDOT1"

_measured: dict[tuple, int | None] = {}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str = "rows"
    quantization: Quantization | None = None
    pitch: int = 0


@dataclass(frozen=True)
class _Op:
    code: str
    name: str
    inputs: list[_Tensor | None]
    outputs: list[_Tensor]
    options: dict[str, Any]


def _flags() -> set[str]:
    """Return the features of the CPU as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines
                 if line.startswith(("flags", "Features"))), set())


def _takes(info, flags: tuple[str, ...]) -> bool:
    """Whether a device takes assembly, which only PoCL does, and its CPU has some features."""
    return (drivers.POCL in info.platform and info.kind == "cpu"
            and _flags().issuperset(flags))


def quirks(info) -> frozenset[str]:
    """Return for the DeviceInfo of a device its Facts.quirks: "vpopcnt" if it counts bits in lanes
    by an instruction."""
    return frozenset({"vpopcnt"} if _takes(info, COUNT_FLAGS) else ())


def offers(device, name: str) -> bool:
    """Whether an opened Device claims to have the way to sum called `name`."""
    if name in CPU_FLAGS:
        return (_takes(device.info, CPU_FLAGS[name])
                and (name != "avxvnni" or device.facts.lanes <= 8))
    if name in EXTENSIONS:
        return EXTENSIONS[name] in device.device.extensions.split()
    if name == "madd":  # llvmpipe's compiler ends the process
        return device.info.kind == "cpu" and device.info.platform != "rusticl"
    if name == "dp4a":
        return device.info.kind == "gpu" and any(
            maker in device.device.vendor for maker in ("NVIDIA", "Intel"))
    return name in NAMES


class _Convolution:
    """A 3x3 convolution of random integers, its result, and its operands in one buffer.

    Attributes:
        op: conv2d of x [1, SIDE, SIDE, CHANNELS] uint8 to as many channels.
        operands: bytes of all tensors but the output, one after the other.
        offsets: name of a tensor -> where it begins in them.
        expected: uint8 [SIDE, SIDE, CHANNELS].
    """

    def __init__(self):
        rng = np.random.default_rng(0)
        zero, shift = 128, 45
        x = rng.integers(0, 256, (SIDE, SIDE, CHANNELS), np.uint8)
        # [block][taps][taps][words][16][4], see Layout.oc16x4 in the schema
        blocks = rng.integers(-128, 128, (CHANNELS // 16, TAPS, TAPS, CHANNELS // 4, 16, 4),
                              np.int8)
        bias = rng.integers(-10**6, 10**6, CHANNELS, np.int32)
        m0 = rng.integers(2**30, 2**31 - 1, CHANNELS, np.int32)
        arrays = {"x": x, "w": blocks, "bias": bias, "zeros": np.full(CHANNELS, zero, np.uint8),
                  "m0": m0, "t": np.full(CHANNELS, shift, np.int8)}
        self.operands, self.offsets = bytearray(), {}
        for name, array in arrays.items():
            self.offsets[name] = len(self.operands)
            self.operands += array.tobytes() + bytes(-array.nbytes % 64 + 64)
        one = Quantization.per_tensor(1.0, zero)
        shape = (1, SIDE, SIDE, CHANNELS)
        tensors = {name: _Tensor(name, array.shape, array.dtype.name)
                   for name, array in arrays.items()}
        tensors["x"] = _Tensor("x", shape, "uint8", quantization=one)
        tensors["w"] = _Tensor("w", (CHANNELS, TAPS, TAPS, CHANNELS), "int8", "oc16x4",
                               Quantization.per_tensor(1.0))
        self.op = _Op("conv2d", "probe", [tensors["x"], tensors["w"], tensors["bias"], None,
                                          tensors["zeros"], tensors["m0"], tensors["t"]],
                      [_Tensor("y", shape, "uint8", quantization=one)],
                      {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1,
                       "pad_top": 1, "pad_left": 1, "pad_bottom": 1, "pad_right": 1, "groups": 1,
                       "activation": "", "alpha": 0.0, "beta": 0.0, "wide": False})
        # fp64 holds the sums exactly, and multiplies matrices fast.
        w = blocks.transpose(1, 2, 3, 5, 0, 4).reshape(-1, CHANNELS).astype(np.float64)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=zero)
        patches = np.lib.stride_tricks.sliding_window_view(padded, (TAPS, TAPS), (0, 1))
        rows = patches.transpose(0, 1, 3, 4, 2).reshape(SIDE * SIDE, -1).astype(np.float64)
        sums = (rows @ w).astype(np.int64) + bias
        steps = (sums * m0 + (1 << shift - 1) >> shift) + zero
        self.expected = np.clip(steps, *clamp(one, "uint8")).astype(np.uint8).reshape(
            SIDE, SIDE, CHANNELS)


def _run(device, name: str, work: _Convolution) -> int | None:
    """Return the fastest of RUNS runs in nanoseconds; None if it does not build or is wrong."""
    cl, queue = device.cl, device.queue
    launch, = OPS["conv2d"].prepare(work.op, dataclasses.replace(device.facts, dot=name))
    flags, found, buffers = cl.mem_flags, np.zeros_like(work.expected), []
    try:
        kernel = cl.Kernel(device.programs.get(launch.family, launch.defines), launch.kernel)
        buffers = [cl.Buffer(device.context, flags.READ_WRITE | flags.COPY_HOST_PTR,
                             hostbuf=bytes(work.operands)),
                   cl.Buffer(device.context, flags.READ_WRITE, found.nbytes)]
        args: list[object] = []
        for arg in launch.args:
            if isinstance(arg, _Tensor):
                args += [buffers[arg.name == "y"], np.uint32(work.offsets.get(arg.name, 0))]
            else:
                args.append(arg)
        kernel.set_args(*args)
        times = []
        for _ in range(RUNS + 1):  # the first one may still compile
            started = time.perf_counter_ns()
            cl.enqueue_nd_range_kernel(queue, kernel, launch.global_size, launch.local_size)
            queue.finish()
            times.append(time.perf_counter_ns() - started)
        cl.enqueue_copy(queue, found, buffers[1])
    except (DeviceError, cl.Error):
        return None  # the compiler or the device refuses it
    finally:
        for buffer in buffers:
            buffer.release()
    return min(times[1:]) if np.array_equal(found, work.expected) else None


def _measure(device, names: tuple[str, ...]) -> dict[str, int | None]:
    """Return the times of some ways; each is measured once per process."""
    on = device.device
    who, work = (on.platform.name, on.name, on.driver_version), None
    for name in names:
        if (*who, name) not in _measured:
            work = work or _Convolution()
            _measured[*who, name] = _run(device, name, work)
    return {name: _measured[*who, name] for name in names}


def has(device, name: str) -> bool:
    """Whether an opened Device can sum in the way called `name`, and does it right."""
    return offers(device, name) and _measure(device, (name,))[name] is not None


def measure(device) -> dict[str, int]:
    """Return the nanoseconds that ways to sum take on an opened Device, for the ways it has.

    Where an instruction beats multiply-adds in fp32, which anything emulated does not, the
    remaining ways are not tried: each has to be compiled.
    """
    first = tuple(name for name in INSTRUCTIONS if offers(device, name))
    found = _measure(device, (*first, "float"))
    best = min((ns for name, ns in found.items() if name in first and ns is not None), default=None)
    if best is None or found["float"] is None or best > found["float"]:
        found |= _measure(device, tuple(n for n in NAMES if n not in found and offers(device, n)))
    return {name: ns for name, ns in found.items() if ns is not None}


def choose(device) -> str:
    """Return the fastest way of an opened Device, as measured now or on an earlier start.

    Raises:
        DeviceError: EDGERUN_DOT names a way that the device does not have, or it has none that is
            right.
    """
    wanted = os.environ.get("EDGERUN_DOT")
    if wanted:
        if not has(device, wanted):
            raise DeviceError(f"EDGERUN_DOT: {device.info.name} has no way to sum called "
                              f"{wanted!r}, needed one of "
                              f"{', '.join(name for name in NAMES if has(device, name))}")
        return wanted
    path, key = _entry(device)
    times = _load(path, key)
    if times is None:
        times = measure(device)
        if not times:
            raise DeviceError(f"{device.info.name}: sums of products of integers are wrong in "
                              "every way to compute them")
        _store(path, key, times)
    return min(times, key=times.__getitem__)


def _entry(device) -> tuple[Path | None, bytes]:
    """Return the file of the answer, None without a cache, and its key."""
    from edgerun.programs import cache_folder, source  # imports pyopencl
    on = device.device
    offered = [name for name in NAMES if offers(device, name)]
    what = [on.name, on.vendor, on.version, on.driver_version, on.platform.name,
            on.platform.version, *offered, source("conv_integer", {})]
    key = hashlib.sha256("\0".join(what).encode()).digest()
    directory = cache_folder()
    return (directory / f"{key.hex()}.dot" if directory else None), key


def _load(path: Path | None, key: bytes) -> dict[str, int] | None:
    try:
        payload = path.read_bytes() if path else b""
    except OSError:
        return None
    head, text = len(MAGIC) + len(key), payload[len(MAGIC) + len(key) + 32:]
    if payload[:head] != MAGIC + key or payload[head:head + 32] != hashlib.sha256(text).digest():
        return None  # none, or damaged
    import json  # late: models of real numbers start without it
    return json.loads(text)


def _store(path: Path | None, key: bytes, times: dict[str, int]) -> None:
    import json
    text = json.dumps(times).encode()
    try:
        if path:
            from edgerun.files import replacing
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(MAGIC + key + hashlib.sha256(text).digest() + text)
    except (OSError, EdgerunError):
        return  # no room or no right to write: the next start measures again
