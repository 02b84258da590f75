"""Compile the programs of models for Intel GPUs that are not here.

    python -m edgerun.tools.offline model.edge photo.tflite net.onnx    # models and model files
    python -m edgerun.tools.offline --network resnet18 --precision int8 --size 64
    python -m edgerun.tools.offline model.edge --target skl --target dg2 --json

For every target the ops of the models are asked for the programs that they build there, and Intel's
offline compiler, `ocloc` (Debian: apt install intel-opencl-icd), compiles each with the options of
the runtime. What it tells of the machine code is reported: work-items per thread (SIMD width), the
bytes of a thread's registers that are spilled to memory, those of its private arrays, and whether
the compiler had to start again with fewer optimizations because its first result spilled. No device
is needed, except to calibrate a network for int8 or int16.

Exit status: 0 every program compiles, 1 one does not or an argument is wrong, 2 usage.
"""
from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgerun import loader, text
from edgerun.errors import DeviceError, EdgerunError
from edgerun.model import Model
from edgerun.ops import OPS, Facts
from edgerun.programs import options_of, source

INSTALL = "apt install intel-opencl-icd (Debian), or the compute runtime of Intel"
# Ask for the binary format whose description is text; the machine code is the same.
FORMAT = "-ze-allow-zebin"
LIMIT_S = 300
SYMBOLS = "Intel_Symbol_Table_Void_Program"  # no kernel: what calls need to find functions
AGAIN = re.compile(r"_1_simd\d+_")


def _gpu(dot: str, units: int) -> Facts:
    return Facts(kind="gpu", lanes=4, compute_units=units, max_work_group=256, dot=dot)


# Name of a target of ocloc -> what edgerun knows of such a device; where several ways to sum
# products are possible, the driver decides which is found to be fastest.
TARGETS = {
    "skl": (_gpu("plain", 24),),
    "icllp": (_gpu("plain", 64),),
    "tgllp": (_gpu("dp4a", 96), _gpu("khr", 96)),
    "adl-p": (_gpu("dp4a", 96), _gpu("khr", 96)),
    "dg2": (_gpu("dp4a", 512), _gpu("khr", 512)),
}


@dataclass(frozen=True, order=True)
class Program:
    """A program as the runtime builds it: kernels/<family>.cl and its macros."""
    family: str
    defines: tuple[tuple[str, str], ...]

    @property
    def source(self) -> str:
        """The text that is compiled."""
        return source(self.family, dict(self.defines))

    @property
    def options(self) -> list[str]:
        """The options it is compiled with."""
        return options_of(dict(self.defines))

    def __str__(self) -> str:
        return " ".join([self.family, *(name if value == "1" else f"{name}={value}"
                                        for name, value in self.defines)])


