"""Run integer convolutions on an image that ends where readable memory ends.

python -m tests.guard_page DEVICE DOT: a kernel that reads a byte behind the image, which a device
that works in place on the caller's memory does, kills the process. Run by tests/ops/test_int_conv.
"""
from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys

import numpy as np

from edgerun import dtypes
from edgerun.device import Device
from edgerun.ops import OPS
from edgerun.quantization import Quantization
from edgerun.tools import layout
from edgerun.tools.graph import Graph

PAGE = mmap.PAGESIZE


def at_the_end(array: np.ndarray) -> tuple[mmap.mmap, np.ndarray]:
    """Return a copy whose last byte is the last of a page, in front of one nobody may read."""
    memory = mmap.mmap(-1, 2 * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    page = whole[:PAGE]
    page[PAGE - array.nbytes:] = array.reshape(-1).view(np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(whole.ctypes.data + PAGE), PAGE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return memory, page


def run(device: Device, x_dtype: str, w_dtype: str, in_c: int, wide: bool = False) -> None:
    """Run one conv2d whose weights and image are all ones."""
    cl, graph = device.cl, Graph()
    x = graph.input("x", (1, 3, 4, in_c), x_dtype)
    one = Quantization.per_tensor(1)
    w = graph.constant(np.ones((18, 2, 2, in_c)), "w", w_dtype, quantization=one)
    if x_dtype in dtypes.FLOAT:
        inputs = [x, w, None, None, None, graph.constant(np.ones(18, np.float32))]
    else:
        x.quantization = one
        inputs = [x, w, None, None, None, graph.constant(np.full(18, 2**30, np.int32)),
                  graph.constant(np.full(18, 31, np.int8))]
    op = graph.insert(0, "conv2d", inputs, "y", pad_top=1, **({"wide": True} if wide else {}))
    op.outputs[0].quantization = None if x_dtype in dtypes.FLOAT else one
    layout.apply(graph)
    memory, page = at_the_end(np.ones(x.shape, dtypes.numpy_dtype(x_dtype)))
    flags, keep = cl.mem_flags, [memory]
    for launch in OPS["conv2d"].prepare(op, device.facts_for(op)):
        args: list[object] = []
        for arg in launch.args:
            if arg is x:
                args += [cl.Buffer(device.context, flags.READ_ONLY | flags.USE_HOST_PTR,
                                   hostbuf=page), np.uint32(PAGE - x.bytes)]
            elif hasattr(arg, "layout"):
                room = np.zeros(arg.bytes + 64, np.uint8)
                if arg.constant:
                    room[:arg.bytes] = arg.data.reshape(-1).view(np.uint8)
                args += [cl.Buffer(device.context, flags.READ_WRITE | flags.COPY_HOST_PTR,
                                   hostbuf=room), np.uint32(0)]
            else:
                args.append(arg)
        kernel = device.kernel(launch.family, launch.kernel, launch.defines)
        kernel(device.queue, launch.global_size, launch.local_size, *args)
        keep.append(args)
        device.queue.finish()


def main(words: str, dot: str) -> None:
    """Run every form with channels that do not fill whole words."""
    device = Device(words)
    device.facts = dataclasses.replace(device.facts, dot=dot)
    for in_c in (1, 3, 5):
        run(device, "uint8", "int8", in_c)
        if dot in ("plain", "vnni"):
            run(device, "int16", "int8", in_c)
            run(device, "int16", "int16", in_c)
            run(device, "int16", "int16", in_c, wide=True)
    for w_dtype in ("int8", "int16") if dot == "plain" else ():
        run(device, "fp32", w_dtype, 3)
    print("done")


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  makes the loader see all drivers
    main(*sys.argv[1:])
