"""Run ops whose tensors lie between memory that nobody may read or write.

python -m tests.guard_page DEVICE DOT [forms]: a kernel that touches a byte outside its tensors,
which a device that works in place on the caller's memory does, kills the process. Without `forms`:
integer convolutions of few channels; with it: every form of tests/integer_ops.py. Run by
tests/ops/test_int_conv.py and tests/test_hostile_integers.py.
"""
from __future__ import annotations

import ctypes
import dataclasses
import mmap
import sys

import numpy as np

from edgerun import dtypes
from edgerun.device import Device
from edgerun.memory import SLACK
from edgerun.ops import OPS, Scratch
from edgerun.quantization import Quantization
from edgerun.tools import layout
from edgerun.tools.graph import Graph, Op
from tests import integer_ops

PAGE = mmap.PAGESIZE


def between_guards(values: np.ndarray, at_end: bool) -> tuple[object, np.ndarray, int]:
    """Return (what keeps the memory, its pages, where `values` are in them), a page that nobody may
    touch on either side of the pages.

    Args:
        values: uint8 [bytes].
        at_end: their last byte is the last of the pages; else their first byte is the first.
    """
    length = -(-len(values) // PAGE) * PAGE
    memory = mmap.mmap(-1, length + 2 * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    pages = whole[PAGE:PAGE + length]
    start = length - len(values) if at_end else 0
    pages[start:start + len(values)] = values
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (0, PAGE + length):
        if libc.mprotect(ctypes.c_void_p(whole.ctypes.data + guard), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return memory, pages, start


def run(device: Device, graph: Graph, op: Op, at_end: bool = True) -> None:
    """Launch an op of a graph, each of its tensors between guards; what is no constant is all 1."""
    cl = device.cl
    layout.apply(graph)
    kept, places = [], {}

    def place(key: object, values: np.ndarray) -> list:
        if key not in places:
            memory, pages, start = between_guards(values, at_end)
            flags = cl.mem_flags.READ_WRITE | cl.mem_flags.USE_HOST_PTR
            places[key] = cl.Buffer(device.context, flags, hostbuf=pages), start
            kept.append(memory)
        return list(places[key])

    for launch in OPS[op.code].prepare(op, device.facts_for(op)):
        args: list[object] = []
        for arg in launch.args:
            if isinstance(arg, Scratch):
                buffer, start = place("scratch", np.zeros(OPS[op.code].scratch(op), np.uint8))
                args += [buffer, np.uint32(start + arg.at)]
            elif hasattr(arg, "layout"):
                if arg.constant:
                    values = arg.data.reshape(-1).view(np.uint8)
                else:
                    values = np.ones(arg.shape, dtypes.numpy_dtype(arg.dtype))
                    values = values.reshape(-1).view(np.uint8)
                if arg.layout != "rows":  # weights may be loaded as whole vectors
                    values = np.pad(values, (0, SLACK))
                buffer, start = place(id(arg), values)
                args += [buffer, np.uint32(start)]
            else:
                args.append(arg)
        kernel = device.kernel(launch.family, launch.kernel, launch.defines)
        kernel(device.queue, launch.global_size, launch.local_size, *args)
        device.queue.finish()


def convolution(x_dtype: str, w_dtype: str, in_c: int, wide: bool = False) -> tuple[Graph, Op]:
    """Return one conv2d whose weights are all ones."""
    graph = Graph()
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
    return graph, op


def convolutions(device: Device) -> None:
    """Run every form with channels that do not fill whole words."""
    dot = device.facts.dot
    for in_c in (1, 3, 5):
        run(device, *convolution("uint8", "int8", in_c))
        if dot in ("plain", "vnni"):
            run(device, *convolution("int16", "int8", in_c))
            run(device, *convolution("int16", "int16", in_c))
            run(device, *convolution("int16", "int16", in_c, wide=True))
    for w_dtype in ("int8", "int16") if dot == "plain" else ():
        run(device, *convolution("fp32", w_dtype, 3))


def forms(device: Device) -> None:
    """Run every form, its tensors at the end of their pages, then at the start."""
    for name, form in integer_ops.FORMS.items():
        for at_end in (True, False):
            print(name, "at the end" if at_end else "at the start", flush=True)
            graph = Graph()
            run(device, graph, integer_ops.add(graph, form), at_end)


def main(words: str, dot: str, what: str = "convolutions") -> None:
    """Open a device that sums in the way `dot`, and run all of a kind."""
    device = Device(words)
    device.facts = dataclasses.replace(device.facts, dot=dot)
    forms(device) if what == "forms" else convolutions(device)
    print("done")


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  makes the loader see all drivers
    main(*sys.argv[1:])