@dataclass(frozen=True)
class Kernel:
    """Machine code of a kernel.

    Attributes:
        name: function.
        simd: work-items that a thread computes at once: 8, 16 or 32.
        instructions: of the machine code.
        spill_bytes: registers of a thread that are kept in memory in between.
        private_bytes: arrays of a thread, in memory.
        again: the first result spilled; this one was made with fewer optimizations.
    """
    name: str
    simd: int
    instructions: int
    spill_bytes: int
    private_bytes: int
    again: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one program on one target; `error` is "" if it compiles."""
    program: Program
    target: str
    error: str = ""
    binary_bytes: int = 0
    kernels: tuple[Kernel, ...] = ()


def programs_of(model: Model, facts: Facts) -> set[Program]:
    """Return the distinct programs that a model builds on a device."""
    found = set()
    for op in model.ops:
        for launch in OPS[op.code].prepare(op, facts):
            defines = ((name, str(value)) for name, value in launch.defines.items())
            found.add(Program(launch.family, tuple(sorted(defines))))
    return found


def compiler() -> str:
    """Return the path of ocloc.

    Raises:
        DeviceError: it is not installed.
    """
    path = shutil.which("ocloc")
    if path is None:
        raise DeviceError(f"ocloc, Intel's offline compiler, is not found: {INSTALL}")
    return path


def compile_all(models: Iterable[Model], targets: Sequence[str], jobs: int = 2) -> list[Outcome]:
    """Compile every program of some models for some targets.

    Args:
        models: from the loader.
        targets: keys of TARGETS.
        jobs: compilers that run at once.

    Returns:
        One Outcome per program and target, sorted by program.

    Raises:
        DeviceError: there is no compiler.
    """
    models, ocloc = list(models), compiler()
    work = sorted({(program, target) for target in targets for facts in TARGETS[target]
                   for model in models for program in programs_of(model, facts)})
    with tempfile.TemporaryDirectory(prefix="edgerun-ocloc-") as folder, \
            ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda job: _compile(ocloc, Path(folder), *job), work))


def _compile(ocloc: str, folder: Path, program: Program, target: str) -> Outcome:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        Path(place, "program.cl").write_text(program.source)
        command = [ocloc, "compile", "-file", "program.cl", "-device", target, "-output", "program",
                   "-output_no_suffix", "-options", " ".join(program.options), "-internal_options",
                   FORMAT]
        dumps = {"IGC_ShaderDumpEnable": "1", "IGC_DumpToCustomDir": str(Path(place, "dump"))}
        try:
            done = subprocess.run(command, cwd=place, env={**os.environ, **dumps}, text=True,
                                  capture_output=True, errors="replace", timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            return Outcome(program, target, f"the compiler ran for more than {LIMIT_S} s")
        binary = next((path for path in (Path(place, "program"), Path(place, "program.bin"))
                       if path.exists()), None)
        if done.returncode != 0 or binary is None:
            return Outcome(program, target, _error(done.stdout + done.stderr, done.returncode))
        data = binary.read_bytes()
        listings = {path.name: path.read_text(errors="replace")
                    for path in sorted(Path(place, "dump").rglob("*.asm"))}
    try:
        sections = elf_sections(data)
        missing = undefined(sections)
        kernels = tuple(_described(*kernel, listings)
                        for kernel in kernels_of(sections[".ze_info"].decode()))
    except (KeyError, ValueError, struct.error) as error:
        return Outcome(program, target, f"the binary cannot be read: {error!r}", len(data))
    error = f"the compiler does not know {', '.join(missing)}" if missing else ""
    return Outcome(program, target, error, len(data), kernels)


def _error(log: str, status: int) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines
    return " | ".join(telling[:3]) or f"the compiler ended with status {status}"


def elf_sections(data: bytes) -> dict[str, bytes]:
    """Return the contents of the sections of a 64-bit ELF file by name.

    Raises:
        ValueError, struct.error: it is no such file.
    """
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF file")
    start, = struct.unpack_from("<Q", data, 40)
    size, count, names_at = struct.unpack_from("<3H", data, 58)
    headers = [struct.unpack_from("<2I4Q", data, start + i * size) for i in range(count)]
    contents = [data[at:at + length] for _, _, _, _, at, length in headers]
    names = contents[names_at]
    return {names[header[0]:names.index(b"\0", header[0])].decode(): content
            for header, content in zip(headers, contents)}


def undefined(sections: dict[str, bytes]) -> list[str]:
    """Return the functions that are called but are nowhere: unknown to the compiler's library."""
    names, symbols = sections.get(".strtab", b""), sections.get(".symtab", b"")
    found = set()
    for name_at, _, _, section, _, _ in struct.iter_unpack("<I2BH2Q", symbols):
        name = names[name_at:names.index(b"\0", name_at)].decode() if name_at else ""
        if section == 0 and name:
            found.add(name)
    return sorted(found)


def kernels_of(info: str) -> list[tuple[str, int, int]]:
    """Return (name, SIMD width, bytes of private arrays of a thread that are in global memory) of
    the kernels in a section .ze_info, which is a simple YAML.

    Raises:
        ValueError: a kernel has no SIMD width.
    """
    found = []
    listed = info.partition("\nkernels:")[2].partition("\nkernels_misc_info:")[0]
    for part in re.split(r"\n  - name:", listed)[1:]:
        name = part.split("\n", 1)[0].strip()
        width = re.search(r"\n +simd_size: +(\d+)", part)
        if width is None:
            raise ValueError(f"kernel {name} has no SIMD width")
        private = re.search(r"usage: +private_space\n +size: +(\d+)", part)  # of a work-item
        if name != SYMBOLS:
            found.append((name, int(width[1]), int(private[1]) * int(width[1]) if private else 0))
    return found


