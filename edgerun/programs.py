"""Build OpenCL programs, and keep their binaries on disk.

A cache entry is a magic word, the SHA-256 of its key, the SHA-256 of the binary, the binary.
Anything that does not match is ignored and rebuilt; a broken cache never breaks a run. Binaries are
code that the driver trusts, so the folder is private to the user and nothing is ever read from a
model file.
"""
from __future__ import annotations

import atexit
import functools
import hashlib
import os
import re
import tempfile
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path

import pyopencl as cl

from edgerun import drivers
from edgerun._paths import folder
from edgerun.errors import DeviceError

MAGIC = b"EDGEBIN1"
PIECE = 1 << 16  # characters
BASE_OPTIONS = ["-cl-mad-enable"]
_INCLUDE = re.compile(r'#include "(\w+\.cl)"')
_DEFINE = re.compile(r"[A-Za-z_]\w*(\(x\))?")
# PoCL compiles every kernel again, for any size of work-group, when it is asked for the binary of a
# program that it built from source: that takes longer than building it. Until it is asked, its own
# cache makes the second start ten times as fast as the first.
SLOW_TO_ASK = drivers.POCL


def cache_folder() -> Path | None:
    """Return where binaries are kept: EDGERUN_CACHE_DIR, else ~/.cache/edgerun.

    None if EDGERUN_CACHE_DIR is "0", or if the user has no home folder.
    """
    chosen = os.environ.get("EDGERUN_CACHE_DIR")
    if chosen == "0":
        return None
    if chosen:
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgerun"
    except RuntimeError:  # a user id without an entry in the password file, as in containers
        return None


def options_of(defines: dict) -> list[str]:
    """Return the build options of a program: OpenCL C 1.2, unless it uses what came later."""
    return [f"-cl-std={'CL3.0' if 'DOT_KHR' in defines else 'CL1.2'}", *BASE_OPTIONS]


def source(family: str, defines: dict) -> str:
    """Return the text of a program: defines, common.cl, kernels/<family>.cl, with real file names;
    ktanh.cl before the last, if KTANH is defined.

    An #include of another kernel file is replaced by its text: drivers get no path to look in.

    Defines go into the text, not into the options, because drivers differ in how they read
    parentheses and spaces there.
    """
    assert all(_DEFINE.fullmatch(name) for name in defines), defines
    lines = [f"#define {name} {value}" for name, value in sorted(defines.items())]
    files = folder("kernels")
    shared = ["common.cl", "ktanh.cl"] if "KTANH" in defines else ["common.cl"]
    return "\n".join([*lines, *(_text(files, name) for name in (*shared, f"{family}.cl"))])


@functools.cache
def _text(files: Path, name: str) -> str:
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((files / name).read_text(encoding="utf-8").splitlines(), 1):
        included = _INCLUDE.fullmatch(line)
        if included:
            lines += [_text(files, included[1]), f'#line {number + 1} "{name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


_living: weakref.WeakSet[Programs] = weakref.WeakSet()


@atexit.register
def _store_at_exit() -> None:
    for programs in _living:
        programs.store(closing=True)


class Programs:
    """The programs of one context and device; `built` and `cached` count how they came.

    They are built in turn. PoCL and the Intel CPU runtime hold a lock while they compile, so that
    threads, measured on two cores, took as long.
    """

    def __init__(self, context: cl.Context, device: cl.Device):
        self.context = context
        self.device = device
        self.built = 0
        self.cached = 0
        self._programs: dict[str, cl.Program] = {}
        self._keys: dict[tuple, str] = {}
        self._unstored: set[str] = set()
        self._binary_bytes: dict[str, int] = {}
        platform = device.platform
        self._identity = "\n".join([
            device.name, device.vendor, device.version, device.driver_version, platform.name,
            platform.version])
        self._slow_to_ask = platform.name.strip() == SLOW_TO_ASK
        _living.add(self)

    def get(self, family: str, defines: dict, text: str | None = None) -> cl.Program:
        """Return the program of a kernel family, from memory, from disk or newly built.

        Args:
            family: kernels/<family>.cl.
            defines: macro name -> value.
            text: of the program, where it is another one than that of source().

        Raises:
            DeviceError: the compiler refused it; the message holds the head of its log.
        """
        what = (folder("kernels"), family, *sorted(defines.items()))
        key = self._keys.get(what) if text is None else None
        if key is None or key not in self._programs:
            own, options = text is None, options_of(defines)
            text = source(family, defines) if own else text
            digest = hashlib.sha256("\0".join([self._identity, *options, ""]).encode())
            for at in range(0, len(text), PIECE):  # the text of a chain is a megabyte: copy parts
                digest.update(text[at:at + PIECE].encode())
            key = digest.hexdigest()
            if own:
                self._keys[what] = key
        if key not in self._programs:
            self._programs[key] = (self._from_disk(key, options)
                                   or self._build(key, family, defines, text, options))
        return self._programs[key]

    def __len__(self) -> int:
        return len(self._programs)

    def keep_only(self, kernels: Iterable[cl.Kernel]) -> None:
        """Forget every program but those of some kernels; a tuner builds many that nobody needs."""
        kept = {kernel.get_info(cl.kernel_info.PROGRAM).int_ptr for kernel in kernels}
        self._programs = {key: program for key, program in self._programs.items()
                          if program.int_ptr in kept}

    def binary_bytes(self) -> int:
        """Return the size of the binaries that were read or stored; a driver need not tell any."""
        return sum(self._binary_bytes.get(key, 0) for key in self._programs)

    def store(self, closing: bool = False) -> None:
        """Write the binaries of new programs; called after kernels exist, which Mali needs.

        Args:
            closing: whether nobody waits for a result any more. Before, nothing is stored where
                that takes long, see SLOW_TO_ASK.
        """
        if not self._unstored or self._slow_to_ask and not closing:
            return
        directory = cache_folder()
        if directory is None:
            return
        waiting, self._unstored = self._unstored.intersection(self._programs), set()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for key in waiting:
                path = directory / f"{key}.bin"
                if not path.exists():
                    self._write(path, key, self._programs[key])
        except OSError:
            return  # no room or no right to write: the next start builds again

    def _write(self, path: Path, key: str, program: cl.Program) -> None:
        try:
            binary = program.get_info(cl.program_info.BINARIES)[0]
        except cl.Error:
            return
        if not binary:
            return
        self._binary_bytes[key] = len(binary)
        payload = MAGIC + bytes.fromhex(key) + hashlib.sha256(binary).digest() + binary
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
            os.replace(temporary, path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _from_disk(self, key: str, options: list[str]) -> cl.Program | None:
        directory = cache_folder()
        if directory is None:
            return None
        path = directory / f"{key}.bin"
        try:
            payload = path.read_bytes()
        except OSError:
            return None
        head = len(MAGIC) + 32
        binary = payload[head + 32:]
        if (payload[:head] != MAGIC + bytes.fromhex(key)
                or payload[head:head + 32] != hashlib.sha256(binary).digest()):
            self._discard(path)
            return None
        try:
            program = self._compile(cl.Program(self.context, [self.device], [binary]), options)
        except cl.Error:
            self._discard(path)
            return None
        self.cached += 1
        self._binary_bytes[key] = len(binary)
        return program

    def _compile(self, program: cl.Program, options: list[str]) -> cl.Program:
        with warnings.catch_warnings():  # some drivers always print to the log
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return program.build(options, devices=[self.device], cache_dir=False)

    @staticmethod
    def _discard(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return

    def _build(self, key: str, family: str, defines: dict, text: str,
               options: list[str]) -> cl.Program:
        try:
            program = self._compile(cl.Program(self.context, text), options)
        except cl.Error as error:
            raise DeviceError(
                f"kernels/{family}.cl with {defines}: {self.device.name.strip()} cannot build it: "
                f"{_log(error)}") from None
        self.built += 1
        self._unstored.add(key)
        return program


def _log(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines
    return " | ".join(telling[:4])[:1200]