def _described(name: str, simd: int, private_bytes: int, listings: dict[str, str]) -> Kernel:
    """Return a kernel with what its listing tells; there is one per width and attempt.

    Raises:
        ValueError: there is no listing.
    """
    own = [file for file, listing in listings.items()
           if f"//.kernel {name}\n" in listing and f"_simd{simd}_" in file]
    if not own:
        raise ValueError(f"kernel {name} has no listing")
    # Files of the second attempt are called ..._1_simd8_..., those of the first ..._simd8_...
    last = max(own, key=lambda file: bool(AGAIN.search(file)))

    def number(title: str) -> int:
        match = re.search(rf"^//\.{title} (\d+)$", listings[last], re.MULTILINE)
        return int(match[1]) if match else 0

    return Kernel(name, simd, number("instCount"), number("spill size"),
                  max(private_bytes, number("private memory size")), bool(AGAIN.search(last)))


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a table: for every family of programs and target, what the compiler made of them."""
    rows = []
    for family, target in sorted({(o.program.family, o.target) for o in outcomes}):
        some = [o for o in outcomes if (o.program.family, o.target) == (family, target)]
        kernels = [kernel for o in some for kernel in o.kernels]
        wide = Counter(kernel.simd for kernel in kernels)
        rows.append((family, target, len(some), sum(bool(o.error) for o in some),
                     " ".join(f"{simd}:{n}" for simd, n in sorted(wide.items())),
                     sum(kernel.again for kernel in kernels),
                     sum(kernel.spill_bytes > 0 for kernel in kernels),
                     max((kernel.spill_bytes for kernel in kernels), default=0),
                     max((kernel.private_bytes for kernel in kernels), default=0),
                     max((kernel.instructions for kernel in kernels), default=0)))
    return text.table(("family", "target", "programs", "failed", "SIMD:kernels", "again", "spill",
                       "most bytes", "private", "instructions"), rows, left=(0, 1, 4))


def _document(outcomes: Sequence[Outcome]) -> list[dict]:
    return [{"family": o.program.family, "defines": dict(o.program.defines), "target": o.target,
             "error": o.error, "binary_bytes": o.binary_bytes,
             "kernels": [dataclasses.asdict(kernel) for kernel in o.kernels]} for o in outcomes]


def _read(path: str, precision: str, folder: str) -> Model:
    if Path(path).suffix == ".edge":
        return loader.read(path)
    from edgerun.tools.pack import pack
    out = Path(folder, "model.edge")
    pack(path, out, precision)
    return loader.read(out)


def _build(name: str, precision: str, size: int | None, folder: str) -> Model:
    from edgerun.tools import networks
    out = Path(folder, "network.edge")
    networks.write(name, out, precision, size)
    return loader.read(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edgerun.tools.offline", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*", help=".edge, .onnx or .tflite")
    parser.add_argument("--network", action="append", default=[], metavar="NAME",
                        help="of edgerun.tools.networks; repeatable")
    parser.add_argument("--size", type=int, help="height and width of the networks' images")
    parser.add_argument("--precision", action="append", metavar="P",
                        help="of models that are not packed, and of networks; repeatable; default: "
                             "source, for networks fp32")
    parser.add_argument("--target", action="append", choices=list(TARGETS),
                        help="repeatable; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true",
                        help="print one JSON document and nothing else")
    args = parser.parse_args(argv)
    if not args.models and not args.network:
        parser.error("name a MODEL or a --network")
    try:
        with tempfile.TemporaryDirectory() as folder:
            models = [_read(path, precision, folder) for path in args.models
                      for precision in (args.precision or ["source"])]
            models += [_build(name, precision, args.size, folder) for name in args.network
                       for precision in (args.precision or ["fp32"])]
        outcomes = compile_all(models, args.target or list(TARGETS), max(1, args.jobs))
    except EdgerunError as error:
        print(f"edgerun.tools.offline: {text.clean(error)}", file=sys.stderr)
        return 1
    failed = [o for o in outcomes if o.error]
    if args.json:
        print(text.json_text(_document(outcomes)))
    else:
        print("\n".join(summary(outcomes)))
        for o in failed:
            print(f"{o.target}: {text.clean(o.program)}: {text.clean(o.error)}")
        print(f"{len(outcomes) - len(failed)} of {len(outcomes)} compile")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
